"""Our engine as a contender: its model, its precision and its optimizations."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.full_size import build_model
from bench.lib.jobs import Upload
from inpaint import Engine, InpaintRequest
from inpaint.demo import demo_checkpoint
from inpaint.fast.optimizations import Fast, choose, ready
from inpaint.images.codec import decode
from inpaint.images.encoding import encode
from inpaint.model.load import Model, load_model, pick_dtype
from inpaint.weights import config_folder, resolve

FULL_SIZE = "full-size"


@dataclass(frozen=True, slots=True)
class Mode:
    """The mode of an engine and its requests: precision, optimizations, pace."""

    precision: str = "exact"
    without: frozenset[str] = frozenset()  # optimizations to leave out, by name
    pace: str = "exact"

    @classmethod
    def of(cls, letter: str, without: frozenset[str] = frozenset()) -> "Mode":
        """Return the mode of a contender: C exact, D in fp8, E near."""
        return cls("fp8" if letter == "D" else "exact", without, "near" if letter == "E" else "exact")


@dataclass(frozen=True, slots=True)
class Ours:
    """An engine with its optimizations."""

    engine: Engine
    fast: Fast
    mode: Mode

    def settle(self, timeout_s: float) -> float:
        """Wait while it compiles in the background; return the seconds waited."""
        started = time.monotonic()
        self.fast.wait(timeout_s)
        return time.monotonic() - started

    def paint_upload(self, upload: Upload) -> bytes:
        """Paint from files to a JPEG, as our server does it."""
        picture = decode(upload.image)
        mask = decode(upload.mask, "mask").image
        request = self.request(InpaintRequest(picture.image, mask, **upload.settings))
        return encode(self.engine.paint(request).images[0], picture)

    def request(self, request: InpaintRequest) -> InpaintRequest:
        """Return a request at the mode's pace."""
        return replace(request, pace=self.mode.pace)

    def stages(self, request: InpaintRequest) -> dict[str, float]:
        """Return the milliseconds of each stage by the engine's own clocks, and of the time around them."""
        started = time.perf_counter()
        timings = self.engine.paint(self.request(request)).timings
        total = time.perf_counter() - started
        named = {stage: 1000 * timings[f"{stage}_s"] for stage in ("encode", "denoise", "decode")}
        return {**named, "around": 1000 * total - sum(named.values())}


def default_model(device: torch.device, name: str | None) -> str:
    """Return the model to measure: the named one, else full-size on a GPU and the demo on a CPU."""
    return name or (FULL_SIZE if device.type == "cuda" else "demo")


def load(name: str, device: torch.device, *, memory: str = "auto") -> Model:
    """Load a separate copy of a model for a contender: some contenders rewrite their modules.

    Raises:
        ModelError: the model is missing or damaged.
    """
    precision = pick_dtype("auto", device)
    if name == FULL_SIZE:
        return build_model(device, precision, memory=memory)
    checkpoint = demo_checkpoint() if name == "demo" else resolve(name)
    configs = config_folder() if checkpoint.kind == "file" else None
    return load_model(checkpoint.path, checkpoint.name, device, precision, memory, configs)


@contextmanager
def engine_on(model: Model, mode: Mode | None = None, **options: Any) -> Iterator[Ours]:
    """Open an engine of ``model`` in a mode, for the length of the block; all benches open theirs here.

    Raises:
        RequestError: this device or model does not have the mode.
    """
    mode = mode or Mode()
    optimizations = choose(model, mode.without, precision=mode.precision)
    with ThreadPoolExecutor(1) as thread:  # as in Engine.load: torch's thread pool must end with it
        fast = thread.submit(ready, model, optimizations).result()
    with Engine(model, fast=fast, **options) as engine:
        yield Ours(engine, fast, mode)
