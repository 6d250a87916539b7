"""Calls of many slots as several calls of fewer, for which there is compiled code."""

from collections.abc import Callable, Sequence

import torch

from inpaint.fast.shapes import padded_slots
from inpaint.model.unet import Forward, UNetBatch


def split(slots: int, sizes: Sequence[int]) -> list[int]:
    """Return the slots of each call for a batch of ``slots``: 16 as 8 and 8, 5 as 4 and 1, 7 as they are."""
    if slots == 0:
        return []
    most = max(size for size in sizes if size <= slots)
    now = slots if padded_slots(slots, sizes) is not None else most
    return [now, *split(slots - now, sizes)]


def in_parts(forward: Forward, sizes: Sequence[int]) -> Forward:
    """Return ``forward`` for batches of any size, called with what pads well to one of ``sizes``.

    A GPU gains little from more slots than 8 in a call, and to compile for each number of them takes minutes.
    Under ``text-kv`` the parts take turns in its buffers, so that keys and values are computed in every call
    whose parts have other prompts: under 1 % of the call, counted in products.

    Args:
        forward: a forward pass.
        sizes: the numbers of slots that are compiled or recorded; 1 is among them.
    """

    def through(batch: UNetBatch) -> torch.Tensor:
        parts = split(batch.sample.shape[0], sizes)
        if len(parts) == 1:
            return forward(batch)
        ends = [sum(parts[: i + 1]) for i in range(len(parts))]
        found: list[
            torch.Tensor
        ] = []  # of the deepest level, copied: the next part may be the same recording
        take = None if batch.take_deep is None else lambda deep: found.append(deep.clone())
        calls = [_part(batch, end - n, end, take) for n, end in zip(parts, ends, strict=True)]
        out = torch.cat([forward(call) for call in calls])
        if batch.take_deep is not None:
            batch.take_deep(torch.cat(found))
        return out

    return through


def _part(
    batch: UNetBatch, first: int, end: int, take_deep: Callable[[torch.Tensor], None] | None
) -> UNetBatch:
    return UNetBatch(
        sample=batch.sample[first:end],
        timesteps=batch.timesteps[first:end],
        hidden=batch.hidden[first:end],
        keep=None if batch.keep is None else batch.keep[first:end],
        pooled=batch.pooled[first:end],
        time_ids=batch.time_ids[first:end],
        prompts=batch.prompts[first:end],
        deep=None if batch.deep is None else batch.deep[first:end],
        take_deep=take_deep,
    )
