"""Pictures of every sampler over its number of UNet calls: how near the finished one, and are they right.

The demo model paints its unseen scenes at the API's defaults but for the sampler and its steps. For each: the
UNet calls, PSNR inside the mask to the same sampler's 50 steps with the same seeds, and the shares of right
colours and shapes. Samplers that draw noise between calls have no such distance: with other steps they draw
other noise, and paint another picture.

Calls are counted, and time is not measured: a call takes the same time with every sampler. The file of
``--json`` is written after each sampler, and a later run with the same options measures only what it lacks.

    python -m bench.samplers [--scenes 16] [--steps 12,20,25] [--scheduler "DPM Multi Karras"] [--json FILE]
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.lib.contenders import conditions, finish, parser
from bench.lossy import EXACT, Painted, Way, adherence, paint, prepared, psnr
from inpaint import SCHEDULERS
from inpaint.model.load import Model, pick_device
from inpaint.request import DEFAULTS
from inpaint.schedulers import unet_calls
from tools.train_demo.judge import unseen
from tools.train_demo.scenes import Scene

FINE = 50  # steps of the picture that the others are compared with
STEPS = (12, 20, 25)


def by_steps(
    model: Model, scheduler: str, scenes: Sequence[Scene], steps: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Measure one sampler at each number of steps, the finest first."""
    fine = None if SCHEDULERS[scheduler].adds_noise else painted(model, scheduler, scenes, FINE)
    found = {}
    for number in [FINE, *steps] if fine else steps:
        one = fine if number == FINE and fine else painted(model, scheduler, scenes, number)
        found[str(number)] = {
            "calls": calls(scheduler, number),
            "psnr_db": nearness(scenes, one, fine) if fine and one is not fine else None,
            **adherence(scenes, one),
        }
        print(table_line(scheduler, number, found[str(number)]), flush=True)
    return found


def painted(model: Model, scheduler: str, scenes: Sequence[Scene], steps: int) -> Painted:
    """Paint every scene, exactly."""
    return paint(model, Way(settings={"num_inference_steps": steps}), scenes, scheduler)


def calls(scheduler: str, steps: int) -> int:
    """Return the UNet calls of one picture at the default strength."""
    return unet_calls(scheduler, steps, float(DEFAULTS["strength"]))


def nearness(scenes: Sequence[Scene], one: Painted, fine: Painted) -> dict[str, float]:
    """Return the median and the worst PSNR in dB inside the masks."""
    decibels = [psnr(a, b, scene.mask) for a, b, scene in zip(one.pixels, fine.pixels, scenes, strict=True)]
    return {"median": round(median(decibels), 1), "worst": round(min(decibels), 1)}


def table_line(scheduler: str, steps: int, figures: dict[str, Any]) -> str:
    """Return one line of the printed table."""
    db = figures["psnr_db"]
    near = f"{db['median']:5.1f} dB (worst {db['worst']:4.1f})" if db else f"{'':21}"
    shares = f"colour {figures['colour']:6.1%}, shape {figures['shape']:6.1%}"
    return f"  {scheduler:<22}{steps:>4} steps {figures['calls']:>4} calls  {near}  {shares}"


def measure(
    device: torch.device, number: int, steps: Sequence[int], schedulers: Sequence[str], keep: Path | None
) -> dict[str, Any]:
    """Measure each sampler that ``keep`` lacks; return the figures as they go into the JSON line."""
    scenes = unseen(number, start=100)
    model = prepared(EXACT, device)
    about = {"model": "demo", "scenes": number, "steps": list(steps), "fine": FINE}
    figures = conditions("samplers", device, **about, samplers=kept(keep, about))
    print(f"{number} scenes, distance to {FINE} steps of the same sampler", flush=True)
    for name in schedulers:
        if name not in figures["samplers"]:
            figures["samplers"][name] = by_steps(model, name, scenes, steps)
            if keep:
                keep.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return figures


def kept(keep: Path | None, about: dict[str, Any]) -> dict[str, Any]:
    """Return the samplers that an earlier run with the same options wrote into ``keep``."""
    if keep is None or not keep.is_file():
        return {}
    earlier = json.loads(keep.read_text("utf-8"))
    same = all(earlier.get(name) == value for name, value in about.items())
    return dict(earlier["samplers"]) if same else {}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--scenes", type=int, default=16, help="unseen scenes of each (default 16)")
    options.add_argument("--steps", default=",".join(map(str, STEPS)), help="(default %(default)s)")
    options.add_argument(
        "--scheduler", action="append", choices=SCHEDULERS, help="samplers to measure (default: all)"
    )
    chosen = options.parse_args(arguments)
    steps = [int(number) for number in chosen.steps.split(",")]
    finish(
        lambda: measure(
            pick_device(chosen.device),
            chosen.scenes,
            steps,
            chosen.scheduler or list(SCHEDULERS),
            chosen.json,
        ),
        chosen.json,
    )


if __name__ == "__main__":
    main()
