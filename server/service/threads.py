"""The threads of the server, by what they work on, so that no work waits for another kind of work.

Pixels take seconds, an erased hole ten, and an unreachable picture store a minute; a key is checked in a
millisecond. So the first three have executors of their own, and the executor of asyncio is left to the
database and the keys.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

# One more than conversions run at a time, so that a request to be painted never waits for two of them.
_PIXEL_THREADS = max(3, os.cpu_count() or 1)
_FILL_THREADS = max(1, (os.cpu_count() or 1) // 2)  # the rest of the cores is for painting
_BLOB_THREADS = 16  # they wait for a disk or a network


class Threads:
    """The executors for pixels, filled holes and the picture store. Every method is for the event loop."""

    def __init__(self) -> None:
        self._pixels = ThreadPoolExecutor(_PIXEL_THREADS, "inpaint-pixels")
        self._fills = ThreadPoolExecutor(_FILL_THREADS, "inpaint-fills")
        self._blobs = ThreadPoolExecutor(_BLOB_THREADS, "inpaint-blobs")

    async def pixels(self, function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Call a function that decodes, converts or encodes, and return its result."""
        return await _call_in(self._pixels, function, *arguments)

    async def fills(self, function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Call a function that fills a hole for seconds, when its turn comes, and return its result."""
        return await _call_in(self._fills, function, *arguments)

    async def blobs(self, function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Call a function that waits for the picture store, and return its result."""
        return await _call_in(self._blobs, function, *arguments)

    def close(self) -> None:
        """Let the threads end when they are idle; nothing may be called any more."""
        for executor in (self._pixels, self._fills, self._blobs):
            executor.shutdown(wait=False)


async def _call_in(
    executor: Executor, function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
) -> T:
    # With the context, as asyncio.to_thread does: the id of the request belongs into the thread's log lines.
    run = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(executor, lambda: run(function, *arguments))
