"""How many threads compute a small model on a CPU: all of them, or one while other programs need the cores.

A small model's UNet call consists of a thousand operations of some microseconds each, and its threads wait
for each other after every one. A thread that another program keeps from its core holds up the others each
time. Measured on two cores (decision 0023), one thread is 10 to 20 % slower while nothing else runs; among
four busy programs it takes 0.7 of the time.

The number of threads moves a picture by rounding: one level in a few pixels of a million.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inpaint.cpu import cores, threads_are_chosen
from inpaint.model.load import Model

# The part of a call's time in which its first thread computes. Measured on two cores: idle 0.95 to 1.0,
# among four busy programs 0.2 to 0.5.
_IDLE, _BUSY = 0.9, 0.7
_CALLS = 3  # in a row under ``_BUSY``, which is no coincidence
_PATIENCE_S, _MOST_PATIENCE_S = 1.0, 30.0  # of calls on an idle core, until all threads are tried again


class CpuThreads:
    """The number of torch's threads; for the thread that calls the UNet."""

    def __init__(self, model: Model) -> None:
        self._small = not model.is_large
        self._all = self._now = torch.get_num_threads()
        self._free = model.device.type == "cpu" and not threads_are_chosen()
        self._slow_calls = 0
        self._idle_s = 0.0
        self._patience_s = _PATIENCE_S

    @property
    def now(self) -> int:
        """The threads of the next call."""
        return self._now

    def begin(self) -> None:
        """Use no more threads than there are cores; called once, in the thread that calls the UNet."""
        if self._free and self._all > cores():
            self._all = cores()
            self._use(self._all)

    def end(self) -> None:
        """Give torch all threads back: their number is the whole process's."""
        if self._now != self._all:
            self._use(self._all)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the UNet call inside the block, and choose the threads of the next one."""
        if not self._free or not self._small or self._all == 1:
            yield
            return
        started, computed = time.perf_counter(), time.thread_time()
        yield
        self.note(time.perf_counter() - started, time.thread_time() - computed)

    def note(self, seconds: float, computed_s: float) -> None:
        """Choose the threads of the next call after one that took ``seconds``.

        Args:
            seconds: its duration.
            computed_s: the part in which the calling thread had a core.
        """
        share = computed_s / max(seconds, 1e-9)
        if self._now > 1:
            self._slow_calls = self._slow_calls + 1 if share < _BUSY else 0
            if self._slow_calls == _CALLS:
                self._use(1)
            elif not self._slow_calls:
                self._patience_s = max(_PATIENCE_S, self._patience_s * 0.9)
            return
        self._idle_s = self._idle_s + seconds if share > _IDLE else 0.0
        if self._idle_s >= self._patience_s:
            # Twice as long until the next attempt, if this one fails.
            self._patience_s = min(_MOST_PATIENCE_S, 2 * self._patience_s)
            self._use(self._all)

    def _use(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._now = threads
        self._slow_calls, self._idle_s = 0, 0.0
