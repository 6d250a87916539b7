"""Convolutions in NHWC, the layout that tensor cores compute in: no transposition around each of them."""

from dataclasses import replace
from typing import Any

import torch

from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch


def can(model: Model) -> str:
    """Why this brings nothing for ``model``; empty where it does."""
    return "" if model.device.type == "cuda" else "NHWC pays on a GPU's tensor cores only"


def convert(unet: Any) -> None:
    """Lay the convolutions' weights out in NHWC, in place; their values and shapes stay."""
    unet.to(memory_format=torch.channels_last)


def wrap(forward: Forward) -> Forward:
    """``forward`` on a sample laid out in NHWC; the prediction comes back in the usual layout."""

    def through(batch: UNetBatch) -> torch.Tensor:
        sample = batch.sample.contiguous(memory_format=torch.channels_last)
        return forward(replace(batch, sample=sample)).contiguous()

    return through
