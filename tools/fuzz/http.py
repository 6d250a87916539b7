"""Requests to the HTTP application, in this process, with an engine that paints one colour."""

import asyncio
import base64
import io
import json
import random
import tempfile
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from tools.fuzz.mutations import bytes_changed, json_bytes, json_changed
from tools.fuzz.target import Target

_ROUTES = (
    "POST /v1/sdxl-inpaint", "POST /v2/sdxl-inpaint", "POST /v2/info", "GET /v2/sdxl-inpaint",
    "POST /v2/picture", "POST /v2/select", "POST /v2/erase", "POST /v2/requests/{id}/refine",
    "GET /v2/requests/{id}", "GET /v1/requests/{id}", "GET /v2/requests/{id}/status",
    "GET /v2/requests/{id}/images/0",
    "DELETE /v2/requests/{id}", "GET /v1/get-user-credits", "GET /openapi.json", "HEAD /", "GET /web/app.js",
    "GET /metrics", "GET /readyz", "OPTIONS /v1/sdxl-inpaint", "POST //v1/sdxl-inpaint",
    "PUT /v1/sdxl-inpaint",
    "POST /v1/images/edits", "POST /v1/images/generations", "GET /v1/models", "GET /v1/models/demo",
    "POST /sdapi/v1/img2img", "POST /sdapi/v1/txt2img", "POST /sdapi/v1/png-info", "POST /sdapi/v1/options",
    "GET /sdapi/v1/progress", "POST /sdapi/v1/interrupt", "POST /sdapi/v1/skip", "GET /sdapi/v1/loras",
    "POST /v2beta/stable-image/edit/inpaint", "POST /v2beta/stable-image/edit/erase",
    "POST /v2beta/stable-image/edit/outpaint",
)  # fmt: skip


class Service:
    """The application with its lifespan entered, on a loop of its own."""

    def __init__(self) -> None:
        from server.app import create_app
        from server.settings import Settings
        from tests.support.served import FakeEngine

        folder = Path(tempfile.mkdtemp(prefix="fuzz-http-"))
        (folder / "loras").mkdir()
        settings = Settings(
            data=folder,
            loras=folder / "loras",
            rate="1000000/second",
            cors_origins=("http://localhost:3000",),
            fetch_timeout_s=0.2,
        )
        self.app = create_app(settings, FakeEngine())
        self.loop = asyncio.new_event_loop()
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.loop.run_until_complete(self._lifespan.__aenter__())

    def close(self) -> None:
        """Leave the lifespan."""
        self.loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        self.loop.close()

    def ask(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, bytes]:
        """Send one request, and return the status and the body of its answer."""
        return self.loop.run_until_complete(self._ask(method, path, headers, body))

    async def _ask(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, bytes]:
        plain, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http",
            "path": plain, "raw_path": plain.encode("utf-8", "replace"),
            "query_string": query.encode("utf-8", "replace"),
            "root_path": "", "headers": headers, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000),
            "state": {},
        }  # fmt: skip
        status, answer, gone = 0, bytearray(), asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        application: Callable[..., Awaitable[None]] = self.app
        await asyncio.wait_for(application(scope, receive, send), 20)
        gone.set()
        return status, bytes(answer)


@cache
def service() -> Service:
    """Return the one service of this process."""
    return Service()


def one(data: bytes) -> str:
    """Send a request: a line with method and path, lines with headers, an empty line, a body."""
    from structlog.testing import capture_logs

    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, path = first.decode("utf-8", "replace").partition(" ")
    headers = [(b"host", b"127.0.0.1"), *_headers(lines)]
    if not method.isascii() or not path.startswith("/"):
        return "no request"
    with capture_logs() as logs:
        status, answer = service().ask(method, path.replace("\0", ""), headers, body)
    for entry in logs:
        if isinstance(bug := entry.get("exc_info"), BaseException):
            raise bug
    assert status, "no answer"
    if (
        status >= 400
        and status != 404
        and method != "HEAD"
        and method != "OPTIONS"
        and b"error" not in answer
    ):
        raise AssertionError(f"{status} without a sentence: {answer[:100]!r}")
    assert status != 500, answer[:300]
    return str(status)


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    pairs = (line.partition(b":") for line in lines if b":" in line)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs if name.strip()]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change the route, a header, or the JSON of the body."""
    head, _, body = data.partition(b"\n\n")
    kind = chance.randrange(8)
    if kind == 0:
        _, _, rest = head.partition(b"\n")
        head = chance.choice(_ROUTES).replace("{id}", "0" * 32).encode() + b"\n" + rest
    elif kind == 1:
        head += b"\n" + chance.choice(_HEADERS)
    elif kind == 2:
        head = bytes_changed(head, chance)
    else:
        body = _body_changed(body, chance)
    return head + b"\n\n" + body


def _body_changed(body: bytes, chance: random.Random) -> bytes:
    try:
        return json_bytes(json_changed(json.loads(body), chance))
    except (ValueError, RecursionError, OverflowError):
        return bytes_changed(body, chance)


_HEADERS = (
    b"content-type: application/json", b"content-type: multipart/form-data; boundary=XX", b"content-type:",
    b"content-type: application/json; charset=utf-16", b"content-encoding: gzip", b"idempotency-key: a",
    b"idempotency-key: \xff\xfe", b"origin: http://localhost:3000", b"origin: null", b"x-api-key: \xff",
    b"expect: x",
    b"authorization: Bearer x", b"authorization: Basic", b"content-length: 5", b"content-length: -1",
    b"range: bytes=0-",
    b"accept: text/html", b"x-forwarded-for: 1.2.3.4", b"host: evil", b"x-request-id: \x01",
    b"if-none-match: \xff",
    b"content-type: multipart/form-data", b"content-type: multipart/form-data; boundary=" + b"x" * 200,
)  # fmt: skip


def target() -> Target:
    """Return this parser."""
    photo, mask = _png("RGB", "teal"), _png("L", 255)
    plain = {"image": _text(photo), "mask": _text(mask), "prompt": "a red circle", "seed": 7}
    full = plain | {
        "samples": 2, "scheduler": "Euler", "num_inference_steps": 20, "guidance_scale": 7.5, "strength": 0.9,
        "base64": True, "output_format": "png", "quality": 90, "area": "whole", "padding": 3, "grow": 1,
        "feather": 2,
        "fill": "blur", "color_match": False, "soft": True, "guidance_interval": [0.2, 0.8], "pace": "near",
        "extend": [0, 0, 16, 0], "loras": [{"name": "a", "scale": 1}], "metadata": True,
        "negative_prompt": "bad",
    }  # fmt: skip
    click = {
        "image": plain["image"], "points": [[1, 1, 1], [3, 3, 0]], "box": [0, 0, 8, 8],
        "scribble": plain["mask"], "method": "snap", "what": "object", "variant": "larger", "prepare": False,
    }  # fmt: skip
    json_head = b"\ncontent-type: application/json\n\n"
    form = b"".join(
        b'--XX\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n' % (name, value)
        for name, value in ((b"image", photo), (b"mask", mask), (b"prompt", b"x"))
    )
    seeds = [
        b"POST /v1/sdxl-inpaint" + json_head + json_bytes(plain),
        b"POST /v1/sdxl-inpaint" + json_head + json_bytes(full),
        b"POST /v2/sdxl-inpaint" + json_head + json_bytes(plain),
        b"POST /v2/info" + json_head + json_bytes({"image": plain["image"]}),
        b"POST /v2/select" + json_head + json_bytes(click),
        b"POST /v2/picture" + json_head + json_bytes({"image": plain["image"]}),
        b"POST /v2/erase"
        + json_head
        + json_bytes({"image": plain["image"], "mask": plain["mask"], "grow": 2}),
        b"POST /v1/sdxl-inpaint\ncontent-type: multipart/form-data; boundary=XX\n\n" + form + b"--XX--\r\n",
        b"POST /v1/sdxl-inpaint" + json_head + json_bytes({**plain, "image": "http://127.0.0.1:9/x.png"}),
        *(f"POST {route}".encode() + json_head + json_bytes(fields) for route, fields in dialects().items()),
        *(
            f"POST {route}\ncontent-type: multipart/form-data; boundary=XX\n\n".encode()
            + form
            + b"--XX--\r\n"
            for route in dialects()
        ),
        *(route.replace("{id}", "0" * 32).encode() + b"\n\n" for route in _ROUTES),
    ]
    return Target(seeds, one, mutate, slow_s=25.0)


def dialects() -> dict[str, dict[str, Any]]:
    """Return routes of other programs' APIs, each with every field of a small request to it."""
    photo, mask = _text(_png("RGB", "teal")), _text(_png("L", 255))
    few = {"prompt": "x", "negative_prompt": "y", "seed": 7, "width": 64, "height": 64}
    ours = {"strength": 0.9, "scheduler": "Euler", "num_inference_steps": 20, "guidance_scale": 7.5}
    openai = few | ours | {
        "model": "gpt-image-1", "n": 2, "size": "64x64", "response_format": "b64_json", "stream": False,
        "output_format": "webp", "output_compression": 80, "quality": "low", "background": "auto",
        "partial_images": 1, "user": "me", "soft": True, "guidance_interval": [0.2, 0.8], "loras": [],
        "padding": 3, "grow": 1, "feather": 2, "fill": "blur", "area": "whole", "color_match": False,
    }  # fmt: skip
    webui = few | {
        "steps": 20, "cfg_scale": 7, "sampler_name": "DPM++ 2M Karras", "sampler_index": "Euler",
        "scheduler": "Karras",
        "n_iter": 1, "batch_size": 2, "subseed_strength": 0.1, "override_settings": {"sd_vae": "Automatic"},
        "alwayson_scripts": {}, "script_name": None, "script_args": [], "send_images": True, "styles": [],
        "tiling": False,
    }  # fmt: skip
    over = {
        "init_images": [photo], "mask": mask, "mask_blur": 4, "mask_blur_x": 1, "inpainting_fill": 1,
        "inpainting_mask_invert": 0, "inpaint_full_res": True, "inpaint_full_res_padding": 8,
        "alwayson_scripts": {"Soft Inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}, "resize_mode": 1,
        "denoising_strength": 0.75, "include_init_images": True,
    }  # fmt: skip
    stability = few | {"image": photo, "output_format": "jpeg", "style_preset": "anime", "creativity": 0.5}
    masked = stability | {"mask": mask, "grow_mask": 5}
    return {
        "/v1/images/edits": openai | {"image": photo, "mask": mask},
        "/v1/images/generations": openai,
        "/sdapi/v1/img2img": webui | over,
        "/sdapi/v1/txt2img": webui,
        "/sdapi/v1/png-info": {"image": photo},
        "/v2beta/stable-image/edit/inpaint": masked,
        "/v2beta/stable-image/edit/erase": masked,
        "/v2beta/stable-image/edit/outpaint": stability | {"left": 8, "up": 0, "right": 8, "down": 0},
    }


def _png(mode: str, colour: str | int) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
