"""What ``pace="near"`` saves and what it costs: time paired with exact, and distance to the exact pictures.

- *time*: the API's default request and the reference job of the other benches, on the demo model, exact and
  near in turn; with ``--real`` the same on random weights of SDXL's shapes, which takes minutes a picture on
  a CPU. With the ratio of seconds comes that of the UNet calls, which it should equal.
- *quality*: for each sampler, PSNR inside the mask between the near and the exact picture of a seed, and the
  shares of right colours and shapes of both, on the demo model's unseen scenes. Another seed's picture is
  19 dB away.

    python -m bench.near [--scenes 96] [--scheduler NAME …] [--rounds 7] [--threads 2] [--real] [--side 512]
        [--skip time|quality] [--device cpu] [--json FILE]
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from bench.full_size import build_model
from bench.lib.contenders import conditions, finish, interleave, parser, row
from bench.lib.jobs import job
from bench.lib.ours import engine_on, load
from bench.lossy import EXACT, Way, adherence, distances, paint, prepared
from inpaint import SCHEDULERS, InpaintRequest
from inpaint.model.load import Model, pick_device, pick_dtype
from inpaint.pace import call_plan
from inpaint.request import DEFAULTS
from tools.train_demo.judge import unseen

NEAR = Way(settings={"pace": "near"})
# The hosted API's own default, and the job that performance targets are stated for.
JOBS: Mapping[str, str] = {"default": str(DEFAULTS["scheduler"]), "reference": "DDIM"}


def time_jobs(model: Model, side: int, rounds: int) -> dict[str, Any]:
    """Time each job exact and near in turn."""
    figures = {}
    with engine_on(model) as ours:
        ours.settle(600)
        for name, scheduler in JOBS.items():
            requests = {
                pace: replace(job(side, scheduler), pace=pace)  # type: ignore[arg-type]
                for pace in ("exact", "near")
            }
            plan = requests["near"].call_plan

            def painted(request: InpaintRequest, i: int) -> None:
                ours.engine.paint(replace(request, prompt=f"{request.prompt}, {i}"))

            paints = {
                pace: lambda i, request=request: painted(request, i) for pace, request in requests.items()
            }
            timings = interleave(
                paints,
                lambda i, place: 10 * i + place,
                warmups=min(rounds, 2),
                rounds=rounds,
                device=model.device,
            )
            row(f"{name}, exact", timings["exact"])
            share = plan.made / plan.calls
            row(f"{name}, near", timings["near"], timings["exact"], f"{share:.3f} of the UNet calls")
            figures[name] = {
                "scheduler": scheduler,
                "calls": [plan.made, plan.calls],
                "share_of_calls": round(share, 4),
                "ms": {pace: timing.to_json() for pace, timing in timings.items()},
                "near_over_exact": timings["near"].over(timings["exact"]),
            }
    return figures


def quality(device: torch.device, number: int, names: Sequence[str]) -> dict[str, Any]:
    """Compare near pictures with the exact ones of the same seeds, for each sampler."""
    scenes, model, figures = unseen(number, start=100), prepared(EXACT, device), {}
    for name in names:
        plan = call_plan(name, int(DEFAULTS["num_inference_steps"]), float(DEFAULTS["strength"]), "near")
        if plan.made == plan.calls:
            figures[name] = {"left_out": plan.reason}
            print(f"  {name:<18} every call is made: {plan.reason}", flush=True)
            continue
        exact = paint(model, EXACT, scenes, name)
        near = paint(model, NEAR, scenes, name)
        shares = {"exact": adherence(scenes, exact), "near": adherence(scenes, near)}
        figures[name] = distances(scenes, near, exact) | {"calls": [plan.made, plan.calls]} | shares
        decibels = figures[name]["psnr_db"]
        print(
            f"  {name:<18} {decibels['median']:5.1f} dB (worst {decibels['worst']:5.1f}), "
            f"{plan.made} of {plan.calls} calls, "
            + ", ".join(
                f"{what} {shares['near'][what]:.1%} (exact {shares['exact'][what]:.1%})"
                for what in ("colour", "shape")
            ),
            flush=True,
        )
    return figures


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
    options.add_argument("--skip", action="append", choices=("time", "quality"), default=[])
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        device = pick_device(chosen.device)
        if chosen.threads:
            torch.set_num_threads(chosen.threads)
        figures: dict[str, Any] = {"threads": torch.get_num_threads()}
        if "time" not in chosen.skip:
            model = load("demo", device)
            print("demo: milliseconds a picture, median (range)")
            figures["demo"] = time_jobs(model, model.native_size, chosen.rounds)
        if chosen.real:
            dtype = torch.bfloat16 if device.type == "cpu" else pick_dtype("auto", device)
            print(f"SDXL's shapes, random weights, {dtype}, {chosen.side}²: milliseconds a picture")
            real = time_jobs(build_model(device, dtype), chosen.side, chosen.real_rounds)
            figures["real_shapes"] = real | {"side": chosen.side, "dtype": str(dtype)}
        if "quality" not in chosen.skip:
            print(f"{chosen.scenes} scenes, near against exact, inside the mask")
            figures["quality"] = quality(device, chosen.scenes, chosen.scheduler or [*SCHEDULERS])
        return conditions("near", device, scenes=chosen.scenes, **figures)

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
