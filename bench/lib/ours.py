"""Our engine for the benches: on which model, and asked to work how."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench.full_size import build_model
from bench.lib.jobs import Upload
from inpaint import Engine, InpaintRequest
from inpaint.demo import demo_checkpoint
from inpaint.fast.optimizations import Fast, choose, ready
from inpaint.images.codec import decode, encode
from inpaint.model.load import Model, load_model, pick_dtype
from inpaint.weights import config_folder, resolve

FULL_SIZE = "full-size"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the engine."""

    precision: str = "exact"
    without: frozenset[str] = frozenset()  # optimizations to leave out, by name


@dataclass(frozen=True, slots=True)
class Ours:
    """An engine with its optimizations pulled."""

    engine: Engine
    fast: Fast

    def settle(self, timeout_s: float) -> float:
        """Wait while it compiles beside its work; the seconds waited."""
        started = time.monotonic()
        self.fast.wait(timeout_s)
        return time.monotonic() - started

    def paint_upload(self, upload: Upload) -> bytes:
        """Files in, a JPEG out, as our own server does it."""
        picture = decode(upload.image)
        mask = decode(upload.mask, "mask").image
        painted = self.engine.paint(InpaintRequest(picture.image, mask, **upload.settings)).images[0]
        return encode(painted, picture)

    def stages(self, request: InpaintRequest) -> dict[str, float]:
        """Milliseconds in the stages by the engine's own clocks, and in what is around them."""
        started = time.perf_counter()
        timings = self.engine.paint(request).timings
        total = time.perf_counter() - started
        named = {stage: 1000 * timings[f"{stage}_s"] for stage in ("encode", "denoise", "decode")}
        return {**named, "around": 1000 * total - sum(named.values())}


def default_model(device: torch.device, name: str | None) -> str:
    """The model that is measured if none is named: the demo where there is no GPU."""
    return name or (FULL_SIZE if device.type == "cuda" else "demo")


def load(name: str, device: torch.device, *, memory: str = "auto") -> Model:
    """A model of its own for a contender: some contenders rewrite their modules.

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
def engine_on(model: Model, asked: Asked | None = None, **options: Any) -> Iterator[Ours]:
    """An engine of ``model`` that works as asked, for the length of the block. The one place that makes one.

    Raises:
        RequestError: this device or model cannot do what is asked.
    """
    asked = asked or Asked()
    optimizations = choose(model, asked.without, precision=asked.precision)
    with ThreadPoolExecutor(1) as thread:  # as Engine.load has it: its pool must not stay with us
        fast = thread.submit(ready, model, optimizations).result()
    with Engine(model, fast=fast, **options) as engine:
        yield Ours(engine, fast)
