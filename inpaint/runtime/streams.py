"""CUDA streams of the engine's threads, and the conversion of exceptions to errors with a message.

The step loop's stream is urgent; encoding and decoding have a stream of lower priority, so that the GPU fills
gaps with them instead of delaying every running picture.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from inpaint import cuda
from inpaint.errors import InpaintError, PaintError
from inpaint.gpu_errors import first_line, translated

_OUT_OF_MEMORY = "not enough memory for this picture even alone; try --memory tiled or a smaller area ({})"
_FRAMES = 20  # the innermost ones of a bug that are kept as text


class DeviceStream:
    """A CUDA stream of one thread. On a CPU, where calls are synchronous, its methods do nothing."""

    def __init__(self, device: torch.device, *, urgent: bool) -> None:
        on_gpu = cuda.runtime.on(device)
        self._stream = cuda.runtime.stream(device, priority=-1 if urgent else 0) if on_gpu else None
        # The latest call's begin and end, and who wants to know its seconds.
        self._paced: tuple[Any, Any, Callable[[float], None]] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Launch the block's kernels on this stream."""
        if self._stream is None:
            yield
        else:
            with cuda.runtime.using(self._stream):
                yield

    def mark(self) -> Any:
        """Return the present point in this stream, for :meth:`after` of another; None on a CPU."""
        return None if self._stream is None else self._stream.record_event(cuda.runtime.event())

    def after(self, mark: Any) -> None:
        """Have later kernels wait, on the GPU, for another stream's mark."""
        if self._stream is not None and mark is not None:
            self._stream.wait_event(mark)

    def keep(self, tensors: Iterable[torch.Tensor | None]) -> None:
        """Keep the memory of another stream's tensors from being reused before this stream has read them."""
        if self._stream is not None:
            for tensor in tensors:
                if tensor is not None:
                    cuda.runtime.keep(tensor, self._stream)

    def begin(self) -> Any:
        """Return the begin of a call, for :meth:`pace`: a time on a CPU, else a point in this stream."""
        return time.monotonic() if self._stream is None else self.mark()

    def pace(self, began: Any, book: Callable[[float], None]) -> None:
        """End a call, and wait for the one before: the CPU stays one call ahead, and the GPU is never idle.

        Args:
            began: from :meth:`begin`.
            book: gets the call's own seconds once it has ended: on a GPU, when the next call is paced. It is
                kept until then, so it must hold no tensors.
        """
        if self._stream is None:
            book(time.monotonic() - began)
            return
        before, self._paced = self._paced, (began, self.mark(), book)
        if before is not None:
            begin, end, book_before = before
            end.synchronize()
            book_before(begin.elapsed_time(end) / 1000)

    def settle(self) -> None:
        """Wait for everything on this stream."""
        if self._stream is not None:
            self._stream.synchronize()


def attempt(work: Callable[[], None]) -> InpaintError | None:
    """Run one stage and return its error, so that no exception ends the thread."""
    try:
        work()
        return None
    except InpaintError as known:
        return known.with_traceback(None)  # whose frames hold tensors, for as long as the job is held
    except Exception as error:  # noqa: BLE001 - a bug in one request must not end the others
        if about_device := translated(error, _OUT_OF_MEMORY):
            return about_device
        bug = PaintError(f"internal error, please report it: {type(error).__name__}: {first_line(error)}")
        bug.add_note("".join(traceback.format_exception(error, limit=-_FRAMES)))  # text, for the same reason
        return bug
