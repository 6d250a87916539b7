"""Merging of LoRAs into a UNet's weights, and switching them between two calls.

W = W0 + Σ scale · (alpha / rank) · up · down. Weights are written in place, since compiled code and CUDA
graphs keep their addresses. W0 is kept for as long as a layer is changed, and copied back; nothing is
subtracted, so that the model is the same afterwards to the last bit.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from inpaint.errors import ModelError
from inpaint.lora.hooks import Scaled
from inpaint.lora.layers import Rewritable
from inpaint.lora.match import Change
from inpaint.memory import free_bytes

_RESERVE_BYTES = 2 * 1024**3  # left free on the device for the next calls


class HotMerge:
    """The LoRAs merged into one UNet; for the thread that calls the UNet."""

    def __init__(self, device: torch.device, lock: threading.Lock) -> None:
        """Start with no LoRA merged.

        Args:
            device: the device that holds the weights.
            lock: held while weights are written.
        """
        self._device = device
        self._lock = lock
        self._before: dict[Any, torch.Tensor] = {}  # by module: its weight without any LoRA

    @torch.inference_mode(False)
    @torch.no_grad()
    def use(self, scaled: Scaled, settle: Callable[[], None] = lambda: None) -> None:
        """Merge these LoRAs in place of the previous ones; an empty sequence restores the original weights.

        Args:
            scaled: the LoRAs.
            settle: waits for the device.

        Raises:
            ModelError: they are too strong together; the UNet then has its original weights.
        """
        parts = _by_module(scaled)
        with self._lock:
            try:
                self._restore([module for module in self._before if module not in parts])
                self._keep(parts)
                for module, added in parts.items():
                    _write(module, _sum(self._before[module].to(self._device), added))
                _check(parts)
            except BaseException:
                self._restore(list(self._before))
                raise
            finally:  # before the lock is free: a GPU writes long after the calls that told it to
                settle()

    def _restore(self, modules: Iterable[Any]) -> None:
        for module in modules:
            _write(module, self._before[module].to(self._device))
        for module in modules:
            del self._before[module]

    def _keep(self, modules: Iterable[Any]) -> None:
        """Save the weights that are about to be changed, on the device while it has room, else on the CPU."""
        free = _free_bytes(self._device)
        for module in modules:
            if module in self._before:
                continue
            if isinstance(module, Rewritable):
                self._before[module] = module.original
            elif free is None:
                _own(module, self._before)
            else:
                weight = module.weight.data
                free -= weight.nbytes
                kept_on = self._device if free > _RESERVE_BYTES else torch.device("cpu")
                self._before[module] = weight.to(kept_on, copy=True)


def _free_bytes(device: torch.device) -> int | None:
    """Return the device's free memory plus what torch has reserved and does not use; None for a CPU."""
    free = free_bytes(device)
    if free is None:
        return None
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


_Part = tuple[float, Change]  # a scale, and the change at a scale of 1


def _by_module(scaled: Scaled) -> dict[Any, list[_Part]]:
    parts: dict[Any, list[_Part]] = {}
    for scale, changes in scaled:
        for change in changes:
            parts.setdefault(change.layer.module, []).append((scale, change))
    return parts


def _own(module: Any, before: dict[Any, torch.Tensor]) -> None:
    """Give a weight on a CPU memory of its own, since a loaded one may be a page of its file."""
    before[module] = module.weight.data
    module.weight.data = module.weight.data.clone()


def _sum(weight: torch.Tensor, parts: Sequence[_Part]) -> torch.Tensor:
    """Return W0 plus all changes in fp32; in 16 bit each addition would be rounded."""
    total = weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    rows = total.view(len(total), -1)
    for scale, change in parts:
        up, down = (matrix.to(weight.device, torch.float32) for matrix in (change.up, change.down))
        rows[change.layer.rows].addmm_(up, down, alpha=scale * change.factor)
    return total


def _write(module: Any, weight: torch.Tensor) -> None:
    if isinstance(module, Rewritable):
        module.rewrite(weight)
    else:
        module.weight.data.copy_(weight)


def _check(modules: Iterable[Any]) -> None:
    """Raise a ``ModelError`` if a weight is not finite: it would paint NaN, and the request would be blamed.

    All layers are checked with one synchronisation of the device.
    """
    finite = [module.weight.isfinite().all() for module in modules if not isinstance(module, Rewritable)]
    if finite and not bool(torch.stack(finite).all()):
        raise ModelError(
            "the LoRAs are too strong: at these scales a weight leaves the range of the model's dtype; lower "
            "their scales"
        )
