"""The shapes that UNet calls are compiled or recorded for: padding up to them, and example batches."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from inpaint.batching.work import Bucket
from inpaint.model.deep_level import value_shape
from inpaint.model.load import Model
from inpaint.model.prompt import CHUNK_TOKENS
from inpaint.model.unet import UNetBatch

SLOTS = (2, 1, 4, 8)  # per prepared call, in this order: 2 is one guided row; sizes between are padded
_MAX_PADDING = 4 / 3  # computed slots per wanted slot: beyond, padding costs more than compiling gains


class Shape(NamedTuple):
    """The shape and dtype that a compiled or recorded call is valid for."""

    slots: int
    channels: int
    h: int
    w: int
    tokens: int
    text_width: int
    masked: bool
    dtype: torch.dtype
    level: str = ""  # the deepest level's output is KEPT, or comes CACHED; else it stays inside the call


KEPT, CACHED = LEVELS = ("kept", "cached")


def shape_of(batch: UNetBatch) -> Shape:
    """Return the shape of a batch."""
    slots, tokens, text_width = batch.hidden.shape
    _, channels, h, w = batch.sample.shape
    level = CACHED if batch.deep is not None else KEPT if batch.take_deep is not None else ""
    masked, dtype = batch.keep is not None, batch.sample.dtype
    return Shape(slots, channels, h, w, tokens, text_width, masked, dtype, level)


def usual(model: Model, bucket: Bucket, slots: int, text_width: int | None = None, level: str = "") -> Shape:
    """Return the shape of a call of ``slots`` slots with prompts of one chunk.

    Args:
        model: the model whose UNet is called.
        bucket: the latent size.
        slots: the number of slots.
        text_width: width of the call's text embeddings; 0 under ``text-kv``, the model's own if None.
        level: one of ``LEVELS``, or empty.
    """
    width = int(model.unet.config.cross_attention_dim) if text_width is None else text_width
    return Shape(
        slots,
        model.in_channels,
        bucket.h,
        bucket.w,
        CHUNK_TOKENS + 2,
        width,
        masked=False,
        dtype=model.dtype,
        level=level,
    )


def native(model: Model) -> Bucket:
    """Return the bucket of the square that the UNet was trained on."""
    side = int(model.unet.config.sample_size)
    return Bucket(side, side)


def padded_slots(n: int, sizes: Sequence[int]) -> int | None:
    """Return the smallest of ``sizes`` that holds ``n`` slots; None if none does without much waste."""
    size = min((size for size in sizes if size >= n), default=None)
    return size if size is not None and size <= _MAX_PADDING * n else None


def pad(batch: UNetBatch, slots: int) -> UNetBatch:
    """Return ``batch`` with its last slot repeated up to ``slots``, contiguous and as inference tensors.

    Compiled code checks the strides and the kind of its inputs as well as their shape, and latents that a
    scheduler made from the UNet's NHWC output are not laid out like those of the first step.
    """
    return UNetBatch(
        sample=_pad(batch.sample, slots),
        timesteps=_pad(batch.timesteps, slots),
        hidden=_pad(batch.hidden, slots),
        keep=None if batch.keep is None else _pad(batch.keep, slots),
        pooled=_pad(batch.pooled, slots),
        time_ids=_pad(batch.time_ids, slots),
        prompts=(*batch.prompts, *batch.prompts[-1:] * (slots - len(batch.prompts))),
        deep=None if batch.deep is None else _pad(batch.deep, slots),
        take_deep=None if batch.take_deep is None else _unpadded(batch.take_deep, batch.sample.shape[0]),
    )


def _unpadded(take: Callable[[torch.Tensor], None], slots: int) -> Callable[[torch.Tensor], None]:
    """Return ``take`` for a tensor of at least ``slots`` slots, of which it gets the first."""
    return lambda deep: take(deep[:slots])


def _pad(tensor: torch.Tensor, slots: int) -> torch.Tensor:
    with torch.inference_mode():
        missing = slots - tensor.shape[0]
        if missing > 0:  # repeated, not zeros: zeros might give NaN in some model
            return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]).contiguous()
        if not tensor.is_inference():
            return tensor.clone(memory_format=torch.contiguous_format)
        return tensor.contiguous()


def example(model: Model, shape: Shape) -> UNetBatch:
    """Return a random batch of ``shape``, the same every time, without zeros and NaN."""
    numbers = torch.Generator("cpu").manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=numbers).to(model.device, shape.dtype)

    n, pooled_width, ids = shape.slots, *_added_widths(model)
    with torch.inference_mode():
        keep = torch.ones(n, shape.tokens, dtype=torch.bool, device=model.device) if shape.masked else None
        return UNetBatch(
            sample=normal(n, shape.channels, shape.h, shape.w),
            timesteps=torch.linspace(1, 999, n).to(model.device),
            hidden=normal(n, shape.tokens, shape.text_width),
            keep=keep,
            pooled=normal(n, pooled_width),
            time_ids=normal(n, ids).abs() * 512,
            prompts=tuple(object() for _ in range(n)),
            deep=normal(n, *value_shape(model.unet, shape.h, shape.w)) if shape.level == CACHED else None,
            take_deep=_forget if shape.level == KEPT else None,
        )


def _forget(_: torch.Tensor) -> None:
    """Keep nothing of an example."""


def _added_widths(model: Model) -> tuple[int, int]:
    """Return the widths of the pooled embeddings and of the size conditioning."""
    config = model.unet.config
    ids = 5 if model.requires_aesthetics_score else 6
    return int(config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim), ids
