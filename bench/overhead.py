"""Overhead of the engine over the stock diffusers pipeline on the same job.

Contenders, on one set of modules and interleaved round by round in rotating order: *stock*, diffusers' own
``StableDiffusionXLInpaintPipeline``; *ours*, ``Engine.paint`` on the same job (area "whole" at the model's
native size, no growing, feathering or colour fit); *defaults*, ``Engine.paint`` with its usual blending,
which stock does not do. PIL in, PIL out. Every round has a new prompt, so that our prompt cache does not
help. Before timing, both must paint the same picture.

One thread on the CPU. With the model "demo" the UNet is tiny, so that the work around it weighs most.

    python bench/overhead.py [--model demo] [--scheduler DDIM] [--rounds 12] [--warmups 3] [--json FILE]
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # for the engine's thread too, which set_num_threads here does not reach

import numpy as np
import torch
from PIL import Image

from bench.lib.contenders import Timing, conditions, finish, interleave, row
from bench.lib.jobs import job
from bench.lib.stock import Stock
from inpaint import SCHEDULERS, Engine, InpaintRequest

USUAL = ("DDIM", "DPM2 Karras")  # the hosted API's example and our default: one and two UNet calls a step
TARGET = 1.05  # ours to stock, the median of paired ratios

Contender = Callable[[InpaintRequest], Image.Image]


def contenders_of(engine: Engine) -> dict[str, Contender]:
    """Return the contenders by name; each paints the same request."""
    usual = {
        name: InpaintRequest.__dataclass_fields__[name].default for name in ("grow", "feather", "color_match")
    }
    return {
        "stock": Stock(engine.model).paint,
        "ours": lambda request: engine.paint(request).images[0],
        "defaults": lambda request: engine.paint(replace(request, **usual)).images[0],
    }


def check_same_picture(contenders: Mapping[str, Contender], request: InpaintRequest) -> None:
    """Exit with a message unless stock and ours agree inside the mask to one 8-bit level."""
    stock, ours = (np.asarray(contenders[name](request), np.int16) for name in ("stock", "ours"))
    difference = np.abs(stock - ours)[np.asarray(request.mask) > 0].max()
    if difference > 1:
        sys.exit(f"{request.scheduler}: the contenders paint different pictures ({difference} levels apart)")


def time_contenders(
    contenders: Mapping[str, Contender], request: InpaintRequest, warmups: int, rounds: int
) -> dict[str, Timing]:
    """Time each contender, every picture with a new prompt: ours keeps embeddings, stock does not."""
    return interleave(
        contenders,
        lambda i, place: replace(request, prompt=f"{request.prompt}, {i} {place}"),
        warmups=warmups,
        rounds=rounds,
    )


def measure(model: str, schedulers: Sequence[str], warmups: int, rounds: int) -> dict[str, Any]:
    """Time each scheduler's job; return the figures as they go into the JSON line."""
    jobs = []
    with Engine.load(model, device="cpu") as engine:
        contenders = contenders_of(engine)
        for scheduler in schedulers:
            request = job(engine.model.native_size, scheduler)
            check_same_picture(contenders, request)
            timings = time_contenders(contenders, request, warmups, rounds)
            jobs.append(
                {
                    "scheduler": scheduler,
                    "ms": {name: timing.to_json() for name, timing in timings.items()},
                    "over_stock": {n: timings[n].over(timings["stock"]) for n in contenders if n != "stock"},
                }
            )
            print(f"{scheduler}: milliseconds per picture, median (range)")
            for name, timing in timings.items():
                row(name, timing, timings["stock"] if name != "stock" else None)
        about = {"model": engine.model.name, "size": [engine.model.native_size] * 2, "target": TARGET}
        return conditions("overhead", engine.model.device, **about, warmups=warmups, rounds=rounds, jobs=jobs)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="a model's name or folder (default demo)")
    parser.add_argument(
        "--scheduler", action="append", choices=SCHEDULERS, help=f"default: {' and '.join(USUAL)}"
    )
    parser.add_argument("--rounds", type=int, default=12, help="timed rounds of each job (default 12)")
    parser.add_argument("--warmups", type=int, default=3, help="rounds before those (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    schedulers = chosen.scheduler or USUAL
    finish(lambda: measure(chosen.model, schedulers, chosen.warmups, chosen.rounds), chosen.json)


if __name__ == "__main__":
    main()
