"""A ComfyUI node that repaints with an sdxl-inpaint server: IMAGE, MASK and a prompt in, IMAGE out.

This one file in ComfyUI's ``custom_nodes`` is all of it; it needs only what ComfyUI has. Pixels that the
server does not touch keep their values, as floats.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import queue
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Callable
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

KEY_VARIABLE = "INPAINT_KEY"
_CLIENT = "sdxl-inpaint-comfyui"
_AHEAD = 4  # requests of a batch that are under way together; the server paints them in one batch
_TIMEOUT_S = 60.0  # without a byte; an event stream sends one at least every 15 seconds
_LOOK_S = 0.2  # between two looks at whether the user has pressed Cancel


class SDXLInpaint:
    """The node. A mask is 1 where it repaints, as everywhere in ComfyUI."""

    CATEGORY = "inpaint"
    DESCRIPTION = "Repaints the masked part with an sdxl-inpaint server (`inpaint serve`)."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "paint"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the node's inputs."""
        key = (
            f"Saved with the workflow and in its pictures; leave it empty to use the variable {KEY_VARIABLE}."
        )
        return {
            "required": {
                "image": ("IMAGE",),
                "mask": ("MASK",),
                "prompt": ("STRING", {"multiline": True, "default": ""}),
                "negative_prompt": ("STRING", {"multiline": True, "default": ""}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 999_999_999_999_000}),
                "steps": ("INT", {"default": 25, "min": 20, "max": 100}),
                "guidance": ("FLOAT", {"default": 7.5, "min": 1.0, "max": 25.0, "step": 0.1}),
                "strength": ("FLOAT", {"default": 0.9, "min": 0.05, "max": 0.99, "step": 0.01}),
                "url": ("STRING", {"default": "http://127.0.0.1:8000"}),
            },
            "optional": {
                "sampler": ("STRING", {"default": "", "tooltip": "Such as dpmpp_2m; the server's if empty."}),
                "samples": ("INT", {"default": 1, "min": 1, "max": 4, "tooltip": "Pictures for each image."}),
                "grow": ("INT", {"default": 8, "min": 0, "max": 256}),
                "feather": ("INT", {"default": 16, "min": 0, "max": 256}),
                "soft": ("BOOLEAN", {"default": False, "tooltip": "Read grey in the mask as strength."}),
                "key": ("STRING", {"default": "", "tooltip": key}),
            },
        }

    def paint(
        self, image: torch.Tensor, mask: torch.Tensor, url: str, key: str = "", **settings: Any
    ) -> tuple[torch.Tensor]:
        """Repaint each image where its mask is 1.

        Args:
            image: (B, H, W, C), 0..1; a fourth channel is kept as it is.
            mask: (H, W) or (B, h, w), 0..1; resized to the images if it has another size. One image with
                several masks, or one mask with several images, is used for each.
            url: of the server.
            key: for the server.
            settings: the node's other inputs, by their names.

        Returns:
            (B × samples, H, W, C), all samples of the first image first.

        Raises:
            ValueError: the images and masks do not fit together.
            RuntimeError: the server's one sentence, or one about the server.
        """
        pairs = _pairs(image, mask)
        server = _Server(url, key or os.environ.get(KEY_VARIABLE, ""))
        progress = _Progress(len(pairs))
        waiting = deque(enumerate(pairs))
        under_way: deque[_Request] = deque()
        painted: list[torch.Tensor] = []
        try:
            while waiting or under_way:
                while waiting and len(under_way) < _AHEAD:
                    number, (one, its_mask) = waiting.popleft()
                    under_way.append(_Request(server, one, its_mask, _fields(settings, number)))
                painted += under_way[0].result(progress)
                under_way.popleft()
        except BaseException:  # ComfyUI's Cancel is an exception as well
            for request in under_way:
                request.cancel()
            raise
        return (torch.stack(painted),)


NODE_CLASS_MAPPINGS = {"SDXLInpaint": SDXLInpaint}
NODE_DISPLAY_NAME_MAPPINGS = {"SDXLInpaint": "Inpaint (sdxl-inpaint server)"}


class _Request:
    """One image on its way."""

    def __init__(
        self, server: _Server, image: torch.Tensor, mask: torch.Tensor, fields: dict[str, Any]
    ) -> None:
        self._server, self._image = server, image.detach().cpu().float()
        self._sent = _bytes_of(self._image[..., :3])
        files = {"image": _png(self._sent), "mask": _png(_bytes_of(mask))}
        answer = server.json("request_id", "POST", "/v2/sdxl-inpaint", {**fields, **files})
        self._path = f"/v2/requests/{answer['request_id']}"

    def result(self, progress: _Progress) -> list[torch.Tensor]:
        """Wait for the pictures, and return them as tensors (H, W, C)."""
        for name, data in _interruptible(lambda: self._server.events(f"{self._path}/events")):
            if name == "step":
                progress.show(data["step"] / max(data["steps"], 1))
        answer = self._server.json("status", "GET", self._path)  # an error, if it failed
        if answer["status"] != "COMPLETED":
            raise RuntimeError(
                "The server stopped before the picture was finished; queue the workflow again."
            )
        progress.finish_one()
        numbers = range(len(answer["images"]))
        return [self._tensor(self._server.read("GET", f"{self._path}/images/{number}")) for number in numbers]

    def _tensor(self, file: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(file)) as picture:
            after = np.array(picture.convert("RGB"))
        changed = torch.from_numpy((after != self._sent).any(axis=-1, keepdims=True))
        colours = torch.from_numpy(after.astype(np.float32) / 255)
        painted = self._image.clone()
        painted[..., :3] = torch.where(changed, colours, painted[..., :3])
        return painted

    def cancel(self) -> None:
        """Tell the server that the picture is not wanted any more."""
        with suppress(RuntimeError):  # it ended, or the server did
            self._server.read("DELETE", self._path)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects that are not followed, since the key would be sent along to another host."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect."""


class _Server:
    """A server's ``/v2`` API; its errors are ``RuntimeError``, which ComfyUI shows at the node."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url.strip().rstrip("/"), key.strip()
        host = urlsplit(self._url).hostname
        if not (self._url.isascii() and self._url.startswith(("http://", "https://")) and host):
            raise RuntimeError(
                "url: must be the address of an sdxl-inpaint server, like http://127.0.0.1:8000"
            )
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if host in ("127.0.0.1", "localhost", "::1"):  # a proxy would look for it on its own machine
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def json(
        self, needed: str, method: str, path: str, fields: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the object in an answer, which has the key ``needed``; ``fields`` are sent as JSON."""
        try:
            found = json.loads(self.read(method, path, fields))
        except ValueError:
            found = None
        if not isinstance(found, dict) or needed not in found:
            raise RuntimeError(f"what answers at {self._url} is not an sdxl-inpaint server")
        return found

    def read(self, method: str, path: str, fields: dict[str, Any] | None = None) -> bytes:
        """Return the bytes of an answer."""
        return b"".join(self._lines(method, path, fields))

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name and the data of each server-sent event."""
        name = ""
        for line in self._lines("GET", path):
            field, _, value = line.decode().strip().partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)

    def _lines(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Iterator[bytes]:
        body = None if fields is None else json.dumps(fields).encode()
        headers = {"User-Agent": _CLIENT, "Content-Type": "application/json"}
        headers.update({"x-api-key": self._key} if self._key else {})
        try:
            request = urllib.request.Request(self._url + path, body, headers, method=method)  # noqa: S310 - checked
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                yield from response
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(self._refusal(error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise RuntimeError(
                f"there is no answer from {self._url} ({reason}); start the server with `inpaint serve`, or "
                "correct url"
            ) from error

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        try:
            return str(json.loads(error.read())["error"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return f"what answers at {self._url} is not an sdxl-inpaint server (HTTP {error.code})"


class _Progress:
    """ComfyUI's progress bar; outside ComfyUI, nothing."""

    def __init__(self, pictures: int) -> None:
        self._finished, self._pictures = 0, pictures
        try:
            from comfy.utils import ProgressBar
        except ImportError:
            self._bar = None
        else:
            self._bar = ProgressBar(100 * pictures)

    def show(self, part: float) -> None:
        """Show that ``part`` of the next picture, 0..1, is done."""
        if self._bar is not None:
            self._bar.update_absolute(round(100 * (self._finished + part)), 100 * self._pictures)

    def finish_one(self) -> None:
        """Count a picture that is done."""
        self._finished += 1
        self.show(0)


def _interruptible(start: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Yield what ``start()`` does, read in a thread, and look meanwhile whether Cancel was pressed."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        try:
            for event in start():
                found.put(event)
        except RuntimeError as error:
            found.put(error)
        finally:
            found.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        _throw_if_interrupted()
        try:
            event = found.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
        if event is None:
            return
        if isinstance(event, RuntimeError):
            raise event
        yield event


def _throw_if_interrupted() -> None:
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
    except ImportError:
        return
    throw_exception_if_processing_interrupted()


def _pairs(images: torch.Tensor, masks: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each image (H, W, C) with its mask (H, W)."""
    masks = masks.reshape(-1, 1, *masks.shape[-2:]).detach().float()
    count = max(len(images), len(masks))
    if not {len(images), len(masks)} <= {1, count}:
        raise ValueError(
            f"mask: {len(masks)} masks do not fit {len(images)} images; give one for each, or one"
        )
    size = tuple(images.shape[1:3])
    if tuple(masks.shape[-2:]) != size:
        masks = torch.nn.functional.interpolate(masks, size, mode="bilinear")
    repeated = images.expand(count, -1, -1, -1), masks[:, 0].expand(count, -1, -1)
    return list(zip(*repeated))


def _fields(settings: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the API's fields for one image of a batch; each of its pictures has a seed of its own."""
    names = {"steps": "num_inference_steps", "guidance": "guidance_scale", "sampler": "scheduler"}
    fields = {names.get(name, name): value for name, value in settings.items() if value not in (None, "")}
    fields["seed"] = settings["seed"] + number * settings.get("samples", 1)
    return {"prompt": "", **fields, "output_format": "png"}


def _bytes_of(pixels: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return 0..1 as 0..255, rounded: a value that came from a byte is that byte again."""
    return (pixels.detach().cpu().float() * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
