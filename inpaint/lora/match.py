"""Matching of a LoRA file's matrices to a model's layers, with a check that their shapes fit.

Merging a LoRA turns W into W + scale · (alpha / rank) · up · down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inpaint.errors import ModelError
from inpaint.lora.layers import Layer, Layers, plain, plain_text, text_layers, unet_layers
from inpaint.lora.parse import PARTS, Factors, read

_CONV_IN = ("conv_in", "input_blocks_0_0")
_PLAIN_CHANNELS, _INPAINTING_CHANNELS = 4, 9


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The matrix that a LoRA adds to one layer's weight at a scale of 1: factor · up · down."""

    layer: Layer
    up: torch.Tensor  # (out, rank)
    down: torch.Tensor  # (rank, in · kh · kw)
    factor: float  # alpha / rank

    @property
    def size_bytes(self) -> int:
        """The memory that both matrices take."""
        return self.up.nbytes + self.down.nbytes

    def to(self, device: torch.device) -> "Change":
        """Return the same change with its matrices on ``device``."""
        return Change(self.layer, self.up.to(device), self.down.to(device), self.factor)


@dataclass(frozen=True, slots=True, eq=False)
class MatchedLora:
    """The changes that a LoRA file makes to one model."""

    unet: Sequence[Change]
    text: tuple[Sequence[Change], Sequence[Change]]  # of the first and of the second encoder


@dataclass(frozen=True, slots=True, eq=False)
class LayerIndex:
    """A model's layers by the names that LoRA files use."""

    unet: Layers
    text: tuple[Layers, Layers]

    @classmethod
    def of(cls, unet: Any, encoders: Sequence[Any]) -> "LayerIndex":
        """Index the layers of these modules, in their present form."""
        return cls(unet_layers(unet), (text_layers(encoders[0]), text_layers(encoders[1])))

    def fit(self, file: Path) -> MatchedLora:
        """Read a LoRA file and match it to this model.

        Raises:
            ModelError: the file cannot be read, see :func:`inpaint.lora.parse.read`, or is for another model.
        """
        tensors = read(file)
        layers = dict(zip(PARTS, (self.unet, *self.text), strict=True))
        unet, *text = (_fitted(file, tensors.of(part), layers[part], part) for part in PARTS)
        return MatchedLora(unet, (text[0], text[1]))


def _fitted(file: Path, parts: Mapping[str, Factors], layers: Layers, part: str) -> list[Change]:
    spelt = plain if part == "unet" else plain_text
    changes = []
    for name, factors in parts.items():
        layer = layers.get(spelt(name))
        if layer is None:
            where = "" if part == "unet" else f" in its {part}"
            raise ModelError(
                f"{file.name} is not a LoRA for this model: the model has no layer {name}{where}"
            )
        changes.append(_change(file, name, factors, layer))
    return changes


def _change(file: Path, name: str, factors: Factors, layer: Layer) -> Change:
    """Return ``factors`` as a change of ``layer``; raise a ``ModelError`` if they do not fit it."""
    up, down, shape = factors.up, factors.down, layer.shape
    if down is None or up is None:
        raise ModelError(f"{file.name} is damaged: it lacks one of the two matrices of {name}")
    if plain(name) in _CONV_IN:
        down = _for_inpainting(down, shape)
    rank, width = down.flatten(1).shape if down.ndim in (2, 4) else (0, 0)
    fits = up.ndim in (2, 4) and up.flatten(1).shape == (shape[0], rank)
    # A 1×1 kernel and a matrix are the same thing; a 3×3 one must have its own shape.
    same_kernel = down.ndim == 2 or down.shape[2:] == (shape[2:] or (1, 1))
    if not fits or not rank or width != torch.Size(shape[1:]).numel() or not same_kernel:
        raise ModelError(
            f"{file.name} is not a LoRA for this model: {name} has the shape {shape} here, and "
            f"the file has {tuple(up.shape)} times {tuple(down.shape)}"
        )
    if not (down.isfinite().all() and up.isfinite().all()):
        raise ModelError(f"{file.name} is damaged: {name} holds NaN or infinite values")
    factor = 1.0 if factors.alpha is None else factors.alpha / rank
    return Change(layer, up.flatten(1), down.flatten(1), factor)


def _for_inpainting(down: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Add zeros for the five mask channels, which a LoRA trained on plain SDXL's four does not have."""
    if shape[1] != _INPAINTING_CHANNELS or down.ndim != 4 or down.shape[1] != _PLAIN_CHANNELS:
        return down
    return torch.nn.functional.pad(down, (0, 0, 0, 0, 0, _INPAINTING_CHANNELS - _PLAIN_CHANNELS))
