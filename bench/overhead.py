"""What the engine costs over the stock diffusers pipeline on the same job.

Lanes, on one set of modules and interleaved round by round in turning order: *stock*, diffusers' own
``StableDiffusionXLInpaintPipeline``; *ours*, ``Engine.paint`` on the same job (area "whole" at the model's
native size, no growing, feathering or colour fit); *defaults*, ``Engine.paint`` with its usual blending,
which stock does not do. PIL in, PIL out. Every round has a prompt of its own, so that our prompt cache does
not help. Before timing, both must paint the same picture.

One thread on the CPU. With the model "demo" the UNet is tiny, so that what is around it weighs most.

    python bench/overhead.py [--model demo] [--scheduler DDIM] [--rounds 12] [--warmups 3] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # for the engine's thread too, which set_num_threads here does not reach

import numpy as np
import torch
from PIL import Image

from inpaint import SCHEDULERS, Engine, InpaintRequest
from inpaint.errors import InpaintError
from inpaint.models import Model
from inpaint.schedulers import make_scheduler

ROOT = Path(__file__).parents[1]
PORTRAIT = ROOT / "docs" / "images" / "portrait.jpg"
USUAL = ("DDIM", "DPM2 Karras")  # the hosted API's example and our default: one and two UNet calls a step
TARGET = 1.05  # ours to stock, the median of paired ratios
SAME_JOB: Mapping[str, Any] = {"area": "whole", "grow": 0, "feather": 0, "color_match": False}

Lane = Callable[[InpaintRequest], Image.Image]


@dataclass(frozen=True, slots=True)
class Timing:
    """One lane's rounds in seconds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds)

    def to_json(self) -> dict[str, float]:
        """Median and range in milliseconds."""
        figures = {"median": self.median, "min": min(self.rounds), "max": max(self.rounds)}
        return {name: round(1000 * seconds, 2) for name, seconds in figures.items()}

    def over(self, other: "Timing") -> dict[str, float]:
        """How many times as long as ``other``, two ways; slow stretches of time do not move the second."""
        paired = [mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True)]
        ratios = {"of_medians": self.median / other.median, "median_paired": statistics.median(paired)}
        return {name: round(ratio, 4) for name, ratio in ratios.items()}


def stock_lane(model: Model) -> Lane:
    """Diffusers' pipeline on the modules of ``model``."""
    from diffusers import StableDiffusionXLInpaintPipeline

    pipe = StableDiffusionXLInpaintPipeline(
        vae=model.vae,
        text_encoder=model.text_encoders[0],
        text_encoder_2=model.text_encoders[1],
        tokenizer=model.tokenizers[0],
        tokenizer_2=model.tokenizers[1],
        unet=model.unet,
        scheduler=make_scheduler("DDIM", model.scheduler_config),
        force_zeros_for_empty_prompt=model.force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)

    def paint(request: InpaintRequest) -> Image.Image:
        pipe.scheduler = make_scheduler(request.scheduler, model.scheduler_config)
        picture: Image.Image = pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            image=request.image,
            mask_image=request.mask,
            width=request.image.width,
            height=request.image.height,
            strength=request.strength,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
        ).images[0]
        return picture

    return paint


def lanes_of(engine: Engine) -> dict[str, Lane]:
    """The lanes by name; each paints the same request."""
    usual = {
        name: InpaintRequest.__dataclass_fields__[name].default for name in ("grow", "feather", "color_match")
    }
    return {
        "stock": stock_lane(engine.model),
        "ours": lambda request: engine.paint(request).images[0],
        "defaults": lambda request: engine.paint(replace(request, **usual)).images[0],
    }


def job(side: int, scheduler: str) -> InpaintRequest:
    """The hosted API's example settings on a square portrait, with a mask on the latent grid."""
    picture = Image.open(PORTRAIT).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : 3 * side // 4] = 255
    return InpaintRequest(
        image=picture,
        mask=Image.fromarray(mask),
        prompt="A man with black sun glasses",
        negative_prompt="bad quality, painting, blur",
        scheduler=scheduler,
        num_inference_steps=25,
        guidance_scale=7.5,
        strength=0.9,
        seed=12467,
        **SAME_JOB,
    )


def check_same_picture(lanes: Mapping[str, Lane], request: InpaintRequest) -> None:
    """Leave with a sentence unless stock and ours agree inside the mask to one 8-bit level."""
    stock, ours = (np.asarray(lanes[name](request), np.int16) for name in ("stock", "ours"))
    difference = np.abs(stock - ours)[np.asarray(request.mask) > 0].max()
    if difference > 1:
        sys.exit(f"{request.scheduler}: the lanes paint different pictures ({difference} levels apart)")


def time_lanes(
    lanes: Mapping[str, Lane], request: InpaintRequest, warmups: int, rounds: int
) -> dict[str, Timing]:
    """Seconds per lane; the lane that begins changes with each round."""
    seconds: dict[str, list[float]] = {name: [] for name in lanes}
    for i in range(-warmups, rounds):
        first = i % len(lanes)
        order = [*lanes][first:] + [*lanes][:first]
        for place, name in enumerate(order):
            # Another prompt for each paint: ours keeps embeddings, stock does not.
            fresh = replace(request, prompt=f"{request.prompt}, {i} {place}")
            started = time.perf_counter()
            lanes[name](fresh)
            if i >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def measure(model: str, schedulers: Sequence[str], warmups: int, rounds: int) -> dict[str, Any]:
    """Time each scheduler's job; the figures as they go into the JSON line."""
    jobs = []
    with Engine.load(model, device="cpu") as engine:
        lanes = lanes_of(engine)
        for scheduler in schedulers:
            request = job(engine.model.native_size, scheduler)
            check_same_picture(lanes, request)
            timings = time_lanes(lanes, request, warmups, rounds)
            jobs.append(
                {
                    "scheduler": scheduler,
                    "ms": {name: timing.to_json() for name, timing in timings.items()},
                    "over_stock": {n: timings[n].over(timings["stock"]) for n in lanes if n != "stock"},
                }
            )
            _print_job(jobs[-1])
        return {**_conditions(engine.model), "warmups": warmups, "rounds": rounds, "jobs": jobs}


def _conditions(model: Model) -> dict[str, Any]:
    import diffusers
    import transformers

    return {
        "bench": "overhead",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "device": f"{_cpu_name()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} core(s)",
        "versions": {lib.__name__: lib.__version__ for lib in (torch, diffusers, transformers)},
        "model": model.name,
        "size": [model.native_size] * 2,
        "target": TARGET,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):  # there is no /proc but on Linux
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return "CPU"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _print_job(figures: Mapping[str, Any]) -> None:
    print(f"{figures['scheduler']}: milliseconds per picture, median (range)")
    for name, ms in figures["ms"].items():
        line = f"  {name:<9} {ms['median']:8.1f} ({ms['min']:.1f} to {ms['max']:.1f})"
        if name in figures["over_stock"]:
            ratio = figures["over_stock"][name]
            line += f"   {ratio['median_paired']:.3f} × stock paired, {ratio['of_medians']:.3f} × by medians"
        print(line)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="a model's name or folder (default demo)")
    parser.add_argument(
        "--scheduler", action="append", choices=SCHEDULERS, help=f"default: {' and '.join(USUAL)}"
    )
    parser.add_argument("--rounds", type=int, default=12, help="timed rounds of each job (default 12)")
    parser.add_argument("--warmups", type=int, default=3, help="rounds before those (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the JSON as well")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        figures = measure(chosen.model, chosen.scheduler or USUAL, chosen.warmups, chosen.rounds)
    except InpaintError as error:
        sys.exit(str(error))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
