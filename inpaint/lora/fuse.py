"""LoRA files into a model's weights once and for good, before anything else has changed its modules.

Merged, a LoRA costs nothing in a step and needs no peft.
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
    """How many layers' weights a file changed."""

    layers: int  # of the UNet
    text_layers: int  # of both text encoders


def fuse(unet: Any, encoders: Sequence[Any], file: Path, scale: float = 1.0) -> Fused:
    """Merge a LoRA into the weights of a model; where any of it does not fit, nothing is changed.

    Args:
        unet: a UNet2DConditionModel whose modules nothing has changed: no memory plan, no optimizations.
        encoders: both text encoders, likewise.
        file: a ``.safetensors`` file.
        scale: how strongly; 1 is as it was trained.

    Raises:
        ModelError: the file is missing or damaged, is no LoRA for this model, or is of a kind that cannot be
            merged this way.
        RequestError: the scale is not a number.
    """
    if not math.isfinite(scale):
        raise RequestError("lora_scale", f"must be a number such as 1 or 0.7, not {scale!r}")
    fitted = LayerIndex.of(unet, encoders).fit(file)
    text = [change for changes in fitted.text for change in changes]
    for change in (*fitted.unet, *text):
        # Put in its place, not written into it: a loaded weight may be a page of its file.
        change.layer.module.weight = _merged(file, change, scale)
    return Fused(len(fitted.unet), len(text))


def _merged(file: Path, change: Change, scale: float) -> nn.Parameter:
    weight: torch.Tensor = change.layer.module.weight
    # In fp32 on the weight's device: in 16 bit, a small change to a large weight would be rounded away twice.
    up, down = (matrix.to(weight.device, torch.float32) for matrix in (change.up, change.down))
    merged = weight.detach().float() + scale * change.factor * (up @ down).reshape(weight.shape)
    if not merged.to(weight.dtype).isfinite().all():
        raise ModelError(f"{file.name} is too strong: a weight leaves the range of {weight.dtype}")
    return nn.Parameter(merged.to(weight.dtype), requires_grad=False)
