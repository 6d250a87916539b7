"""CPU seconds of UNet calls with and without the deepest level, at SDXL's real shapes."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from bench.full_size import check_lively
from inpaint.model import deep_level
from inpaint.model.unet import UNetBatch, plain


def measure(unet: Any, side: int = 512, rounds: int = 3) -> dict[str, Any]:
    """Time full and cached calls of one slot in turn, in one thread.

    Args:
        unet: SDXL's, as ``bench.full_size`` makes it with random weights.
        side: of the picture in pixels.
        rounds: pairs of calls.

    Returns:
        The seconds of CPU time of each call, their medians, and the median of the pairs' ratios.
    """
    forward, batch = deep_level.wrap(unet, plain(unet)), _batch(side // 8, unet.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            found: list[torch.Tensor] = []
            check_lively("prediction", forward(replace(batch, take_deep=found.append)))
            calls = {"full": batch, "cached": replace(batch, deep=found[-1])}
            seconds: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(rounds):
                for name, call in calls.items():
                    started = time.process_time()
                    forward(call)
                    seconds[name].append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return {"side": side, "dtype": str(unet.dtype).removeprefix("torch."), **_figures(seconds)}


def _figures(seconds: dict[str, list[float]]) -> dict[str, Any]:
    def rounded(values: Sequence[float]) -> list[float]:
        return [round(value, 3) for value in values]

    ratios = [cached / full for full, cached in zip(seconds["full"], seconds["cached"], strict=True)]
    medians = {f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()}
    each = {f"each_{name}_s": rounded(values) for name, values in seconds.items()}
    return {**medians, "ratio": round(statistics.median(ratios), 3), **each}


def _batch(side: int, dtype: torch.dtype) -> UNetBatch:
    numbers = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=numbers).to(dtype)

    return UNetBatch(
        sample=normal(1, 9, side, side),
        timesteps=torch.tensor([500.0]),
        hidden=normal(1, 77, 2048),
        keep=None,
        pooled=normal(1, 1280),
        time_ids=torch.full((1, 6), 8.0 * side).to(dtype),
        prompts=(object(),),
    )
