"""The order of torch's attention kernels, with cuDNN's first, from Hopper on.

Only the order changes: a call that cuDNN cannot take goes to the next kernel. torch itself puts cuDNN last,
and diffusers' UNet processors ignore ``set_attention_backend``, so the order is set around the whole call.
"""

import threading
from contextlib import ExitStack
from types import TracebackType

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch

_HOPPER = (9, 0)
_ORDER = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


class Preferred:
    """A context in which torch tries cuDNN's attention first; reentrant, and safe for several threads.

    torch has one order for the whole process. If each thread saved and restored it, the step loop leaving its
    call would change the order under a compilation that is tracing in another thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._restore.enter_context(sdpa_kernel(list(_ORDER), set_priority=True))
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()


def can(model: Model) -> str:
    """Return why ``model`` gains nothing from it; empty if it gains."""
    if model.device.type != "cuda":
        return "cuDNN's attention needs a CUDA GPU"
    if torch.cuda.get_device_capability(model.device) < _HOPPER:
        return "before Hopper (compute capability 9.0) torch's own order of attention kernels is the faster"
    if model.dtype == torch.float32:
        return "cuDNN's attention computes in 16 bit only"
    return ""


def wrap(forward: Forward, preferred: Preferred) -> Forward:
    """Return ``forward`` with cuDNN's attention first."""

    def through(batch: UNetBatch) -> torch.Tensor:
        with preferred:
            return forward(batch)

    return through
