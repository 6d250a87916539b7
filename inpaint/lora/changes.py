"""Changes of a model's weights and biases by LoRAs: W becomes W + Σ scale · ΔW.

Each ΔW is computed from W itself, so that LoRAs of one request do not depend on their order, a scale of 0 is
no LoRA, and a negative one is the opposite; also for formats that are not sums (DoRA, OFT).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch.nn import functional

from inpaint.lora import formulas
from inpaint.lora.layers import Layer

_Delta = Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]
Slot = tuple[Any, str]  # a module, and the name of one of its tensors


class Change(Protocol):
    """The change that a LoRA makes to one layer's weight or bias at a scale of 1."""

    @property
    def layer(self) -> Layer:
        """The layer that it changes."""

    @property
    def size_bytes(self) -> int:
        """The memory that its tensors take."""

    def to(self, device: torch.device) -> Self:
        """Return the same change with its tensors on ``device``."""

    def add_to(self, total: torch.Tensor, weight: torch.Tensor, scale: float) -> None:
        """Add scale · ΔW to ``total``, in place.

        Args:
            total: the sum so far, fp32, in the shape of the layer.
            weight: W as it is without any LoRA, of the same shape, device and dtype.
            scale: how strongly the LoRA counts.
        """


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A change factor · up · down, by far the most common one."""

    layer: Layer
    up: torch.Tensor  # (out, rank)
    down: torch.Tensor  # (rank, in · kh · kw)
    factor: float  # alpha / rank

    @property
    def size_bytes(self) -> int:
        """The memory that both matrices take."""
        return self.up.nbytes + self.down.nbytes

    def to(self, device: torch.device) -> "LowRank":
        """Return the same change with its matrices on ``device``."""
        return LowRank(self.layer, self.up.to(device), self.down.to(device), self.factor)

    def add_to(self, total: torch.Tensor, weight: torch.Tensor, scale: float) -> None:
        """Add scale · ΔW to ``total``, without a matrix of its own for ΔW."""
        up, down = (matrix.to(total.device, torch.float32) for matrix in (self.up, self.down))
        total.view(len(total), -1).addmm_(up, down, alpha=scale * self.factor)


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A change that is computed from its tensors, and perhaps from the weight, each time that it is added.

    ΔW itself is not kept: for SDXL's UNet it would take as much memory as the UNet.
    """

    layer: Layer
    tensors: Mapping[str, torch.Tensor]
    formula: _Delta
    factor: float = 1.0
    magnitude: torch.Tensor | None = None  # DoRA's norms, (out, 1, …) or (1, in, …)
    inputs: int | None = None  # the input channels that it is for, if the layer has more

    @property
    def size_bytes(self) -> int:
        """The memory that its tensors take."""
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def _tensors(self) -> list[torch.Tensor]:
        return [*self.tensors.values(), *([] if self.magnitude is None else [self.magnitude])]

    def to(self, device: torch.device) -> "Computed":
        """Return the same change with its tensors on ``device``."""
        tensors = {role: _moved(tensor, device) for role, tensor in self.tensors.items()}
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        return replace(self, tensors=tensors, magnitude=magnitude)

    def add_to(self, total: torch.Tensor, weight: torch.Tensor, scale: float) -> None:
        """Add scale · ΔW to ``total``, in place."""
        total.add_(self.delta(weight), alpha=scale)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return ΔW in the shape of ``weight``, which is fp32.

        Raises:
            RuntimeError: the tensors do not fit together or do not fit the weight; also a ValueError,
                IndexError or KeyError.
        """
        known = weight if self.inputs is None else weight[:, : self.inputs]
        tensors = {role: _moved(tensor, weight.device).float() for role, tensor in self.tensors.items()}
        delta = self.factor * _shaped(self.formula(tensors, known), known.shape)
        if self.magnitude is not None:
            delta = formulas.dora(known, delta, self.magnitude.to(weight.device, torch.float32))
        missing = weight.shape[1] - known.shape[1] if weight.ndim > 1 else 0
        return functional.pad(delta, (0,) * 2 * (weight.ndim - 2) + (0, missing)) if missing else delta

    def fits(self) -> bool:
        """Return whether ΔW has the layer's shape, without computing it.

        Raises:
            KeyError: a tensor is missing.
        """
        meta = torch.device("meta")
        try:
            delta = self.to(meta).delta(torch.empty(self.layer.shape, device=meta))
        except (RuntimeError, ValueError, IndexError):
            return False
        return delta.shape == self.layer.shape


def summed(weight: torch.Tensor, parts: Sequence[tuple[float, Change]]) -> torch.Tensor:
    """Return a weight plus all its changes, each at its scale.

    In fp32, in 16 bit each addition would be rounded.

    Args:
        weight: of any dtype, on the device that computes.
        parts: scales, and the changes at a scale of 1.
    """
    total = weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    # Products of matrices do not read W; a single change may read what it is added to, its ΔW is complete by
    # then.
    reads = len(parts) > 1 and any(isinstance(change, Computed) for _, change in parts)
    before = weight.float() if reads else total
    for scale, change in parts:
        rows = change.layer.rows
        change.add_to(total[rows], before[rows], scale)
    return total


def by_slot(scaled: Sequence[tuple[float, Sequence[Change]]]) -> dict[Slot, list[tuple[float, Change]]]:
    """Return the scales and changes of each tensor that is changed."""
    parts: dict[Slot, list[tuple[float, Change]]] = {}
    for scale, changes in scaled:
        for change in changes:
            parts.setdefault((change.layer.module, change.layer.tensor), []).append((scale, change))
    return parts


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # A number is read by the CPU and stays there: on a GPU each look at it would wait for the device.
    return tensor.to(device) if tensor.ndim else tensor


def _shaped(delta: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return ``delta`` in a weight's shape; raise a ``ValueError`` if it is of another layer."""
    flat = (shape[0], shape[1:].numel())
    # A 1×1 kernel and a matrix are the same thing; a 3×3 one must have its own shape.
    if delta.reshape(len(delta), -1).shape != flat or delta.shape[2:] not in ((), (1, 1), shape[2:]):
        raise ValueError(f"{tuple(delta.shape)} for {tuple(shape)}")
    return delta.reshape(shape)
