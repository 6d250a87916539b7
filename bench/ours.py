"""Our engine for the benches: on which model, and asked to work how."""

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.full_size import build_model
from bench.jobs import Upload
from inpaint import Engine, InpaintRequest
from inpaint.demo import demo_checkpoint
from inpaint.image import decode, encode
from inpaint.models import Model, load_model, pick_dtype
from inpaint.weights import config_folder, resolve

FULL_SIZE = "full-size"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the engine beside its defaults."""

    precision: str | None = None  # "fp8"
    without: frozenset[str] = field(default_factory=frozenset)  # levers to leave out, by name

    def options(self) -> dict[str, Any]:
        """The keyword options of ``Engine`` that this is."""
        named = {"precision": self.precision, "without": self.without}
        return {name: value for name, value in named.items() if value}

    def refused(self) -> str:
        """Why this tree's engine cannot be asked so; empty if it can."""
        known = inspect.signature(Engine).parameters
        return "".join(f"this engine has no option {name}" for name in self.options() if name not in known)


def default_model(device: torch.device, name: str | None) -> str:
    """The model that is measured if none is named: the demo where there is no GPU."""
    return name or (FULL_SIZE if device.type == "cuda" else "demo")


def load(name: str, device: torch.device, *, memory: str = "auto") -> Model:
    """A model of its own for a lane: some lanes rewrite their modules.

    Raises:
        ModelError: missing or damaged.
    """
    precision = pick_dtype("auto", device)
    if name == FULL_SIZE:
        return build_model(device, precision, memory=memory)
    checkpoint = demo_checkpoint() if name == "demo" else resolve(name)
    configs = config_folder() if checkpoint.kind == "file" else None
    return load_model(checkpoint.path, checkpoint.name, device, precision, memory, configs)


@contextmanager
def engine_on(model: Model, asked: Asked | None = None, **options: Any) -> Iterator[Engine]:
    """An engine of ``model`` that works as asked, for the length of the block."""
    with Engine(model, **(asked or Asked()).options(), **options) as engine:
        yield engine


def settle(engine: Engine, timeout_s: float) -> float:
    """Wait while the engine compiles beside its work; the seconds waited. It must have painted before."""
    started = time.monotonic()
    while getattr(engine.stats(), "compiling", False) and time.monotonic() - started < timeout_s:
        time.sleep(0.2)
    return time.monotonic() - started


def paint_upload(engine: Engine, upload: Upload) -> bytes:
    """Files in, a JPEG out, as our own server does it."""
    picture = decode(upload.image)
    request = InpaintRequest(picture.image, decode(upload.mask, "mask").image, **upload.settings)
    return encode(engine.paint(request).images[0], picture)


def stages(engine: Engine, request: InpaintRequest) -> dict[str, float]:
    """Milliseconds before, in and after the step loop by the engine's own clocks, and what is around them."""
    started = time.perf_counter()
    timings = engine.paint(request).timings
    total = time.perf_counter() - started
    named = {stage: 1000 * timings[f"{stage}_s"] for stage in ("encode", "denoise", "decode")}
    return {**named, "around": 1000 * total - sum(named.values())}
