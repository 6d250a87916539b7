"""The threads that encode before the step loop, and decode and paste after it.

On a GPU one thread with a CUDA stream of its own does the work that needs the device. On a CPU the loop's
thread does it, one job between two steps: a second thread would compete for the cores that the steps run on,
and torch's thread pools sleep instead of spinning as soon as they have more threads than there are cores,
which makes a step two and a half times as long. Two more threads paste, which needs no torch. None of them
owns any state: finished work is reported to the loop's thread, which alone decides what follows.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from inpaint.errors import InpaintError
from inpaint.model.vae import DECODED_TOGETHER
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.runtime.streams import DeviceStream, attempt

_PASTERS = 2

Painted = Callable[[RunningRequest, int, InpaintError | None], None]
Encoded = Callable[[float | None, InpaintError | None], None]
Post = Callable[[Callable[[], None]], None]  # has the loop's thread call something


class SideThread:
    """An encoder and decoder outside the step loop of one engine."""

    def __init__(self, stages: Stages, post: Post, name: str, *, overlapped: bool) -> None:
        """Start the threads.

        Args:
            stages: does the work.
            post: has the loop's thread call a function.
            name: the prefix of the threads' names.
            overlapped: use a thread for the device, instead of :meth:`take_turn`.
        """
        self._stages = stages
        self._post = post
        self._stream = DeviceStream(stages.model.device, urgent=False)
        self._device = ThreadPoolExecutor(1, f"{name}-side") if overlapped else None
        self._turns: deque[Callable[[], None]] = deque()
        self._pasters = ThreadPoolExecutor(_PASTERS, f"{name}-paste")

    def encode(self, task: RunningRequest, box: int, done: Encoded) -> None:
        """Encode a box of a request and start its rows; then call ``done`` in the loop's thread.

        Args:
            task: the request.
            box: the number of the box.
            done: called with the seconds that this took, or None if the pictures were encoded before.
        """

        def work() -> None:
            started = time.monotonic()
            fresh: list[bool] = []
            with self._stream.active():
                error = attempt(lambda: fresh.append(self._stages.begin(task, box)))
                error = attempt(self._stream.settle) or error
            seconds = time.monotonic() - started

            def report() -> None:
                task.spend("encode_s", seconds)
                done(seconds if any(fresh) else None, error)

            self._post(report)

        self._on_device(work)

    def decode(self, rows: Sequence[tuple[RunningRequest, int]], mark: Any, done: Painted) -> None:
        """Decode finished rows of one bucket, ``DECODED_TOGETHER`` at most, and paste each.

        Args:
            rows: requests and the numbers of their rows.
            mark: a point in the step loop's stream after which the latents are complete.
            done: called for each row, in the loop's thread.
        """
        assert len(rows) <= DECODED_TOGETHER
        finished = [task.row(number) for task, number in rows]

        def work() -> None:
            started = time.monotonic()
            pixels: list[Any] = []
            with self._stream.active():
                self._stream.after(mark)
                self._stream.keep(row.latents for row in finished)
                error = attempt(lambda: pixels.extend(self._stages.decode(finished)))
            seconds = time.monotonic() - started
            for i, (task, number) in enumerate(rows):
                if error is not None or isinstance(pixels[i], InpaintError):
                    self._post(partial(done, task, number, error or pixels[i]))
                else:
                    self._submit(self._pasters, partial(self._paste, task, number, pixels[i], seconds, done))

        self._on_device(work)

    def take_turn(self) -> None:
        """Do one job if no thread does it; the loop calls this between two steps."""
        if self._turns:
            self._turns.popleft()()

    @property
    def pending(self) -> bool:
        """True while :meth:`take_turn` has a job."""
        return bool(self._turns)

    def _on_device(self, work: Callable[[], None]) -> None:
        if self._device is None:
            self._turns.append(work)
        else:
            self._submit(self._device, work)

    def _paste(
        self,
        task: RunningRequest,
        number: int,
        pixels: Any,
        seconds: float,
        done: Painted,
    ) -> None:
        started = time.monotonic()
        error = attempt(partial(self._stages.finish, task, number, pixels))
        seconds += time.monotonic() - started

        def report() -> None:
            task.spend("decode_s", seconds)
            done(task, number, error)

        self._post(report)

    def settle(self) -> None:
        """Wait until no earlier job uses memory on the device."""
        if self._device is not None:
            self._device.submit(self._stream.settle).result()

    def close(self) -> None:
        """Drop jobs that have not begun, and wait for the others."""
        for pool in (self._device, self._pasters):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _submit(pool: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # closed meanwhile: the loop ends the jobs itself
            pool.submit(work)
