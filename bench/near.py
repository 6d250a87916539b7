"""What ``pace="near"`` saves and what it costs: time paired with exact, and distance to the exact pictures.

- *time*: the API's default request and the reference job of the other benches, in turn exact, near, and near
  with the UNet's deepest level from a cache, on the demo model; with ``--real`` the same on random weights of
  SDXL's shapes, which takes minutes a picture on a CPU. With each ratio of seconds comes the ratio of the
  UNet's operations, counted, which that of the steps alone should equal.
- *quality*: for each sampler, PSNR inside the mask between the near and the exact picture of a seed, and the
  shares of right colours and shapes of both, on the demo model's unseen scenes. Another seed's picture is
  19 dB away.

    python -m bench.near [--scenes 96] [--scheduler NAME …] [--rounds 7] [--threads 2] [--real] [--side 512]
        [--real-rounds 1] [--job NAME …] [--skip time|quality] [--device cpu] [--json FILE]

What FILE has of a part, a job or a sampler that is left out stays there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.full_size import build_model
from bench.lib.contenders import Timing, conditions, finish, interleave, parser, row
from bench.lib.deep_calls import measure as time_calls
from bench.lib.device import counted_tflop
from bench.lib.jobs import job
from bench.lib.ours import load
from bench.lossy import EXACT, Way, adherence, distances, judged, paint, prepared
from inpaint import SCHEDULERS, Engine, InpaintRequest
from inpaint.batching.work import Bucket
from inpaint.fast.optimizations import Fast, choose, ready
from inpaint.fast.shapes import CACHED, example, usual
from inpaint.model import deep_level
from inpaint.model.load import Model, pick_device, pick_dtype
from inpaint.model.unet import plain
from inpaint.pace import DEEP_LEVEL, call_plan
from inpaint.request import DEFAULTS
from tools.train_demo.judge import Verdict, unseen

WAYS: Mapping[str, Way] = {
    "near": Way(settings={"pace": "near"}),
    "near, cached": Way(settings={"pace": "near"}, cached=True),
}
# The hosted API's own default, and the job that performance targets are stated for.
JOBS: Mapping[str, str] = {"default": str(DEFAULTS["scheduler"]), "reference": "DDIM"}


@dataclass(frozen=True, slots=True)
class Contender:
    """A pace, on an engine with or without the cache."""

    pace: str
    cached: bool = False


CONTENDERS: Mapping[str, Contender] = {
    "exact": Contender("exact"),
    "near": Contender("near"),
    "near, cached": Contender("near", cached=True),
}


def time_jobs(
    model: Model, side: int, rounds: int, warmups: int, names: Sequence[str] = tuple(JOBS)
) -> dict[str, Any]:
    """Time each job at each pace in turn, with two engines: the cache is an optimization of an engine.

    Returns:
        For each job the work and the time of each pace for exact's: of whole pictures, and of their steps
        alone, which text and VAE do not dilute.
    """
    chosen = [name for name in choose(model) if name != DEEP_LEVEL]
    fast = ready(model, [*chosen, DEEP_LEVEL])
    share = level_share(model, side)
    with Engine(model, fast=fast) as engine, Engine(model, fast=Fast(chosen, fast, None, None)) as uncached:
        fast.wait(600)
        figures: dict[str, Any] = {"cached_call_share": round(share, 4)}
        for name in names:
            scheduler = JOBS[name]
            request = job(side, scheduler)
            steps: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}

            def paints(
                letter: str, request: InpaintRequest = request, steps: dict[str, list[float]] = steps
            ) -> Callable[[int], object]:
                used = engine if CONTENDERS[letter].cached else uncached
                paced = replace(request, pace=CONTENDERS[letter].pace)  # type: ignore[arg-type]

                def paint_one(i: int) -> None:
                    result = used.paint(replace(paced, prompt=f"{paced.prompt}, {i}"))
                    if i >= 0:  # not a warm-up
                        steps[letter].append(result.timings["denoise_s"])

                return paint_one

            timings = interleave(
                {letter: paints(letter) for letter in CONTENDERS},
                lambda i, place: 10 * i + place,
                warmups=warmups,
                rounds=rounds,
                device=model.device,
            )
            of_steps = {letter: Timing(tuple(seconds)) for letter, seconds in steps.items()}
            plan = replace(request, pace="near").call_plan
            work = {"near": plan.made, "near, cached": plan.made - len(plan.cached) * (1 - share)}
            row(f"{name}, exact", timings["exact"])
            for letter, calls in work.items():
                note = f"{calls / plan.calls:.3f} of the UNet's work"
                row(f"{name}, {letter}", timings[letter], timings["exact"], note)
            figures[name] = {
                "scheduler": scheduler,
                "calls": [plan.made, plan.calls],
                "work": {letter: round(calls / plan.calls, 4) for letter, calls in work.items()},
                "ms": {letter: timing.to_json() for letter, timing in timings.items()},
                "over_exact": {letter: timings[letter].over(timings["exact"]) for letter in work},
                "steps_over_exact": {letter: of_steps[letter].over(of_steps["exact"]) for letter in work},
            }
            print(f"  {name}, steps alone, for exact's: {figures[name]['steps_over_exact']}", flush=True)
    return figures


def level_share(model: Model, side: int) -> float:
    """Return the operations of a call that takes the deepest level from a cache, for each of a full one."""
    forward = deep_level.wrap(model.unet, plain(model.unet))
    latent = Bucket(side // model.vae_factor, side // model.vae_factor)
    full, cached = (example(model, usual(model, latent, 1, level=level)) for level in ("", CACHED))
    with torch.inference_mode():
        counted = [counted_tflop(partial(forward, batch), model.device) for batch in (full, cached)]
    return counted[1] / counted[0]


def quality(device: torch.device, number: int, names: Sequence[str]) -> dict[str, Any]:
    """Compare near pictures with the exact ones of the same seeds, for each sampler."""
    scenes, model, figures = unseen(number, start=100), prepared(EXACT, device), {}
    for name in names:
        exact = paint(model, EXACT, scenes, name)
        found: dict[str, Any] = {"exact": adherence(scenes, exact)}
        for way, settings in WAYS.items():
            plan = call_plan(name, int(DEFAULTS["num_inference_steps"]), float(DEFAULTS["strength"]), "near")
            if not plan.forecast and not (settings.cached and plan.cached):
                found[way] = {"left_out": plan.reason}
                continue
            near = paint(model, settings, scenes, name)
            found[way] = distances(scenes, near, exact) | adherence(scenes, near)
            found[way]["unlike_verdicts"] = _unlike(judged(scenes, near), judged(scenes, exact))
            found[way]["calls"] = [plan.made, plan.calls, len(plan.cached) if settings.cached else 0]
            print(_line(f"{name}, {way}", found[way], found["exact"]), flush=True)
        figures[name] = found
    return figures


def _unlike(some: Sequence[Verdict], others: Sequence[Verdict]) -> int:
    """Return the number of scenes whose colour or shape is right in one of the two only."""
    pairs = [[(one.colour_right, one.shape_right) for one in found] for found in (some, others)]
    return sum(one != other for one, other in zip(*pairs, strict=True))


def _line(name: str, found: Mapping[str, Any], exact: Mapping[str, float]) -> str:
    made, calls, cached = found["calls"]
    decibels = found["psnr_db"]
    shares = [f"{what} {found[what]:.1%} (exact {exact[what]:.1%})" for what in ("colour", "shape")]
    return (
        f"  {name:<34} {decibels['median']:5.1f} dB (worst {decibels['worst']:5.1f}), "
        f"{made} of {calls} calls, {cached} of them cached, {', '.join(shares)}, "
        f"{found['unlike_verdicts']} unlike verdicts"
    )


def _kept(file: Path | None) -> dict[str, Any]:
    """Return the parts that an earlier run left in the file; those that this run measures replace them."""
    if file is None or not file.exists():
        return {}
    found = json.loads(file.read_text("utf-8"))
    return {part: found[part] for part in ("demo", "real_shapes", "quality") if part in found}


def _time_real(device: torch.device, side: int, rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """Time SDXL's shapes with random weights: single calls, then pictures."""
    dtype = torch.bfloat16 if device.type == "cpu" else pick_dtype("auto", device)
    model = build_model(device, dtype)
    model.unet.register_to_config(sample_size=side // model.vae_factor)  # the box is painted at this side
    print(f"SDXL's shapes, random weights, {dtype}, {side}²: milliseconds a picture", flush=True)
    about = {"side": side, "dtype": str(dtype).removeprefix("torch.")}
    calls = time_calls(model.unet, side) if device.type == "cpu" else None
    return about | {"one_call": calls} | time_jobs(model, side, rounds, 0, names)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--scenes", type=int, default=96, help="of each sampler (default 96)")
    options.add_argument(
        "--scheduler", action="append", choices=SCHEDULERS, help="may be repeated (default: all)"
    )
    options.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    options.add_argument("--threads", type=int, help="of torch, on a CPU")
    options.add_argument("--real", action="store_true", help="time random weights of SDXL's shapes, too")
    options.add_argument("--side", type=int, default=512, help="of those pictures (default 512)")
    options.add_argument("--real-rounds", type=int, default=1, help="of those (default 1)")
    options.add_argument("--job", action="append", choices=JOBS, help="of those (default: both, in turn)")
    options.add_argument("--skip", action="append", choices=("time", "quality"), default=[])
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        device = pick_device(chosen.device)
        if chosen.threads:
            torch.set_num_threads(chosen.threads)
        figures = _kept(chosen.json) | {"threads": torch.get_num_threads()}
        if "time" not in chosen.skip:
            print("demo: milliseconds a picture, median (range)")
            figures["demo"] = time_jobs(
                load("demo", device), 128, chosen.rounds, warmups=min(chosen.rounds - 1, 2)
            )
        if chosen.real:
            timed = _time_real(device, chosen.side, chosen.real_rounds, chosen.job or [*JOBS])
            figures["real_shapes"] = figures.get("real_shapes", {}) | timed
        if "quality" not in chosen.skip:
            print(f"{chosen.scenes} scenes, near against exact, inside the mask")
            found = quality(device, chosen.scenes, chosen.scheduler or [*SCHEDULERS])
            figures["quality"] = figures.get("quality", {}) | found
        return conditions("near", device, scenes=chosen.scenes, **figures)

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
