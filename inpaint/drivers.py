"""NVIDIA GPUs that this machine has and torch cannot use: which driver was found, and which is needed.

An SDXL server that paints on the CPU because of an old driver takes minutes per picture and looks healthy, so
this is an error, never a fallback.
"""

import os
import re
from pathlib import Path

import torch

ROOT = Path("/")  # of the files that say what is installed; tests have one of their own

# The oldest Linux driver for each CUDA version that torch may be built with, from the CUDA release notes.
_DRIVERS = {11: "450", 12: "525", 13: "580"}
_CARDS = {13: "Turing (RTX 20, GTX 16, T4)"}  # the oldest cards; CUDA 13 dropped Maxwell, Pascal and Volta
_SIGNS = ("dev/nvidia0", "usr/lib/wsl/lib/libcuda.so.1")  # the card of Linux, the driver of WSL2


def driver_version() -> str:
    """Return the version of the NVIDIA driver that is loaded; empty if none is, or it does not say."""
    try:
        text = (ROOT / "proc/driver/nvidia/version").read_text("utf-8", "replace")
    except OSError:
        return ""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)*\b", text)
    return found[0] if found else ""


def unused_gpu() -> str:
    """Return why torch cannot use this machine's NVIDIA GPU, as a sentence; empty if it can or has none.

    A GPU that ``CUDA_VISIBLE_DEVICES`` hides on purpose, by an empty list or -1, counts as none.
    """
    if torch.cuda.is_available() or not _has_card() or _hidden():
        return ""
    driver, advice = driver_version(), "or use --device cpu"
    found = f"this machine has an NVIDIA GPU (driver {driver or 'unknown'})"
    if torch.version.cuda is None:
        return f"{found}, but torch {torch.__version__} is built without CUDA; install one with it, {advice}"
    cuda = int(torch.version.cuda.partition(".")[0])
    built = f"torch {torch.__version__} (CUDA {torch.version.cuda})"
    needed = _DRIVERS.get(cuda, "")
    if driver and needed and int(driver.partition(".")[0]) < int(needed):
        cards = f" and a card from {_CARDS[cuda]} on" if cuda in _CARDS else ""
        return f"{found}, but {built} needs driver {needed} or newer{cards}; update the driver, {advice}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return (
            f"{found}, but CUDA_VISIBLE_DEVICES={visible} names none that torch can use; correct it, {advice}"
        )
    return (
        f"{found}, but {built} cannot use it; if nvidia-smi fails, too, repair the driver "
        f"(in a container: start it with --gpus all), {advice}"
    )


def too_old(device: torch.device) -> str:
    """Return why torch has no code for this CUDA device, as a sentence; empty if it has."""
    if torch.version.cuda is None:  # AMD's build, which names its cards otherwise
        return ""
    built_for = [int(arch[3:].rstrip("af")) for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    major, minor = torch.cuda.get_device_capability(device)
    if not built_for or 10 * major + minor >= min(built_for):
        return ""
    return (
        f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, but torch "
        f"{torch.__version__} (CUDA {torch.version.cuda}) needs {min(built_for) / 10:.1f} or newer"
        f"; install torch built with CUDA 12, or use --device cpu"
    )


def _has_card() -> bool:
    return bool(driver_version()) or any((ROOT / sign).exists() for sign in _SIGNS)


def _hidden() -> bool:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in ("", "-1")
