"""Open-loop traffic: kinds of requests, traces, and outcomes against a limit of seconds.

The times at which requests are sent are drawn before the first one, and latency counts from them, so that a
slow server cannot slow down its load. A request that is refused is a miss.
"""

import asyncio
import base64
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import httpx2
import numpy as np
from PIL import Image

from bench.lib.contenders import PORTRAIT
from inpaint.canvas.sizes import best_size

PATH = "/v1/sdxl-inpaint"
LEAD_S = 0.05  # before the first request, for the tasks to start
GAVE_UP = 0  # instead of a status: the client hung up at the end, or the connection broke


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of requests and its share of them."""

    name: str
    share: float
    aspect: tuple[int, int] = (1, 1)  # width to height
    scheduler: str = "DDIM"
    num_inference_steps: int = 20
    guidance_scale: float = 7.5

    def size(self, native: int) -> tuple[int, int]:
        """Return (width, height) with about ``native``² pixels, at which nothing is resized."""
        width, height = self.aspect
        return best_size(width * native, height * native, native)

    def body(self, native: int, serial: int) -> bytes:
        """Return a request as JSON. Each serial has its own picture and prompt, so caches do not help."""
        width, height = self.size(native)
        image = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((width, height)))
        image = np.roll(image, (serial // width, serial % width), (0, 1))
        fields = {
            "image": _base64(Image.fromarray(image)),
            "mask": _base64(mask_of((width, height))),
            "prompt": f"a red circle, {serial}",
            "scheduler": self.scheduler,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "strength": 0.9,
            "seed": serial,
            "output_format": "png",
            # As the stock pipeline paints, so that both do the same job.
            "area": "whole",
            "grow": 0,
            "feather": 0,
            "color_match": False,
        }
        return json.dumps(fields).encode()


# Two latent sizes besides the native one, four lengths, with and without guidance, one and two calls a step.
MIX = (
    Kind("quick", 0.35),
    Kind("usual", 0.25, scheduler="DPM2 Karras", num_inference_steps=25),
    Kind("wide", 0.15, (3, 2), "Euler a", 30),
    Kind("plain", 0.15, (2, 3), "UniPC", 25, 1.0),
    Kind("long", 0.10, (1, 1), "DPM Multi", 60, 5.0),
)


def mask_of(size: tuple[int, int]) -> Image.Image:
    """Return a mask of an eighth of the picture, on the latent grid."""
    width, height = size
    mask = Image.new("L", size)
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, height // 2))
    return mask


def _base64(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True, slots=True)
class Shot:
    """A request of a trace, due ``at_s`` seconds after its beginning."""

    kind: Kind
    at_s: float


def trace(rate: float, seed: int, count: int, kinds: Sequence[Kind] = MIX) -> list[Shot]:
    """Draw a Poisson stream. The seed sets the requests and their order; the rate only stretches it.

    Args:
        rate: mean requests a second.
        seed: of the draw.
        count: requests.
        kinds: to draw from.
    """
    draw = random.Random(seed)
    shares = [kind.share for kind in kinds]
    at, shots = 0.0, []
    for _ in range(count):
        at += draw.expovariate(1.0)
        shots.append(Shot(draw.choices(kinds, shares)[0], at / rate))
    return shots


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one request."""

    kind: Kind
    status: int  # GAVE_UP: no answer
    seconds: float  # from the time it was due to the last byte; inf without an answer
    late_s: float  # from when it was due until it was sent: a fault of the client, reported
    valid: bool  # the answer is a picture of the right size, and not one colour

    def good(self, limits: Mapping[str, float]) -> bool:
        """Return True for a valid picture that came within its kind's seconds."""
        return self.valid and self.seconds <= limits[self.kind.name]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    seconds: float
    late_s: float
    content: bytes = b""


async def play(
    url: str, shots: Sequence[Shot], native: int, serials: Iterator[int], end_s: float
) -> list[Outcome]:
    """Send a trace and return the outcomes.

    Args:
        url: of the server.
        shots: when to send what.
        native: the model's side in pixels.
        serials: unused ones.
        end_s: seconds after the last request at which all clients hang up; nothing later can be good.
    """
    bodies = [shot.kind.body(native, next(serials)) for shot in shots]
    loop = asyncio.get_running_loop()
    async with client(url) as http:
        begin = loop.time() + LEAD_S
        tasks = [
            asyncio.create_task(_send(http, body, begin + shot.at_s))
            for shot, body in zip(shots, bodies, strict=True)
        ]
        await asyncio.wait(tasks, timeout=begin + shots[-1].at_s + end_s - loop.time())
        for task in tasks:
            task.cancel()  # no effect on finished ones
        await asyncio.wait(tasks)
    # Pictures are checked only now: during the trace the processor is the server's.
    return [_outcome(shot, task, native) for shot, task in zip(shots, tasks, strict=True)]


def client(url: str) -> httpx2.AsyncClient:
    """Open a client without limits on connections or time."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=None, trust_env=False, limits=limits)


async def post(http: httpx2.AsyncClient, body: bytes) -> httpx2.Response:
    """Ask for one picture."""
    return await http.post(PATH, content=body, headers={"content-type": "application/json"})


async def _send(http: httpx2.AsyncClient, body: bytes, due: float) -> _Answer:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(due - loop.time())
    late_s = loop.time() - due
    try:
        response = await post(http, body)
    except httpx2.TransportError:
        return _Answer(GAVE_UP, inf, late_s)
    return _Answer(response.status_code, loop.time() - due, late_s, response.content)


def _outcome(shot: Shot, task: "asyncio.Task[_Answer]", native: int) -> Outcome:
    answer = _Answer(GAVE_UP, inf, 0.0) if task.cancelled() else task.result()
    valid = answer.status == 200 and is_picture(answer.content, shot.kind.size(native))
    return Outcome(shot.kind, answer.status, answer.seconds, answer.late_s, valid)


def is_picture(content: bytes, size: tuple[int, int]) -> bool:
    """Return True for a whole picture of this size with more than one colour where it was painted."""
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except OSError:
        return False
    if image.size != size:
        return False
    painted = image.crop(mask_of(size).getbbox())
    return any(low < high for low, high in painted.getextrema())


def painted_pixels(content: bytes) -> np.ndarray:
    """Return the pixels (h, w, 3) of a valid answer where the mask was white."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(image.crop(mask_of(image.size).getbbox()), np.int16)
