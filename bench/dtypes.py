"""Time of SDXL's UNet call on a CPU in fp32 and in bf16, at the real size with random weights.

Each dtype is computed as the engine would, with the optimizations that it chooses for it. The dtypes take
turns, and only one model is in memory at a time: 14 GB in fp32 (11 of them the UNet), 7 in bf16. Measured are
the CPU seconds of one thread, which other programs on the machine do not count in.

    python -m bench.dtypes [--side 512] [--slots 1] [--turns 2] [--rounds 2] [--json FILE]
"""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.full_size import Parts, build_model, check_lively, start_rows
from bench.lib.contenders import Timing, conditions, finish, parser, row
from inpaint.cpu import bf16_units
from inpaint.fast.optimizations import choose, ready
from inpaint.model.denoise import step
from inpaint.model.load import DTYPES

_NAMES = ("float32", "bfloat16")
_CPU = torch.device("cpu")
_NOT_HERE = frozenset({"compile", "graphs"})  # a GPU's


def time_calls(
    dtype: torch.dtype, side: int, slots: int, rounds: int, parts: Parts | None
) -> tuple[list[float], tuple[str, ...]]:
    """Return the CPU seconds of ``rounds`` calls, and the optimizations that they were made with."""
    model = build_model(_CPU, dtype, parts)
    names = choose(model, _NOT_HERE)
    forward = ready(model, names, slots=slots)
    # Rows without guidance take one slot each; a guided one takes two, with the same work.
    rows = start_rows(model, side, slots, guidance_scale=1.0)
    step(model, rows, forward)
    seconds = []
    for _ in range(rounds):
        started = time.thread_time()
        step(model, rows, forward)
        seconds.append(time.thread_time() - started)
    check_lively(f"prediction in {dtype}", rows[0].latents)
    return seconds, names


def measure(
    side: int, slots: int, turns: int, rounds: int, parts: Callable[[], Parts | None] = lambda: None
) -> dict[str, Any]:
    """Time both dtypes in turns; return the figures as they go into the JSON line."""
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in _NAMES}
    chosen: dict[str, tuple[str, ...]] = {}
    for turn in range(turns):
        for name in _NAMES if turn % 2 == 0 else reversed(_NAMES):
            times, chosen[name] = time_calls(DTYPES[name], side, slots, rounds, parts())
            seconds[name] += times
            gc.collect()
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    print(f"a UNet call of {slots} slot(s) at {side}², CPU milliseconds of one thread")
    for name in _NAMES:
        row(name, timings[name], timings["float32"], note=", ".join(chosen[name]))
    return conditions(
        "dtypes",
        _CPU,
        size=[side, side],
        slots=slots,
        bf16_units=bf16_units(),
        turns=turns,
        rounds=rounds,
        ms={name: timing.to_json() for name, timing in timings.items()},
        optimizations=chosen,
        bf16_over_fp32=timings["bfloat16"].over(timings["float32"]),
    )


def main(arguments: Sequence[str] | None = None, parts: Callable[[], Parts | None] = lambda: None) -> None:
    """Run the bench; tests pass ``parts`` that are smaller than SDXL's."""
    options = parser(__doc__, model=False)
    options.add_argument("--side", type=int, default=512, help="of the picture, in pixels (default 512)")
    options.add_argument("--slots", type=int, default=1, help="of the UNet call (default 1)")
    options.add_argument("--turns", type=int, default=2, help="of each dtype (default 2)")
    options.add_argument("--rounds", type=int, default=2, help="timed calls in a turn (default 2)")
    chosen = options.parse_args(arguments)
    finish(lambda: measure(chosen.side, chosen.slots, chosen.turns, chosen.rounds, parts), chosen.json)


if __name__ == "__main__":
    main()
