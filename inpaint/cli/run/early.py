"""Checks of the model, the device and the mask before torch is imported, which takes seconds."""

import sys
from pathlib import Path

from inpaint.canvas.mask import require_mask, strength_of
from inpaint.errors import DeviceError
from inpaint.request import InpaintRequest
from inpaint.weights import check_name, resolve

ROOT = Path("/")  # of the files that say what is installed; tests have one of their own
# Of NVIDIA's cards and driver on Linux and in WSL2, and of AMD's cards, which torch calls cuda, too.
_GPU_SIGNS = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg", "dev/kfd", "dev/nvhost-gpu", "proc/driver/nvidia")


def check_model(model: str, predicts: str | None, *, installed: bool) -> None:
    """Refuse a model that is not known, cannot paint or, if it must be ``installed``, is not here.

    Raises:
        ModelError: with the sentence that loading it would end with.
        RequestError: there is no such prediction.
    """
    if model == "demo":
        return
    if installed:
        resolve(model, predicts=predicts)
    else:
        check_name(model)


def check_device(name: str) -> None:
    """Refuse a device that no machine has, or that this machine has no sign of.

    Raises:
        DeviceError: as ``pick_device`` in ``inpaint.model.load`` has it, which finds what is left.
    """
    kind, colon, index = name.partition(":")
    if kind == "mps":
        raise DeviceError("device: GPUs of macOS (mps) are not supported; use --device cpu")
    if name not in ("auto", "cpu") and (kind != "cuda" or (bool(colon) and not index.isdecimal())):
        raise DeviceError(f"device: must be auto, cpu, cuda or cuda:N, not {name!r}")
    if kind == "cuda" and sys.platform == "linux" and not any((ROOT / sign).exists() for sign in _GPU_SIGNS):
        raise DeviceError(f"device: {name} was asked for, but this machine has no GPU; use --device cpu")


def check_mask(request: InpaintRequest) -> None:
    """Refuse a mask that repaints nothing.

    Raises:
        RequestError: as the engine would have it.
    """
    require_mask(strength_of(request), soft=request.soft, given=request.mask)
