"""Convolutions in NHWC, the layout in which 16-bit units compute, which saves two transpositions each."""

from dataclasses import replace
from typing import Any

import torch

from inpaint.cpu import bf16_units
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch


def can(model: Model) -> str:
    """Return why ``model`` gains nothing from it; empty if it gains."""
    if model.device.type == "cuda" or (model.dtype == torch.bfloat16 and bf16_units()):
        return ""
    return "NHWC pays on a GPU's tensor cores, and in bf16 on a CPU that multiplies in it"


def convert(unet: Any) -> None:
    """Lay the convolutions' weights out in NHWC, in place; their values and shapes stay."""
    unet.to(memory_format=torch.channels_last)


def wrap(forward: Forward) -> Forward:
    """Return ``forward`` on a sample laid out in NHWC; its prediction has the usual layout."""

    def through(batch: UNetBatch) -> torch.Tensor:
        sample = batch.sample.contiguous(memory_format=torch.channels_last)
        deep = None if batch.deep is None else batch.deep.contiguous(memory_format=torch.channels_last)
        return forward(replace(batch, sample=sample, deep=deep)).contiguous()

    return through
