"""Lanes on one device, and errors put into words wherever they happen.

The loop's thread has the urgent lane; encoding and decoding have one of a lower priority, so that the
GPU fills gaps with them instead of making every running picture wait.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from inpaint.errors import DeviceError, InpaintError, OutOfMemoryError, PaintError

_OUT_OF_MEMORY = "not enough memory for this picture even alone; try --memory fp8 or a smaller area ({})"


class DeviceStream:
    """One thread's CUDA stream. On a CPU work is done when it is called, and nothing here does anything."""

    def __init__(self, device: torch.device, *, urgent: bool) -> None:
        on_gpu = device.type == "cuda"
        # A smaller number is more urgent, and 0 is the least that CUDA has.
        stream: Any = torch.cuda.Stream  # untyped
        self._stream = stream(device, priority=-1 if urgent else 0) if on_gpu else None
        self._paced: torch.cuda.Event | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Kernels of the block go here."""
        with torch.cuda.stream(self._stream):  # does nothing for None
            yield

    def mark(self) -> "torch.cuda.Event | None":
        """A point in this lane, for another's :meth:`after`."""
        return None if self._stream is None else self._stream.record_event()

    def after(self, mark: "torch.cuda.Event | None") -> None:
        """Kernels from now on wait, on the GPU, for another lane's mark."""
        if self._stream is not None and mark is not None:
            self._stream.wait_event(mark)

    def keep(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Tensors of another lane are read here: their memory is not to be used again before that."""
        if self._stream is not None:
            for tensor in tensors:
                if tensor is not None and tensor.is_cuda:
                    tensor.record_stream(self._stream)

    def pace(self) -> None:
        """Wait for the call before the latest: this thread is one call ahead of the GPU, and never idle."""
        if self._stream is not None:
            before, self._paced = self._paced, self.mark()
            if before is not None:
                before.synchronize()

    def settle(self) -> None:
        """Wait for everything in this lane."""
        if self._stream is not None:
            self._stream.synchronize()


def attempt(work: Callable[[], None]) -> InpaintError | None:
    """Run one stage; what goes wrong is returned, and never ends a thread."""
    try:
        work()
        return None
    except InpaintError as known:
        return known
    except torch.OutOfMemoryError as unfit:
        return OutOfMemoryError(_OUT_OF_MEMORY.format(first_line(unfit)))
    except torch.AcceleratorError as fatal:
        return DeviceError(f"the GPU failed and this process must be restarted: {first_line(fatal)}")
    except Exception as bug:  # noqa: BLE001 - a bug in one request must not end the others
        error = PaintError(f"internal error, please report it: {type(bug).__name__}: {first_line(bug)}")
        error.__cause__ = bug
        return error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, which for torch's errors is the one that tells."""
    return (str(error).splitlines() or [""])[0]
