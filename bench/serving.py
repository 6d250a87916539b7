"""Requests a second served in time by ``inpaint serve`` and by a lock around diffusers.

Both servers run as separate processes with the same model and number of threads, and get the same traces:
an open loop, Poisson, of five kinds of requests (see ``bench.lib.traffic``). A request is good if a valid
picture comes within ``--slowdown`` (5) times its kind's seconds alone, counted from when it was due; one that
is refused is a miss. Two yardsticks, from the same runs: a kind's seconds alone *on the lock*, the same for
both, and *on each itself*. Figures:

- the highest rate at which 99 % of the requests are good, over all seeds together, found by bisection;
- goodput at that rate and at 1.25 and 1.5 times that rate, to see if an overloaded server still serves as
  many as it can.

Contenders take turns; the one that is not measured is idle. Before the timing both must paint the same.
``--quick`` sends too few requests for figures and only shows that the bench runs. On a GPU both models must
fit. With ``--at`` there is no search: both get these rates, as far as there is time.

    python -m bench.serving [--quick] [--at RATE] [--device cpu] [--threads 1] [--setting max_rows=4]
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from bench.lib.attainment import YARDSTICKS, Bench, Plan
from bench.lib.contenders import conditions, finish, parser
from bench.lib.search import Search
from bench.lib.servers import CONTENDERS, LOCK, OURS, environments, served
from bench.lib.traffic import MIX, Kind
from bench.lock_baseline import folder_of
from inpaint.model.load import pick_device

FULL = Plan(requests=100, seeds=3, rounds=7, step=1.1, budget_s=3600.0)
QUICK = Plan(requests=12, seeds=1, rounds=2, step=1.5, budget_s=120.0, tries=2, past=(1.0, 1.5))
TARGET = 1.5  # ours to the lock
VAE_FACTOR = 8  # pixels per latent pixel, SDXL's


async def measure(
    plan: Plan,
    urls: Mapping[str, str],
    native: int,
    kinds: Sequence[Kind],
    *,
    at: Sequence[float] = (),
    may_differ: bool,
) -> dict[str, Any]:
    """Run the whole bench on two running servers; with ``at``, only these rates."""
    started = time.monotonic()
    bench = Bench(plan, urls, native, started + (1 - plan.for_curve) * plan.budget_s, kinds)
    differences = await bench.same_pictures(may_differ=may_differ)
    await bench.measure_alone()
    searches = (
        {contender: {y: Search() for y in YARDSTICKS} for contender in CONTENDERS}
        if at
        else await bench.search()
    )
    bench.end = started + plan.budget_s
    found = [rate for contender in CONTENDERS if (rate := highest(bench, searches[contender][LOCK]))]
    await bench.curve(sorted({*at, *(factor * rate for factor in plan.past for rate in found)}))
    return {
        **report(bench, searches, differences),
        "measured_for_s": round(time.monotonic() - started, 1),
    }


def highest(bench: Bench, search: Search) -> float | None:
    """Return the highest passed rate in requests a second; None if no rate has passed."""
    return None if search.passed is None else bench.rate(search.passed)


def report(
    bench: Bench,
    searches: Mapping[str, Mapping[str, Search]],
    differences: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return the figures as they go into the JSON line."""
    tops = {
        contender: {y: highest(bench, found[y]) for y in YARDSTICKS} for contender, found in searches.items()
    }
    return {
        "kinds": [
            {
                **asdict(kind),
                "size": kind.size(bench.native),
                "alone_s": {
                    contender: round(bench.alone[contender][kind.name], 4) for contender in CONTENDERS
                },
                "levels_apart": differences[kind.name],
            }
            for kind in bench.kinds
        ],
        "lock_capacity_per_s": round(bench.capacity(), 3),
        "highest_rate_per_s": {
            contender: {y: _rounded(top[y]) for y in YARDSTICKS} for contender, top in tops.items()
        },
        "search_complete": all(s.next_notch() is None for found in searches.values() for s in found.values()),
        "ours_over_lock": {y: _ratio(tops[OURS][y], tops[LOCK][y]) for y in YARDSTICKS},
        "target": TARGET,
        "goodput_past_highest": {
            contender: _past(bench, contender, tops[contender][LOCK]) for contender in CONTENDERS
        },
        "curve": bench.points(),
    }


def _past(bench: Bench, contender: str, top: float | None) -> dict[str, float]:
    """Return multiples of a contender's highest rate → good requests a second, on the lock's yardstick."""
    rates = {} if top is None else {factor: factor * top for factor in bench.plan.past}
    measured = {rate for of, rate, _ in bench.runs if of == contender}
    return {
        str(factor): bench.point(contender, rate)["goodput_per_s"][LOCK]
        for factor, rate in rates.items()
        if rate in measured
    }


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 3)


def _ratio(ours: float | None, lock: float | None) -> float | None:
    return None if ours is None or lock is None else round(ours / lock, 3)


def table(figures: Mapping[str, Any]) -> None:
    """Print a table of both contenders by rate, then the ratio."""
    print("contender  requests/s  good by the lock's seconds, by its own   median s   p99 s   answers")
    for point in figures["curve"]:
        by_lock, own = (point["attainment"][y] for y in YARDSTICKS)
        median, p99 = (point["seconds"].get(name, float("nan")) for name in ("median", "p99"))
        print(
            f"{point['contender']:<9} {point['rate']:>10.2f} {by_lock:>27.1%} {own:>12.1%} "
            f"{median:>10.2f} {p99:>7.2f}   {point['answers']}"
        )
    for yardstick in YARDSTICKS:
        rates = {contender: figures["highest_rate_per_s"][contender][yardstick] for contender in CONTENDERS}
        print(f"highest rate, {yardstick}: {rates}, ratio {figures['ours_over_lock'][yardstick]}")


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    names = [field.name for field in fields(Plan)]
    given = {name: value for name in names if (value := getattr(chosen, name, None)) is not None}
    plan = replace(QUICK if chosen.quick else FULL, **given)
    torch.set_num_threads(chosen.threads)  # this process' own, which the conditions name
    finish(lambda: compare(chosen, plan), chosen.json)


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = parser(__doc__)
    found.add_argument("--dtype", default="auto", help="auto, float16, bfloat16 or float32 (default auto)")
    found.add_argument("--threads", type=int, default=1, help="of torch in each server (default 1)")
    found.add_argument(
        "--quick", action="store_true", help="a short run, to see that it works: its figures mean nothing"
    )
    found.add_argument("--requests", type=int, help=f"of one run (default {FULL.requests})")
    found.add_argument("--seeds", type=int, help=f"runs of a rate (default {FULL.seeds})")
    found.add_argument("--rounds", type=int, help=f"of each kind alone (default {FULL.rounds})")
    found.add_argument("--step", type=float, help=f"from one rate to the next (default {FULL.step})")
    found.add_argument("--budget-s", type=float, help=f"for all of it (default {FULL.budget_s:g})")
    found.add_argument(
        "--at",
        type=float,
        action="append",
        default=[],
        metavar="RATE",
        help="requests a second: measure this rate instead of searching",
    )
    found.add_argument(
        "--slowdown",
        type=float,
        help=f"times the seconds alone that are still good (default {FULL.slowdown:g})",
    )
    found.add_argument(
        "--share", type=float, help=f"of the requests that must be good (default {FULL.share:g})"
    )
    found.add_argument("--kind", action="append", choices=[kind.name for kind in MIX], help="default: all")
    found.add_argument("--may-differ", action="store_true", help="allow different pictures, in lossy modes")
    found.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="of ours, as INPAINT_NAME"
    )
    return found


def compare(chosen: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """Start both servers and measure them.

    Raises:
        InpaintError: there is no such model or device.
    """
    device = pick_device(chosen.device)
    model = chosen.model or ("full-size" if device.type == "cuda" else "demo")
    details = {"threads_each": chosen.threads, "plan": asdict(plan), "settings": chosen.setting}
    about = conditions("serving", device, model=model, **details)
    with tempfile.TemporaryDirectory() as data, ExitStack() as stack:
        path = str(_random_weights(Path(data)) if model == "full-size" else model)
        native = _native_side(folder_of(path))
        same = ["--model", path, "--device", chosen.device, "--dtype", chosen.dtype]
        programs = {
            LOCK: ["bench.lock_baseline", *same],
            OURS: ["inpaint", "serve", *same, "--port", "0", "--data", data, "--log-level", "ERROR"],
        }
        variables = environments(chosen.threads, plan.slowdown, chosen.setting)
        urls = {
            contender: stack.enter_context(
                served(programs[contender], variables[contender], Path(data, f"{contender}.log"))
            )
            for contender in CONTENDERS
        }
        kinds = [kind for kind in MIX if chosen.kind is None or kind.name in chosen.kind]
        figures = about | asyncio.run(
            measure(plan, urls, native, kinds, at=chosen.at, may_differ=chosen.may_differ)
        )
    table(figures)
    return figures


def _random_weights(folder: Path) -> Path:
    """Write a checkpoint of SDXL's shapes, 7 GB, for two processes to load; it is deleted with the bench."""
    from tools.full_size.make import write_checkpoint

    write_checkpoint(folder / "full-size")
    return folder / "full-size"


def _native_side(folder: Path) -> int:
    """Return the side in pixels that a checkpoint's UNet was trained on."""
    config = json.loads((folder / "unet" / "config.json").read_text("utf-8"))
    return int(config["sample_size"]) * VAE_FACTOR


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: the servers end as well
    main()
