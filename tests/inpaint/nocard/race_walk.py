"""A random walk of requests through real engines on the simulated device."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inpaint.engine
from inpaint import Engine, InpaintRequest
from inpaint.errors import InpaintError
from inpaint.fast import compiled, torch_compile
from inpaint.fast.compiled import Compiled
from inpaint.job import Job
from inpaint.lora import merge
from inpaint.model.load import load_model
from inpaint.model.unet import Forward, UNetBatch
from inpaint.runtime.stages import RunningRequest
from inpaint.schedulers import SCHEDULERS
from tests.inpaint.nocard.simulated_cuda import SimulatedCuda, simulated_cuda
from tests.support import tiny_checkpoint
from tests.support.lora_making import LAYERS, write_lora

OPTIMIZATIONS = ("channels-last", "qkv", "text-kv", "compile", "graphs")
WAIT_S = 120
AT_ONE_TIME = 16  # requests
AT_THE_END = 4  # requests that are running when their engine is closed
SIDES = ((64, 64), (64, 128))
LORAS = (*[""] * 25, "one", "one:0.6,two:-0.5", "two,texts:0.5")
FAULTS = "nan@3,oom@19,nan@25,nan@31,oom@61"
# Half of the tiny checkpoint's UNet: every operation is watched, which takes longer than computing it.
UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1),
    "attention_head_dim": (2, 2),
    "norm_num_groups": 8,
}
UNET_LAYERS = (
    "conv_in",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "mid_block.resnets.1.conv2",
    "up_blocks.0.upsamplers.0.conv",
)


@dataclass
class Walk:
    """Requests that come, are cancelled and end at random."""

    seed: int
    numbers: random.Random = field(init=False)
    ended: Counter[str] = field(default_factory=Counter)
    errors: list[InpaintError] = field(default_factory=list)
    stats: Counter[str] = field(default_factory=Counter)
    compiled: int = 0  # shapes
    parts: set[str] = field(default_factory=set)  # states of the VAE and the text encoders
    repainted: int = 0  # rows that were NaN

    def __post_init__(self) -> None:
        self.numbers = random.Random(self.seed)

    def request(self) -> InpaintRequest:
        """Make a small request."""
        draw = self.numbers
        size = draw.choice(SIDES)
        pixels = np.random.default_rng(draw.randrange(4)).integers(0, 255, (*size, 3), dtype=np.uint8)
        mask = np.zeros(size, np.uint8)
        mask[16:48, 16:48] = 255
        return InpaintRequest(
            image=Image.fromarray(pixels),
            mask=Image.fromarray(mask),
            prompt=draw.choice(("fox", "fox", "fox", "a (blue:1.3) box", "word " * 90)),
            scheduler=draw.choice(("DDIM", "DDIM", *SCHEDULERS)),
            num_inference_steps=2,
            strength=draw.choice((0.9, 1.0)),
            guidance_scale=draw.choice((7.5, 1.0)),
            samples=draw.choice((1, 1, 1, 2)),
            seed=draw.randrange(1000),
            loras=draw.choice(LORAS),
        )

    def run(self, engine: Engine, requests: int) -> None:
        """Send requests, a few at a time, and cancel some of them."""
        repaint = engine._loop._recovery.repaint

        def counted(task: RunningRequest, sample: int) -> bool:
            again = repaint(task, sample)
            self.repainted += again
            return again

        engine._loop._recovery.repaint = counted  # type: ignore[method-assign]
        jobs: list[Job] = []
        for _ in range(requests - AT_THE_END):
            jobs.append(engine.submit(self.request()))
            jobs[-1].watch(int(self.numbers.random() < 0.15))
            if self.numbers.random() < 0.1:
                self.numbers.choice(jobs).cancel()
            if len(jobs) >= AT_ONE_TIME:
                self._end(jobs.pop(0))
        for job in jobs:
            self._end(job)
        assert engine._fast is not None
        engine._fast.wait(WAIT_S)
        assert engine._fast._compilation is not None
        assert engine._fast._parts is not None
        self.parts.update(engine._fast._parts.states.values())
        self.compiled += len(engine._fast._compilation.ready)
        jobs = [engine.submit(self.request()) for _ in range(AT_THE_END)]
        stats = engine.stats()
        engine.close()  # with these requests still running
        for job in jobs:
            self._end(job)
        for name in ("images", "out_of_memory", "lora_switches", "unet_calls"):
            self.stats[name] += getattr(stats, name)

    def _end(self, job: Job) -> None:
        try:
            job.result(WAIT_S)
            self.ended["done"] += 1
        except InpaintError as error:
            self.ended[type(error).__name__] += 1
            self.errors.append(error)


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint like the tiny one, with less in its UNet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_checkpoint, "_UNET", {**tiny_checkpoint._UNET, **UNET})
        return tiny_checkpoint.write_tiny_checkpoint(folder)


@dataclass
class Engines:
    """Engines of one small checkpoint on a simulated device."""

    folder: Path
    device: SimulatedCuda

    def load(self, **changes: Any) -> Engine:
        """Load one as a user does, all of it."""
        settings: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16", "max_rows": 8, "loras": self.folder}
        settings |= changes
        return Engine.load(str(self.folder / "model"), **settings)


def write_models(folder: Path) -> Path:
    """Write the checkpoint and LoRAs for it."""
    checkpoint = write_checkpoint(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYERS, "unet", UNET_LAYERS)
        model = load_model(checkpoint, "model", torch.device("cpu"), torch.float32)
        write_lora(folder, "one", model, seed=1)
        write_lora(folder, "two", model, ["unet"], seed=2)
        write_lora(folder, "texts", model, ["text_encoder", "text_encoder_2"], seed=3)
    return folder


@contextmanager
def engines(folder: Path) -> Iterator[Engines]:
    """Have engines use all that a GPU would but the compiler itself."""
    with simulated_cuda() as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr(inpaint.engine, "choose", lambda *_, **__: OPTIMIZATIONS)
        patch.setattr(merge, "_free_bytes", lambda _: 2**40)  # as on a GPU, with room for the originals
        _compile_nothing(device, patch)
        yield Engines(folder, device)


def _compile_nothing(device: SimulatedCuda, patch: pytest.MonkeyPatch) -> None:
    """Have code "compiled" to what it was: dynamo skips every function that a dispatch mode watches."""
    counted: list[Callable[..., Any]] = []

    def compiling(modules: list[Any], backend: Callable[..., Any]) -> None:
        counted.append(backend)
        replaced(modules)

    def replaced(modules: list[Any]) -> None:
        backend = counted[-1]
        for module in modules:
            module.forward = partial(_through, backend, module.forward)

    patch.setattr(torch_compile, "compiling", compiling)
    patch.setattr(torch_compile, "compiled_only", replaced)
    patch.setattr(torch_compile, "keep_on_disk", lambda: None)
    patch.setattr(compiled, "_IDLE_S", 0.0)
    init = Compiled.__init__

    def with_backend(made: Compiled, *args: Any) -> None:
        init(made, *args)
        made._backend = lambda graph, _: graph

    def careless(_: Compiled, code: Forward, batch: UNetBatch) -> None:
        with device.careless():
            code(batch)

    patch.setattr(Compiled, "__init__", with_backend)
    patch.setattr(Compiled, "_make_code", careless)


def _through(backend: Callable[..., Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run what a backend would compile; the UNet's counts its calls."""
    if isinstance(getattr(backend, "__self__", None), Compiled):
        return backend(lambda: forward(*args, **kwargs), [])()
    return forward(*args, **kwargs)
