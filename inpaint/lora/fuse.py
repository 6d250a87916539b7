"""Permanent merging of a LoRA file into a model's weights, before anything else has changed its modules.

A merged LoRA costs nothing in a step and needs no peft.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inpaint.errors import ModelError, RequestError
from inpaint.lora.changes import Change, by_slot, summed
from inpaint.lora.match import LayerIndex

_log = logging.getLogger(__name__)


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
        ModelError: the file is missing or damaged, or is no LoRA for this model.
        RequestError: the scale is not a number.
    """
    if not math.isfinite(scale):
        raise RequestError("lora_scale", f"must be a number such as 1 or 0.7, not {scale!r}")
    matched = LayerIndex.of(unet, encoders).fit(file)
    for warning in matched.warnings:
        _log.warning("%s: %s", file.name, warning)
    text = [*matched.text[0], *matched.text[1]]
    for (module, name), parts in by_slot([(scale, [*matched.unet, *text])]).items():
        # Replaced, not written to: a loaded weight may be a page of its file.
        setattr(module, name, _merged(file, getattr(module, name).detach(), parts))
    return Fused(_layers(matched.unet), _layers(text))


def _layers(changes: Sequence[Change]) -> int:
    return len({change.layer.module for change in changes})


@torch.no_grad()
def _merged(file: Path, weight: torch.Tensor, parts: Sequence[tuple[float, Change]]) -> nn.Parameter:
    merged = summed(weight, parts).to(weight.dtype)
    if not merged.isfinite().all():
        raise ModelError(
            f"{file.name} is too strong: a weight leaves the range of {weight.dtype}; lower its scale"
        )
    return nn.Parameter(merged, requires_grad=False)
