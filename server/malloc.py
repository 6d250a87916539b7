"""What the C library does with freed memory: pictures go back to the system, not into its own stock."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_LARGE_BYTES = 1_000_000


def return_freed_memory() -> None:
    """Have glibc return every large block when it is freed; other C libraries are left as they are.

    By itself glibc raises its threshold with the first large block that is freed, up to 32 MB, and keeps such
    blocks from then on, in up to 8 arenas a core: after some large pictures it never returns hundreds of MB.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return
    for parameter, value in (
        (_ARENA_MAX, 2),
        (_MMAP_THRESHOLD, _LARGE_BYTES),
        (_TRIM_THRESHOLD, _LARGE_BYTES),
    ):
        mallopt(parameter, value)
