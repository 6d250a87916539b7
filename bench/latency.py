"""Seconds from picture bytes to picture bytes: the stock pipeline, its best recipe, ours, fp8, near.

Contenders, each on its own copy of the weights because some rewrite theirs, interleaved round by round:

- ``A`` the stock diffusers pipeline; ``B`` the same with its documentation's recipe (``--recipe``);
- ``C`` our engine, every exact optimization on; ``D`` our engine with ``precision="fp8"``; ``E`` like C, with
  requests at ``pace="near"``.

A round is one job: JPEG and PNG in, JPEG out, guidance 7.5, strength 0.9, one sample, a new prompt each time,
one wait for the device. Separate rounds then measure the stages, the peak memory, the synchronisations and
the operations, so that they do not slow a timed one. ``--optimizations`` also times C
without each optimization in turn, paired with C. Without a GPU all of it runs on the demo model, and the
first line says so: such figures say nothing about SDXL.

    python -m bench.latency [--device cuda] [--contenders A,B,C,D,E] [--recipe max-autotune] [--optimizations]
        [--without OPTIMIZATION] [--rounds 10]
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.lib.contenders import (
    Timing,
    chosen_contenders,
    conditions,
    finish,
    interleave,
    medians,
    open_each,
    parser,
    row,
)
from bench.lib.device import MIB, count_syncs, counted_tflop, extra_bytes, held_bytes, matmul_tflops
from bench.lib.jobs import SETTINGS, Upload, job, pictures
from bench.lib.ours import Mode, default_model, engine_on, load
from bench.lib.stock import RECIPES, Stock
from inpaint import InpaintRequest
from inpaint.fast.optimizations import NAMES, OPTIMIZATIONS
from inpaint.model.load import Model, pick_device
from inpaint.schedulers import SCHEDULERS

WHAT: Mapping[str, str] = {
    "A": "stock",
    "B": "stock, recipe",
    "C": "ours, exact",
    "D": "ours, fp8",
    "E": "ours, near",
}
_STAGE_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a run."""

    device: torch.device
    model: str
    contenders: tuple[str, ...]
    recipe: str
    scheduler: str
    steps: int
    side: int | None  # pixels; None: the model's native size
    warmups: int
    rounds: int
    settle_s: float
    without: frozenset[str]
    optimizations: bool

    def uploads(self, model: Model) -> Callable[[int, int], Upload]:
        """Return (round, place) → the job as files, each with a new prompt: ours keeps embeddings."""
        image, mask = pictures(self.side or model.native_size)
        settings = {**SETTINGS, "scheduler": self.scheduler, "num_inference_steps": self.steps}
        of = Upload.of(image, mask, settings)

        def upload(i: int, place: int) -> Upload:
            return Upload(of.image, of.mask, {**settings, "prompt": f"{settings['prompt']}, {i} {place}"})

        return upload


@dataclass(frozen=True, slots=True)
class Contender:
    """A way from an upload to a picture."""

    model: Model
    paint: Callable[[Upload], bytes]
    stages: Callable[[InpaintRequest], dict[str, float]]  # milliseconds
    settle: Callable[[float], float]  # seconds at most → seconds waited while it compiles
    optimizations: tuple[str, ...]
    resident_bytes: int  # of the device's memory, before it paints


@contextmanager
def opened(plan: Plan, letter: str, without: frozenset[str] = frozenset()) -> Iterator[Contender]:
    """Open a contender on its own copy of the model."""
    before = held_bytes(plan.device)
    model = load(plan.model, plan.device)
    if letter in "AB":
        stock = Stock(model, plan.recipe if letter == "B" else None)
        resident = held_bytes(plan.device) - before
        yield Contender(model, stock.paint_upload, stock.stages, lambda timeout_s: 0.0, (), resident)
        return
    with engine_on(model, Mode.of(letter, plan.without | without)) as ours:
        resident = held_bytes(plan.device) - before
        yield Contender(model, ours.paint_upload, ours.stages, ours.settle, ours.fast.optimizations, resident)


def measure(plan: Plan) -> dict[str, Any]:
    """Measure everything; return the figures as they go into the JSON line."""
    with ExitStack() as stack:
        _introduce(plan)
        contenders, missing = open_each(stack, plan.contenders, partial(opened, plan))
        model = next(iter(contenders.values())).model
        uploads = plan.uploads(model)
        painted = {letter: contender.paint(uploads(-99, 0)) for letter, contender in contenders.items()}
        compiling = {letter: contender.settle(plan.settle_s) for letter, contender in contenders.items()}
        timings = _timed(plan, {letter: contender.paint for letter, contender in contenders.items()}, uploads)
        for letter, timing in timings.items():
            row(f"{letter} {WHAT[letter]}", timing, timings.get("A") if letter != "A" else None)
        side = plan.side or model.native_size
        figures = {
            letter: {
                "what": WHAT[letter],
                **_figures(
                    plan,
                    contender,
                    timings,
                    letter,
                    uploads(-98, 0),
                    job(side, plan.scheduler, num_inference_steps=plan.steps),
                ),
                "from_A": _from_stock(painted[letter], painted.get("A"), pictures(side)[1]),
                "optimizations": contender.optimizations,
                "compiling_s": round(compiling[letter], 1),
            }
            for letter, contender in contenders.items()
        }
        rates = _rates(plan, contenders, timings, uploads(-97, 0))
    return conditions(
        "latency",
        plan.device,
        model=plan.model,
        size=[side, side],
        dtype=str(model.dtype),
        scheduler=plan.scheduler,
        steps=plan.steps,
        recipe=plan.recipe,
        warmups=plan.warmups,
        rounds=plan.rounds,
        left_out=missing,
        contenders=figures,
        rates=rates,
        optimizations=measure_optimizations(plan) if plan.optimizations else {},
    )


def _introduce(plan: Plan) -> None:
    small = " (a CPU and its model: this says nothing of SDXL on a GPU)" if plan.device.type == "cpu" else ""
    print(f"{plan.model} on {plan.device}{small}, {plan.scheduler}: milliseconds a picture, median (range)")


def _timed(plan: Plan, paints: Mapping[str, Any], uploads: Callable[[int, int], Upload]) -> dict[str, Timing]:
    rounds: dict[str, Any] = {"warmups": plan.warmups, "rounds": plan.rounds, "device": plan.device}
    return interleave(paints, uploads, **rounds)


def _figures(
    plan: Plan,
    contender: Contender,
    timings: Mapping[str, Timing],
    letter: str,
    upload: Upload,
    request: InpaintRequest,
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "ms": timings[letter].to_json(),
        "over": {base: timings[letter].over(timings[base]) for base in "AB" if base in timings},
        "stages_ms": medians([contender.stages(request) for _ in range(_STAGE_ROUNDS)]),
    }
    if plan.device.type == "cuda":
        peak = contender.resident_bytes + extra_bytes(lambda: contender.paint(upload), plan.device)
        figures |= {"resident_mib": contender.resident_bytes // MIB, "peak_mib": peak // MIB}
        figures |= {"syncs": count_syncs(lambda: contender.paint(upload), plan.device)}
    return figures


def distance(picture: Image.Image, other: Image.Image, mask: Image.Image) -> dict[str, float | None]:
    """Compare two pictures inside a mask: contenders that paint differently do not do the same job."""
    inside = np.asarray(mask) > 0
    a, b = (np.asarray(image, np.float32)[inside] for image in (picture, other))
    error = float(((a - b) ** 2).mean())
    psnr = round(10 * math.log10(255**2 / error), 2) if error else None  # None: they are the same
    return {"levels": float(np.abs(a - b).max()), "psnr_db": psnr}


def _from_stock(painted: bytes, stock: bytes | None, mask: Image.Image) -> dict[str, float | None] | None:
    if stock is None:
        return None
    ours, theirs = (Image.open(io.BytesIO(data)) for data in (painted, stock))
    return distance(ours, theirs, mask)


def _rates(
    plan: Plan, contenders: Mapping[str, Contender], timings: Mapping[str, Timing], upload: Upload
) -> dict[str, Any]:
    """Return the job's operations, counted in contender A, and each contender's use of the device."""
    if "A" not in contenders:
        return {}
    contender = contenders["A"]
    tflop = counted_tflop(lambda: contender.paint(upload), plan.device)
    matmul = matmul_tflops(plan.device, contender.model.dtype)
    effective = {letter: tflop / timing.median for letter, timing in timings.items()}
    print(f"  {tflop:.4g} TFLOP a picture; a matrix product runs at {matmul:.4g} TFLOP/s")
    return {
        "tflop": float(f"{tflop:.4g}"),
        "matmul_tflops": float(f"{matmul:.4g}"),
        "effective_tflops": {letter: float(f"{rate:.4g}") for letter, rate in effective.items()},
    }


def measure_optimizations(plan: Plan) -> dict[str, Any]:
    """Time contender C without each optimization in turn, paired with all of them."""
    figures: dict[str, Any] = {}
    with opened(plan, "C") as whole:
        uploads = plan.uploads(whole.model)
        for optimization in OPTIMIZATIONS:
            if optimization.name not in whole.optimizations:  # off in both: its ratio would be noise
                figures[optimization.name] = {
                    "left_out": optimization.why_not(whole.model) or f"{optimization.kind}, or left out"
                }
                print(f"  {optimization.name}: {figures[optimization.name]}")
                continue
            with opened(plan, "C", frozenset({optimization.name})) as without:
                for contender in (whole, without):
                    contender.paint(uploads(-99, 0))
                    contender.settle(plan.settle_s)
                timings = _timed(plan, {"all": whole.paint, "without": without.paint}, uploads)
            row(f"without {optimization.name}", timings["without"], timings["all"])
            ratio = timings["without"].over(timings["all"])
            figures[optimization.name] = {
                "ms": {n: t.to_json() for n, t in timings.items()},
                "without_over_all": ratio,
            }
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--contenders", default="A,B,C,D,E", help="letters, see above (default all)")
    options.add_argument(
        "--recipe", choices=RECIPES, help="of contender B (max-autotune on a GPU, else regional)"
    )
    options.add_argument("--scheduler", choices=SCHEDULERS, default="DDIM")
    options.add_argument("--steps", type=int, default=25, help="of the job (default 25)")
    options.add_argument(
        "--side", type=int, help="of the picture, in pixels (default: the model's native size)"
    )
    options.add_argument(
        "--optimizations", action="store_true", help="also time C without each optimization in turn"
    )
    options.add_argument(
        "--without", nargs="+", default=(), choices=NAMES, help="optimizations to leave out of ours"
    )
    options.add_argument("--rounds", type=int, default=10, help="timed rounds (default 10)")
    options.add_argument("--warmups", type=int, default=3, help="rounds before those (default 3)")
    options.add_argument(
        "--settle-s", type=float, default=600, help="to wait for compiled code (default 600)"
    )
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        device = pick_device(chosen.device)
        if device.type == "cpu":
            # The thread pools of several contenders in one process slow each other down.
            torch.set_num_threads(1)
        return measure(
            Plan(
                device=device,
                model=default_model(device, chosen.model),
                contenders=chosen_contenders(chosen.contenders.upper(), WHAT),
                recipe=chosen.recipe or ("max-autotune" if device.type == "cuda" else "regional"),
                scheduler=chosen.scheduler,
                steps=chosen.steps,
                side=chosen.side,
                warmups=chosen.warmups,
                rounds=chosen.rounds,
                settle_s=chosen.settle_s,
                without=frozenset(chosen.without),
                optimizations=chosen.optimizations,
            )
        )

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
