"""The deepest level of a UNet: kept from one call, and taken from a cache in another, which then skips it.

The level is all that runs at the lowest resolution, its upsampler included. In SDXL's UNet at 1024² it has
69 % of the FLOPs and changes slowly from call to call, so a call that skips it has 0.307 of the work.
Source: Ma et al., "DeepCache", 2023, with the deepest branch instead of the shallowest. The cached output is
linear in time, which halves the error of using the last one.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain


def can(model: Model) -> str:
    """Return why calls of ``model`` cannot skip the level; empty if they can."""
    unet = model.unet
    if model.plan.unet != "resident":
        return f"the memory plan {model.plan.name} moves or casts the UNet's modules as they are"
    if model.device.type == "cuda" and not model.plan.deep_caches:
        return f"the memory plan {model.plan.name} has no memory for the caches"
    if not _has_level(unet):
        return "the UNet has a single resolution"
    return ""


def wrap(unet: Any, forward: Forward, build: Callable[[Any], Forward] = plain) -> Forward:
    """Return ``forward`` for batches that keep the deepest level or bring it as well.

    Args:
        unet: the UNet of ``forward``; what is changed below its blocks later holds for all calls.
        forward: used, unchanged, for a batch that does neither.
        build: makes a forward pass like ``forward`` of a copy of the UNet.
    """
    assert _has_level(unet), "a UNet with a single resolution"
    keeping, level = _keeping(unet)
    skipping, cached = _skipping(unet)
    keep_forward, skip_forward = build(keeping), build(skipping)

    def through(batch: UNetBatch) -> torch.Tensor:
        if batch.deep is not None:
            assert batch.take_deep is None, "a call computes the level, or it does not"
            cached.value = batch.deep
            try:
                return skip_forward(batch)
            finally:
                cached.value = None
        if batch.take_deep is None:
            return forward(batch)
        try:
            out = keep_forward(batch)
            assert level.value is not None
            batch.take_deep(level.value)
        finally:
            level.value = None
        return out

    return through


@dataclass(slots=True, eq=False)
class DeepCache:
    """The deepest level's outputs in the last two calls of one row that computed it."""

    time: float = 0.0  # the timestep of ``value``
    value: torch.Tensor | None = None  # (1 or 2, C, H, W), by slot; the last computed
    before_time: float = 0.0
    before: torch.Tensor | None = None  # the one before

    def keep(self, time: float, value: torch.Tensor) -> None:
        """Keep what was computed at ``time``; a second one of the same time replaces the first."""
        if self.value is not None and time != self.time:
            self.before_time, self.before = self.time, self.value
        self.time, self.value = time, value

    def at(self, time: float, slots: int) -> torch.Tensor:
        """Return the level's output at ``time``, linear in time, for the last ``slots`` slots.

        A row whose guidance has ended has one slot instead of two, with its prompt, which is the last.
        """
        value, before = self.value, self.before
        assert value is not None, "a row's first calls compute the level"
        assert value.shape[0] >= slots, "guidance may end, but not begin, between computed calls"
        if before is None or before.shape[0] < slots:
            return value[-slots:]
        weight = (time - self.before_time) / (self.time - self.before_time)
        return torch.lerp(before[-slots:], value[-slots:], weight)

    def clear(self) -> None:
        """Free the memory."""
        self.value = self.before = None


def value_shape(unet: Any, h: int, w: int) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of what is kept of one slot of (h, w) latent pixels."""
    first, end = _begin(unet), _end(unet)
    channels = int(unet.up_blocks[end - 1].upsamplers[0].out_channels)
    for _ in range(first - 1):  # the level's upsampler has undone the last halving
        h, w = -(-h // 2), -(-w // 2)
    return channels, h, w


def _has_level(unet: Any) -> bool:
    return 0 < _begin(unet) < len(unet.down_blocks) and 0 < _end(unet) < len(unet.up_blocks)


def _begin(unet: Any) -> int:
    """Return the number of down blocks above the level: up to the last one that halves."""
    halving = [i for i, block in enumerate(unet.down_blocks) if block.downsamplers is not None]
    return halving[-1] + 1 if halving else 0


def _end(unet: Any) -> int:
    """Return the number of up blocks in the level: up to the first one that doubles."""
    doubling = [i for i, block in enumerate(unet.up_blocks) if block.upsamplers is not None]
    return doubling[0] + 1 if doubling else 0


class _Kept(nn.Module):
    """The level's last up block, which leaves its output in ``value``."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block
        self.resnets = block.resnets  # their number is that of the skip connections which the block takes
        self.has_cross_attention = getattr(block, "has_cross_attention", False)
        self.value: torch.Tensor | None = None

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Run the block."""
        out: torch.Tensor = self.block(**inputs)
        self.value = out
        return out


class _SkippedDown(nn.Module):
    """A down block of the level that computes nothing; its outputs are as many as the real one's."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.outputs = len(block.resnets) + len(block.downsamplers or ())
        self.has_cross_attention = False

    def forward(
        self, hidden_states: torch.Tensor, temb: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return the input: only skipped up blocks take it."""
        return hidden_states, (hidden_states,) * self.outputs


class _SkippedUp(nn.Module):
    """An up block of the level that computes nothing; the last one returns the cached output."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.resnets = [None] * len(block.resnets)  # their number is that of the skip connections
        self.has_cross_attention = False
        self.value: torch.Tensor | None = None

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the cached output, or the input if there is none."""
        return hidden_states if self.value is None else self.value


def _keeping(unet: Any) -> tuple[Any, _Kept]:
    """Return a copy of the UNet that shares its blocks and leaves the level's output in the second."""
    copied = _copied(unet)
    at = _end(unet) - 1
    level = _Kept(unet.up_blocks[at])
    copied.up_blocks = nn.ModuleList([*unet.up_blocks[:at], level, *unet.up_blocks[at + 1 :]])
    return copied, level


def _skipping(unet: Any) -> tuple[Any, _SkippedUp]:
    """Return a copy of the UNet without the level, whose output it takes from the second."""
    copied = _copied(unet)
    begin, end = _begin(unet), _end(unet)
    skipped = [_SkippedUp(block) for block in unet.up_blocks[:end]]
    copied.down_blocks = nn.ModuleList(
        [*unet.down_blocks[:begin], *map(_SkippedDown, unet.down_blocks[begin:])]
    )
    copied.mid_block = None
    copied.up_blocks = nn.ModuleList([*skipped, *unet.up_blocks[end:]])
    return copied, skipped[-1]


def _copied(unet: Any) -> Any:
    copied = copy.copy(unet)
    copied.__dict__.pop("forward", None)  # compiled code of the UNet itself, which would run that
    copied._modules = dict(unet._modules)  # noqa: SLF001 - there is no public way to replace a child in a copy
    return copied
