"""Pictures a second of 1, 2, 4 and 8 simultaneous requests, and of the stock pipeline one by one.

Contenders: ``A`` the stock pipeline, ``B`` with its documentation's recipe, ``C`` ours exact, ``D`` ours in
fp8, ``E`` ours at pace near; the stock pipeline cannot share a UNet call between callers, so it paints them
in turn. Two workloads: *alike* (the reference settings, 25 steps and guidance) and *mixed* (four callers with
different schedulers, steps, strengths and guidance). Rounds are interleaved, every prompt is new. PIL in, PIL
out.

For ours also the *stall*: the share of the time in which no UNet call was running, because the engine
encoded, decoded, pasted or waited; and the seconds of encode and decode alone.

    python -m bench.throughput [--contenders A,C] [--at-once 1 2 4 8] [--workload alike] [--rounds 5]
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from bench.latency import WHAT
from bench.lib.contenders import (
    Timing,
    chosen_contenders,
    conditions,
    finish,
    interleave,
    medians,
    open_each,
    parser,
)
from bench.lib.jobs import job, mixed
from bench.lib.ours import Mode, default_model, engine_on, load
from bench.lib.own_process import Open, OwnProcess, own_process
from bench.lib.stock import RECIPES, Stock
from inpaint import Engine, InpaintRequest
from inpaint.fast.optimizations import NAMES
from inpaint.model.load import pick_device

TARGET = 1.3  # ours with four simultaneous mixed requests, to stock one by one
AT_ONCE = (1, 2, 4, 8)
Requests = list[InpaintRequest]


def alike(side: int, number: int, i: int, **changes: Any) -> Requests:
    """Return ``number`` requests of the reference settings for round ``i``."""
    return [job(side, "DDIM", **{"prompt": f"a round {i}, {n}", "seed": n, **changes}) for n in range(number)]


WORKLOADS: Mapping[str, Callable[..., Requests]] = {"alike": alike, "mixed": mixed}


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender in a process of its own, with the engine's figures of each round."""

    process: OwnProcess
    noticed: list[dict[str, float]] = field(default_factory=list)

    def paint(self, requests: Requests) -> None:
        """Paint all of them."""
        self.noticed.extend(self.process(requests))


@contextmanager
def opened(
    name: str, device: str, recipe: str, rows: int, without: frozenset[str], settle_s: float, letter: str
) -> Iterator[tuple[int, Callable[[Requests], list[dict[str, float]]]]]:
    """Open a contender on its own model; ``rows`` samples may share a UNet call of ours."""
    place = torch.device(device)
    with ThreadPoolExecutor(1) as loader:  # torch's thread pool ends with it
        model = loader.submit(load, name, place).result()
    if letter in "AB":
        stock = Stock(model, recipe if letter == "B" else None)

        def one_by_one(requests: Requests) -> list[dict[str, float]]:
            for request in requests:
                stock.paint(request)
            return []

        yield model.native_size, one_by_one
        return
    with engine_on(model, Mode.of(letter, without), max_rows=rows) as ours:
        at_once(ours.engine, alike(model.native_size, rows, -1, num_inference_steps=4))
        ours.settle(settle_s)
        yield model.native_size, lambda requests: [at_once(ours.engine, [*map(ours.request, requests)])]


def at_once(engine: Engine, requests: Requests) -> dict[str, float]:
    """Paint requests together; return the figures of the engine's loop, in seconds and shares."""
    started, before = time.perf_counter(), _steps(engine)
    jobs = [engine.submit(request) for request in requests]
    results = [job.result() for job in jobs]
    wall_s, after = time.perf_counter() - started, _steps(engine)
    stepping_s = after[1] - before[1]
    return {
        "stall": 1 - stepping_s / wall_s,
        "encode_s": sum(result.timings["encode_s"] for result in results),
        "decode_s": sum(result.timings["decode_s"] for result in results),
        "rows_per_call": (after[2] - before[2]) / (after[0] - before[0]),
    }


def _steps(engine: Engine) -> tuple[int, float, int]:
    """Return the UNet calls so far, their seconds and their rows."""
    stats = engine.stats()
    return stats.unet_calls, sum(micros for _, micros in stats.step_us.values()) / 1e6, stats.row_steps


def measure(
    contenders: Mapping[str, Contender],
    side: int,
    workloads: Sequence[str],
    numbers: Sequence[int],
    changes: Mapping[str, Any],
    rounds: Mapping[str, int],
) -> dict[str, Any]:
    """Measure each workload with each number of simultaneous requests."""
    figures: dict[str, Any] = {}
    for name in workloads:
        for number in numbers:
            make = partial(WORKLOADS[name], side, number, **changes)
            for contender in contenders.values():
                contender.noticed.clear()
            paints = {letter: contender.paint for letter, contender in contenders.items()}
            timings = interleave(paints, lambda i, place, make=make: make(100 * i + place), **rounds)
            figures.setdefault(name, {})[str(number)] = _figures(
                contenders, timings, number, rounds["warmups"]
            )
            _print(name, number, figures[name][str(number)])
    return figures


def _figures(
    contenders: Mapping[str, Contender], timings: Mapping[str, Timing], number: int, warmups: int
) -> dict[str, Any]:
    figures = {}
    for letter, timing in timings.items():
        figures[letter] = {
            "ms": timing.to_json(),
            "pictures_per_s": round(number / timing.median, 3),
            # Pictures in multiples of stock's: stock's seconds to ours.
            "gain": {base: timings[base].over(timing) for base in "AB" if base in timings and base != letter},
        }
        if contenders[letter].noticed:
            figures[letter]["loop"] = medians(contenders[letter].noticed[warmups:], digits=4)
    return figures


@contextmanager
def _in_own_process(opens: Open, threads: int | None) -> Iterator[Contender]:
    with own_process(opens, threads) as process:
        yield Contender(process)


def _print(name: str, number: int, figures: Mapping[str, Any]) -> None:
    for letter, contender in figures.items():
        line = (
            f"  {name} × {number}  {letter} {WHAT[letter]:<14} {contender['pictures_per_s']:8.3f} pictures/s"
        )
        for base, gain in contender["gain"].items():
            line += f", {gain['median_paired']:.3f} × {base}"
        if "loop" in contender:
            line += f", no UNet call for {contender['loop']['stall']:.0%} of the time"
        print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--contenders", default="A,C,E", help="letters, see above (default A,C,E)")
    options.add_argument(
        "--recipe", choices=RECIPES, help="of contender B (max-autotune on a GPU, else regional)"
    )
    options.add_argument(
        "--at-once", type=int, nargs="+", default=AT_ONCE, help="simultaneous requests (default 1 2 4 8)"
    )
    options.add_argument("--workload", choices=WORKLOADS, action="append", help="(default both)")
    options.add_argument("--steps", type=int, help="instead of the workload's own")
    options.add_argument("--side", type=int, help="of the pictures, in pixels (default: the model's own)")
    options.add_argument("--threads", type=int, help="of torch in each contender's process")
    options.add_argument(
        "--without", nargs="+", default=(), choices=NAMES, help="optimizations to leave out of ours"
    )
    options.add_argument("--rounds", type=int, default=5, help="timed rounds of each (default 5)")
    options.add_argument("--warmups", type=int, default=2, help="rounds before those (default 2)")
    options.add_argument(
        "--settle-s", type=float, default=600, help="to wait for compiled code (default 600)"
    )
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        device = pick_device(chosen.device)
        name = default_model(device, chosen.model)
        letters = chosen_contenders(chosen.contenders.upper(), WHAT)
        recipe = chosen.recipe or ("max-autotune" if device.type == "cuda" else "regional")
        rounds = {"warmups": chosen.warmups, "rounds": chosen.rounds}
        changes = {} if chosen.steps is None else {"num_inference_steps": chosen.steps}
        print(f"{name} on {device}")
        without, rows = frozenset(chosen.without), max(chosen.at_once)
        with ExitStack() as stack:
            bound = (name, str(device), recipe, rows, without, chosen.settle_s)
            contenders, missing = open_each(
                stack,
                letters,
                lambda letter: _in_own_process(partial(opened, *bound, letter), chosen.threads),
            )
            side = chosen.side or next(iter(contenders.values())).process.opened
            for contender in contenders.values():
                contender.paint(alike(side, rows, -1, **changes))
            workloads = chosen.workload or [*WORKLOADS]
            figures = measure(contenders, side, workloads, chosen.at_once, changes, rounds)
        about = {
            "model": name,
            "threads": chosen.threads,
            "recipe": recipe,
            "target": TARGET,
            "left_out": missing,
            **rounds,
        }
        return conditions("throughput", device, **about, workloads=figures)

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
