"""Permanent merging of a LoRA file into a model's weights, before anything else has changed its modules.

A merged LoRA costs nothing in a step and needs no peft.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inpaint.errors import ModelError, RequestError
from inpaint.lora.match import Change, LayerIndex


@dataclass(frozen=True, slots=True)
class Fused:
    """The number of layers that a LoRA changed."""

    layers: int  # of the UNet
    text_layers: int  # of both text encoders


def fuse(unet: Any, encoders: Sequence[Any], file: Path, scale: float = 1.0) -> Fused:
    """Merge a LoRA into the weights of a model; if any part of it does not fit, change nothing.

    Args:
        unet: a UNet2DConditionModel without a memory plan and without optimizations.
        encoders: both text encoders, likewise.
        file: a ``.safetensors`` file.
        scale: how strongly the LoRA counts; 1 is the strength that it was trained at.

    Raises:
        ModelError: the file is missing or damaged, is no LoRA for this model, or is of a kind that cannot be
            merged this way.
        RequestError: the scale is not a number.
    """
    if not math.isfinite(scale):
        raise RequestError("lora_scale", f"must be a number such as 1 or 0.7, not {scale!r}")
    matched = LayerIndex.of(unet, encoders).fit(file)
    text = [change for changes in matched.text for change in changes]
    for change in (*matched.unet, *text):
        # Replaced, not written to: a loaded weight may be a page of its file.
        change.layer.module.weight = _merged(file, change, scale)
    return Fused(len(matched.unet), len(text))


def _merged(file: Path, change: Change, scale: float) -> nn.Parameter:
    weight: torch.Tensor = change.layer.module.weight
    # In fp32 on the weight's device: in 16 bit, a small change to a large weight would be rounded away twice.
    up, down = (matrix.to(weight.device, torch.float32) for matrix in (change.up, change.down))
    merged = weight.detach().float() + scale * change.factor * (up @ down).reshape(weight.shape)
    if not merged.to(weight.dtype).isfinite().all():
        raise ModelError(
            f"{file.name} is too strong: a weight leaves the range of {weight.dtype}; lower its scale"
        )
    return nn.Parameter(merged.to(weight.dtype), requires_grad=False)
