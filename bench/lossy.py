"""Error of each faster, inexact way to paint, and the share of its pictures that follow the prompt.

The demo model paints, because the test needs a trained one: its unseen scenes, at the API's defaults but for
the sampler. Exact is fp32 with guidance throughout. For each way: the finished latents' relative error, PSNR
inside the mask (outside, pictures are the caller's own), the shares of right colours and shapes, and its UNet
slots as a share of the exact way's. "another seed" is no faster way, but the scale to read the others by.

It does not measure time: a CPU has no fp8 units. A few-step LoRA is missing: there is none for the demo
model.

    python -m bench.lossy [--scenes 32] [--scheduler DDIM] [--only fp8] [--device cpu] [--json FILE]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.lib.contenders import conditions, finish, parser
from inpaint import SCHEDULERS, InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.demo import demo_checkpoint
from inpaint.fast import fp8
from inpaint.job import Job
from inpaint.model import deep_level
from inpaint.model.denoise import step
from inpaint.model.load import DTYPES, Model, load_model, pick_device
from inpaint.model.row import Row
from inpaint.model.unet import plain
from inpaint.model.vae import decode
from inpaint.runtime.stages import RunningRequest, Stages
from tools.train_demo.judge import Verdict, unseen
from tools.train_demo.paint import FIRST_SEED, requests_for, share, verdicts
from tools.train_demo.scenes import Scene

TOGETHER = 8  # scenes in one UNet call
MISSING = {"few-step LoRA": "none exists for the demo model"}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to paint, its difference from the exact one in its fields."""

    dtype: str = "float32"
    fp8: bool = False
    tiled: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the requests
    shift: int = 0  # of the seeds
    cached: bool = False  # the UNet's deepest level comes from a cache where the pace allows it


WAYS: Mapping[str, Way] = {
    "float16": Way(dtype="float16"),
    "bfloat16": Way(dtype="bfloat16"),
    "fp8": Way(fp8=True),
    "fp8 in bfloat16": Way(dtype="bfloat16", fp8=True),
    "near": Way(settings={"pace": "near"}),
    "near with caches": Way(settings={"pace": "near"}, cached=True),
    "guidance 0.2 to 0.8": Way(settings={"guidance_interval": (0.2, 0.8)}),
    "guidance 0 to 0.8": Way(settings={"guidance_interval": (0.0, 0.8)}),
    "guidance 0 to 0.5": Way(settings={"guidance_interval": (0.0, 0.5)}),
    "guidance 0.2 to 1": Way(settings={"guidance_interval": (0.2, 1.0)}),
    "tiled decode": Way(tiled=True),
    "fewer steps, 20 for 25": Way(settings={"num_inference_steps": 20}),
    "another seed": Way(shift=10_000),
}
EXACT = Way()


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """The results of one way on all scenes."""

    latents: list[torch.Tensor]  # (1, 4, h, w) each, fp32 on the CPU
    pixels: list[NDArray[np.float32]]  # (H, W, 3) each, 0 … 1, the whole picture as decoded
    slots: int  # of all UNet calls together


def paint(model: Model, way: Way, scenes: Sequence[Scene], scheduler: str) -> Painted:
    """Paint every scene in one way, on the model that :func:`prepared` made for it."""
    requests = requests_for(scenes, scheduler=scheduler, **way.settings)
    requests = [replace(request, seed=FIRST_SEED + way.shift + i) for i, request in enumerate(requests)]
    forward = deep_level.wrap(model.unet, plain(model.unet)) if way.cached else plain(model.unet)
    latents: list[torch.Tensor] = []
    slots = 0
    for start in range(0, len(requests), TOGETHER):
        rows = start_rows(model, requests[start : start + TOGETHER], cached=way.cached)
        while waiting := [row for row in rows if not row.done]:
            slots += sum(2 if row.guided else 1 for row in waiting)
            step(model, waiting, forward)
        latents += [row.latents for row in rows]
    with torch.inference_mode():
        pixels = [decode(model, one, smaller=way.tiled)[0].permute(1, 2, 0).cpu().numpy() for one in latents]
    return Painted([one.cpu() for one in latents], pixels, slots)


def start_rows(model: Model, requests: Sequence[InpaintRequest], *, cached: bool = False) -> list[Row]:
    """Return the first row of each request, encoded as the engine does it."""
    stages, rows = Stages(model, deep_cache=cached), []
    for request in requests:
        task = RunningRequest(Job(request, [request.seed]), cut(request, model.native_size))
        stages.begin(task)
        rows += task.rows
    return rows


def prepared(way: Way, device: torch.device) -> Model:
    """Load the demo model for one way; a separate one for each, since fp8 rewrites the modules."""
    model = load_model(demo_checkpoint().path, "demo", device, DTYPES[way.dtype])
    if way.fp8:
        fp8.convert(model.unet, by_row=fp8.by_row(model.device))
    return model


def adherence(scenes: Sequence[Scene], painted: Painted) -> dict[str, float]:
    """Return the shares of right colours and shapes, after the paste."""
    found = judged(scenes, painted)
    return {what: round(share(found, f"{what}_right"), 3) for what in ("colour", "shape")}


def judged(scenes: Sequence[Scene], painted: Painted) -> list[Verdict]:
    """Judge each picture, after the paste."""
    pictures = [
        Image.composite(Image.fromarray((pixels * 255).round().astype(np.uint8)), scene.clean, scene.mask)
        for scene, pixels in zip(scenes, painted.pixels, strict=True)
    ]
    return verdicts(scenes, pictures)


def distances(scenes: Sequence[Scene], painted: Painted, exact: Painted) -> dict[str, Any]:
    """Return the distances to the exact way's results, over the scenes."""
    errors = [
        float((one - other).norm() / other.norm())
        for one, other in zip(painted.latents, exact.latents, strict=True)
    ]
    decibels = [
        psnr(one, other, scene.mask)
        for one, other, scene in zip(painted.pixels, exact.pixels, scenes, strict=True)
    ]
    return {
        "latent_error": {"median": round(median(errors), 6), "worst": round(max(errors), 6)},
        "psnr_db": {"median": round(median(decibels), 2), "worst": round(min(decibels), 2)},
        "slots": round(painted.slots / exact.slots, 3),
    }


def psnr(one: NDArray[np.float32], other: NDArray[np.float32], mask: Image.Image) -> float:
    """Return decibels inside the mask, at most 120: equal pictures have no ratio."""
    inside = np.asarray(mask) > 0
    error = float(np.square(one - other)[inside].mean())
    return float(-10 * np.log10(max(error, 1e-12)))


def measure(device: torch.device, scheduler: str, number: int, names: Sequence[str]) -> dict[str, Any]:
    """Compare each way with the exact one; return the figures as they go into the JSON line."""
    scenes = unseen(number, start=100)
    model = prepared(EXACT, device)
    exact = paint(model, EXACT, scenes, scheduler)
    ways: dict[str, Any] = {"exact": adherence(scenes, exact)}
    missing = dict(MISSING)
    print(f"{number} scenes, {scheduler}\n  {'exact':<24}{'':>46}{table_line(ways['exact'])}", flush=True)
    for name in names:
        way = WAYS[name]
        if way.fp8 and (reason := fp8.can(device)):
            missing[name] = reason
            continue
        same = (way.dtype, way.fp8) == (EXACT.dtype, EXACT.fp8)
        painted = paint(model if same else prepared(way, device), way, scenes, scheduler)
        ways[name] = distances(scenes, painted, exact) | adherence(scenes, painted)
        print(f"  {name:<24}{table_line(ways[name])}", flush=True)
    about = {"model": "demo", "scheduler": scheduler, "scenes": number, "missing": missing, "ways": ways}
    return conditions("lossy", device, **about)


def table_line(figures: Mapping[str, Any]) -> str:
    """Return one line of the printed table."""
    shares = f"colour {figures['colour']:6.1%}, shape {figures['shape']:6.1%}"
    if "psnr_db" not in figures:
        return shares
    error, db = figures["latent_error"], figures["psnr_db"]
    return (
        f"latents {error['median']:7.2%}, PSNR {db['median']:6.1f} dB (worst {db['worst']:5.1f}), "
        f"{shares}, slots {figures['slots']:.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--scenes", type=int, default=32, help="unseen scenes of each way (default 32)")
    options.add_argument("--scheduler", choices=SCHEDULERS, default="DDIM", help="(default DDIM)")
    options.add_argument("--only", action="append", choices=WAYS, help="ways to measure (default: all)")
    chosen = options.parse_args(arguments)
    names: Sequence[str] = chosen.only or list(WAYS)
    finish(
        lambda: measure(pick_device(chosen.device), chosen.scheduler, chosen.scenes, names),
        chosen.json,
    )


if __name__ == "__main__":
    main()
