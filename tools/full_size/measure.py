"""Load a full-size SDXL checkpoint on the CPU, take one guided step at 512², and report time and memory.

Measures load time and peak memory as a ratio to the weights' bytes. There are two peaks: *resident* also
counts the pages of the mapped weight files, which the kernel takes back when memory is short; *anonymous* is
the memory that the process cannot give back. Linux only, where /proc reports both.

The default is bfloat16: it is as large as the fp16 of the files and of a GPU, and CPUs with avx512_bf16 or
AMX compute in it, whereas most CPUs emulate fp16 convolutions, which is slower by far.

    python tools/full_size/measure.py FOLDER [--dtype bfloat16|float16]
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from inpaint.errors import InpaintError
from inpaint.model.denoise import step
from inpaint.model.load import DTYPES, Model, load_model
from inpaint.model.prompt import PromptEncoder
from inpaint.model.row import Conditioning, start_row
from inpaint.model.vae import encode, to_mask, to_pixels

SIDE = 512  # pixels
TARGET = 1.4  # peak memory to the weights' bytes
_SAMPLE_EVERY_S = 0.02


@dataclass(slots=True)
class Watch:
    """A thread that samples this process's memory, and a clock for its stages."""

    peak_bytes: dict[str, int] = field(default_factory=dict)  # by /proc's name: VmRSS, RssAnon, RssFile
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._over.set()
        self._thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block and print the time on stderr, with the memory held at its end."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        now = {key: f"{value / 1e9:.2f}" for key, value in memory_bytes().items()}
        print(
            f"{name:<10} {self.seconds[name]:7.1f} s   "
            f"resident {now['VmRSS']} GB, anonymous {now['RssAnon']} GB",
            file=sys.stderr,
        )

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_EVERY_S):
            for key, value in memory_bytes().items():
                self.peak_bytes[key] = max(value, self.peak_bytes.get(key, 0))


def memory_bytes() -> dict[str, int]:
    """Return this process's memory now: all, anonymous, and pages of mapped files."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    pairs = (line.split(":") for line in lines)
    return {key: 1024 * int(kb.split()[0]) for key, kb in pairs if key in ("VmRSS", "RssAnon", "RssFile")}


def measure(folder: Path, dtype: str) -> dict[str, Any]:
    """Load, encode and step once; return the figures as they go into the JSON line."""
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    with torch.inference_mode():
        torch.zeros(1) + 1
    import diffusers
    import transformers

    before = memory_bytes()
    with Watch() as watch:
        with watch.stage("load"):
            model = load_model(folder, folder.name, torch.device("cpu"), DTYPES[dtype])
        latents = _one_step(model, watch)
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    anonymous_bytes = watch.peak_bytes["RssAnon"]
    return {
        "tool": "measure_full_size",
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "versions": {lib.__name__: lib.__version__ for lib in (torch, diffusers, transformers)},
        "commit": _commit(),
        "weights_bytes": weights,
        "before_loading_bytes": before["VmRSS"],
        "peak_bytes": peak_bytes,
        "peak_anonymous_bytes": anonymous_bytes,
        "peak_ratio": round(peak_bytes / weights, 3),
        "peak_anonymous_ratio": round(anonymous_bytes / weights, 3),
        "target_ratio": TARGET,
        "seconds": {name: round(seconds, 2) for name, seconds in watch.seconds.items()},
        "latents": {"mean": round(latents.mean().item(), 4), "std": round(latents.std().item(), 4)},
    }


def _one_step(model: Model, watch: Watch) -> torch.Tensor:
    """Return the latents (1, 4, h, w) after one guided step.

    Raises:
        SystemExit: a tensor is constant or not finite, so that the timings mean nothing.
    """
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = to_pixels(Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    mask = np.zeros((SIDE // model.vae_factor,) * 2, np.float32)
    mask[16:48, 16:48] = 1
    with watch.stage("prompts"):
        prompt, negative = PromptEncoder(model).pair("a man with black sun glasses", "bad quality, blur")
    with watch.stage("vae encode"):
        posterior = encode(model, pixels)
    shared = Conditioning(prompt, negative, posterior, posterior, to_mask(mask))
    row = start_row(
        model,
        shared,
        scheduler="DDIM",
        num_inference_steps=25,
        strength=0.9,
        guidance_scale=7.5,
        seed=0,
    )
    start = row.latents
    with watch.stage("step"):
        step(model, [row])
    parts = {"prompt": prompt.hidden, "picture": posterior.mean, "change": row.latents - start}
    for name, tensor in parts.items():
        if not torch.isfinite(tensor).all() or tensor.float().std() == 0:
            sys.exit(f"the {name} is not finite or is constant, so these timings say nothing")
    return row.latents


def _commit() -> str:
    root = Path(__file__).parents[2]
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="a diffusers folder, for example from tools/full_size/make.py"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="of the computation (default bfloat16)"
    )
    chosen = parser.parse_args(arguments)
    try:
        figures = measure(chosen.folder, chosen.dtype)
    except InpaintError as error:
        sys.exit(str(error))
    for what in ("peak", "peak_anonymous"):
        ratio = figures[f"{what}_ratio"]
        print(
            f"{what:<15} {figures[f'{what}_bytes'] / 1e9:.2f} GB, {ratio:.2f} × the weights (target {TARGET})"
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
