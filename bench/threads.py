"""Time of the demo model's pictures on an idle and on a busy CPU, by threads and how they wait.

Contenders, each in a process of its own, take turns: *ours*, what ``inpaint`` does when no variable is set;
*libgomp*, torch's own choice, with threads that wait actively for long; *bounded*, all threads with a short
active wait; *passive*, threads that sleep immediately; *one*, a single thread. Each paints one picture (the
hosted API's example settings, 43 UNet calls), and four mixed requests together. Then the same among N
processes that do nothing but compute. Nothing else should run meanwhile. For *libgomp* that takes minutes.

    python -m bench.threads [--busy 4] [--rounds 5] [--warmups 1] [--contenders ours,libgomp] [--json FILE]
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch

from bench.lib.contenders import Timing, chosen_contenders, conditions, finish, interleave, parser, row
from bench.lib.jobs import job, mixed
from bench.lib.own_process import OwnProcess, Work, own_process
from inpaint.cpu import cores, prepare_threads

_ALL = {"OMP_NUM_THREADS": str(cores())}  # the caller's choice, so the engine keeps to it
_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "ours": {},
    "libgomp": {**_ALL, "GOMP_SPINCOUNT": "300000"},
    "bounded": {**_ALL, "GOMP_SPINCOUNT": "1000"},
    "passive": {**_ALL, "OMP_WAIT_POLICY": "passive"},
    "one": {"OMP_NUM_THREADS": "1"},
}
_SIZES = {"one picture": 1, "four mixed": 4}


@contextlib.contextmanager
def _engine() -> Iterator[tuple[None, Work]]:
    """Load the demo model, in a contender's process; its work is painting (number, round)."""
    from inpaint import Engine

    with Engine.load("demo", device="cpu") as engine:
        side = engine.native_size

        def paint(given: tuple[int, int]) -> None:
            number, i = given
            alone = [job(side, "DPM2 Karras", prompt=f"round {i}")]
            for each in [engine.submit(r) for r in (alone if number == 1 else mixed(side, number, i))]:
                each.result()

        yield None, paint


@contextlib.contextmanager
def _contender(variables: Mapping[str, str]) -> Iterator[OwnProcess]:
    clean = {name: v for name, v in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    # A spawned process imports torch with this module, so its variables are set before it starts.
    prepared = {**clean, **variables}
    prepare_threads(prepared)
    with contextlib.ExitStack() as stack:
        with patch.dict(os.environ, prepared, clear=True):
            process = stack.enter_context(own_process(_engine, None))
        yield process


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Run processes that do nothing but compute, for the length of the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _timed(processes: Mapping[str, OwnProcess], warmups: int, rounds: int) -> dict[str, dict[str, Timing]]:
    """Time every contender's pictures: what is painted → contender → its rounds."""
    timings = {}
    for what, number in _SIZES.items():
        timings[what] = interleave(
            processes, lambda i, place, n=number: (n, i * 10 + place), warmups=warmups, rounds=rounds
        )
        for name, timing in timings[what].items():
            row(f"{what}, {name}", timing, timings[what].get("libgomp"))
    return timings


def measure(names: Sequence[str], busy: int, warmups: int, rounds: int) -> dict[str, Any]:
    """Time the contenders on the machine as it is, then among busy loops; return the figures."""
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(_contender(_VARIABLES[name])) for name in names}
        print("milliseconds without other programs")
        idle = _timed(processes, warmups, rounds)
        print(f"milliseconds among {busy} busy loops")
        with busy_loops(busy):
            loaded = _timed(processes, warmups, rounds)
    figures: dict[str, Any] = {}
    for what in _SIZES:
        figures[what] = {}
        for name in names:
            quiet, crowded = idle[what][name], loaded[what][name]
            figures[what][name] = {
                "idle_ms": quiet.to_json(),
                "busy_ms": crowded.to_json(),
                "busy_over_idle": round(crowded.median / quiet.median, 2),
            }
            print(f"{what}, {name}: {figures[what][name]['busy_over_idle']} × as long among them")
    about = {"busy": busy, "cores": cores(), "warmups": warmups, "rounds": rounds}
    return conditions("threads", torch.device("cpu"), model="demo", **about, figures=figures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench."""
    options = parser(__doc__, model=False)
    options.add_argument("--busy", type=int, default=4, help="processes that keep the CPU busy (default 4)")
    options.add_argument("--rounds", type=int, default=5, help="timed rounds of each contender (default 5)")
    options.add_argument("--warmups", type=int, default=1, help="rounds before those (default 1)")
    options.add_argument(
        "--contenders", default=",".join(_VARIABLES), help=f"some of {','.join(_VARIABLES)} (default: all)"
    )
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        names = chosen_contenders(chosen.contenders, _VARIABLES)
        return measure(names, chosen.busy, chosen.warmups, chosen.rounds)

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
