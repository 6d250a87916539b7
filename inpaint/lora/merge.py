"""Merging of LoRAs into a UNet's weights, and switching them between two calls.

W = W0 + Σ scale · ΔW. Weights are written in place, since compiled code and CUDA graphs keep their addresses.
W0 is kept for as long as a layer is changed, and copied back; nothing is subtracted, so that the model is the
same afterwards to the last bit.
"""

import threading
from collections.abc import Callable, Iterable

import torch

from inpaint.errors import ModelError
from inpaint.lora.changes import Slot, by_slot, summed
from inpaint.lora.hooks import Scaled
from inpaint.lora.layers import Rewritable
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
        self._before: dict[Slot, torch.Tensor] = {}  # weights and biases without any LoRA

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
        parts = by_slot(scaled)
        with self._lock:
            try:
                self._restore([slot for slot in self._before if slot not in parts])
                self._keep(parts)
                for slot, added in parts.items():
                    _write(slot, summed(self._before[slot].to(self._device), added))
                _check(parts)
            except BaseException:
                self._restore(list(self._before))
                raise
            finally:  # before the lock is free: a GPU writes long after the calls that told it to
                settle()

    def _restore(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            _write(slot, self._before[slot].to(self._device))
        for slot in slots:
            del self._before[slot]

    def _keep(self, slots: Iterable[Slot]) -> None:
        """Save the tensors that are about to be changed, on the device while it has room, else on the CPU."""
        free = _free_bytes(self._device)
        for slot in slots:
            if slot in self._before:
                continue
            module, name = slot
            if _rewritable(slot):
                self._before[slot] = module.original
            elif free is None:
                self._before[slot] = _owned(slot)
            else:
                tensor = getattr(module, name).data
                free -= tensor.nbytes
                kept_on = self._device if free > _RESERVE_BYTES else torch.device("cpu")
                self._before[slot] = tensor.to(kept_on, copy=True)


def _free_bytes(device: torch.device) -> int | None:
    """Return the device's free memory plus what torch has reserved and does not use; None for a CPU."""
    free = free_bytes(device)
    if free is None:
        return None
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _rewritable(slot: Slot) -> bool:
    return slot[1] == "weight" and isinstance(slot[0], Rewritable)


def _owned(slot: Slot) -> torch.Tensor:
    """Give a tensor on a CPU memory of its own, since it may be a page of its file; return the page."""
    tensor = getattr(*slot)
    before: torch.Tensor = tensor.data
    tensor.data = before.clone()
    return before


def _write(slot: Slot, weight: torch.Tensor) -> None:
    if _rewritable(slot):
        slot[0].rewrite(weight)
    else:
        getattr(*slot).data.copy_(weight)


def _check(slots: Iterable[Slot]) -> None:
    """Raise a ``ModelError`` if a weight is not finite: it would paint NaN, and the request would be blamed.

    All layers are checked with one synchronisation of the device.
    """
    finite = [getattr(*slot).isfinite().all() for slot in slots if not _rewritable(slot)]
    if finite and not bool(torch.stack(finite).all()):
        raise ModelError(
            "the LoRAs are too strong: at these scales a weight leaves the range of the model's dtype; lower "
            "their scales"
        )
