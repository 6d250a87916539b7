"""What torch's exceptions say about the device: memory ran out, or it failed for good.

The class of an exception does not tell. Memory that torch's allocator cannot get is an OutOfMemoryError, but
memory for a stream, a graph or a library's handle is missed as an AcceleratorError or a plain RuntimeError.
An illegal access is an AcceleratorError, but inside a product of matrices a plain RuntimeError. So the text
decides.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inpaint.errors import DeviceError, InpaintError, OutOfMemoryError

_OUT_OF_MEMORY = re.compile(
    r"out of memory"
    r"|STATUS_(\w+_)?ALLOC(ATION)?_FAILED"
    # What a library says that finds no memory for its handle. If the device is dead, the next call says so.
    r"|CU(BLAS|DNN)_STATUS_NOT_INITIALIZED"
    r"|DefaultCPUAllocator: (can't|not enough)",
    re.IGNORECASE,
)
_FATAL = re.compile(
    r"CU(BLAS|DNN)_STATUS_(EXECUTION_FAILED|MAPPING_ERROR)"
    r"|CUBLAS_STATUS_INTERNAL_ERROR"
    r"|CUDA error: (an illegal|misaligned address|device-side assert|unspecified launch failure"
    r"|hardware stack|invalid program counter|the launch timed out|uncorrectable)"
    r"|uncorrectable (ECC|NVLink)|(device|GPU) is lost|GPU has fallen off the bus",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an attempt failed for lack of memory, so that a smaller one may succeed."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def is_fatal(error: BaseException) -> bool:
    """Return whether the device failed, so that no later call of this process can be trusted."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or bool(_FATAL.search(str(error)))


def translated(error: BaseException, unfit: str) -> OutOfMemoryError | DeviceError | None:
    """Return our error for one of torch's about the device; None for any other.

    Args:
        error: what torch raised.
        unfit: what to say if memory ran out; ``{}`` in it stands for torch's own words.
    """
    if is_out_of_memory(error):
        return OutOfMemoryError(unfit.format(first_line(error)))
    if is_fatal(error):
        return DeviceError(f"the GPU failed and this process must be restarted: {first_line(error)}")
    return None


@contextmanager
def explained(unfit: str) -> Iterator[None]:
    """Raise our errors for torch's about the device inside the block; see :func:`translated`."""
    try:
        yield
    except InpaintError:
        raise
    except RuntimeError as error:
        ours = translated(error, unfit)
        if ours is None:
            raise
        raise ours from None  # its frames hold tensors that the next attempt needs the memory of


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; torch's further lines are no help to users."""
    return (str(error).splitlines() or [""])[0]
