"""The stages beside the step loop: encoding before it, decoding and pasting behind it.

On a GPU one thread with a lane of its own does what needs the device. On a CPU the loop itself does, one job
between two steps: a second thread would want the very cores that the steps run on, and torch's pools of
threads sleep instead of spin, which makes a step two and a half times as long, as soon as there are more of
their threads than cores. Two more threads paste, which takes no torch. None of them owns any state: each
job is told to the loop's thread when it is done, which alone decides what follows.
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
Post = Callable[[Callable[[], None]], None]  # has the engine's thread call something


class SideThread:
    """Encodes and decodes for one engine."""

    def __init__(self, stages: Stages, post: Post, name: str, *, overlapped: bool) -> None:
        """Threads that wait for work.

        Args:
            stages: does it.
            post: how the loop's thread is told.
            name: of the threads.
            overlapped: on a thread of its own, not in :meth:`take_turn`.
        """
        self._stages = stages
        self._post = post
        self._stream = DeviceStream(stages.model.device, urgent=False)
        self._device = ThreadPoolExecutor(1, f"{name}-side") if overlapped else None
        self._turns: deque[Callable[[], None]] = deque()
        self._pasters = ThreadPoolExecutor(_PASTERS, f"{name}-paste")

    def encode(self, task: RunningRequest, done: Callable[[InpaintError | None], None]) -> None:
        """Prompts and pictures to rows; then ``done`` in the engine's thread."""

        def work() -> None:
            started = time.monotonic()
            with self._stream.active():
                error = attempt(partial(self._stages.begin, task))
                error = attempt(self._stream.settle) or error
            seconds = time.monotonic() - started

            def tell() -> None:
                task.spend("encode_s", seconds)
                done(error)

            self._post(tell)

        self._on_device(work)

    def decode(self, rows: Sequence[tuple[RunningRequest, int]], mark: Any, done: Painted) -> None:
        """Finished rows of one bucket, ``DECODED_TOGETHER`` at most, to pictures; ``done`` for each.

        Args:
            rows: tasks and the numbers of their samples.
            mark: in the step loop's lane, behind which the latents are complete.
            done: in the engine's thread.
        """
        assert len(rows) <= DECODED_TOGETHER
        finished = [task.rows[sample] for task, sample in rows]

        def work() -> None:
            started = time.monotonic()
            pixels: list[Any] = []
            with self._stream.active():
                self._stream.after(mark)
                self._stream.keep(row.latents for row in finished)
                error = attempt(lambda: pixels.extend(self._stages.decode(finished)))
            seconds = time.monotonic() - started
            for i, (task, sample) in enumerate(rows):
                if error is not None or isinstance(pixels[i], InpaintError):
                    self._post(partial(done, task, sample, error or pixels[i]))
                else:
                    self._submit(self._pasters, partial(self._paste, task, sample, pixels[i], seconds, done))

        self._on_device(work)

    def take_turn(self) -> None:
        """Called by the loop between two steps: do one job, where no thread beside it does."""
        if self._turns:
            self._turns.popleft()()

    @property
    def pending(self) -> bool:
        """Whether :meth:`take_turn` has something to do."""
        return bool(self._turns)

    def _on_device(self, work: Callable[[], None]) -> None:
        if self._device is None:
            self._turns.append(work)
        else:
            self._submit(self._device, work)

    def _paste(
        self,
        task: RunningRequest,
        sample: int,
        pixels: Any,
        seconds: float,
        done: Painted,
    ) -> None:
        started = time.monotonic()
        error = attempt(partial(self._stages.finish, task, sample, pixels))
        seconds += time.monotonic() - started

        def tell() -> None:
            task.spend("decode_s", seconds)
            done(task, sample, error)

        self._post(tell)

    def settle(self) -> None:
        """Wait until nothing that was handed over takes memory on the device any more."""
        if self._device is not None:
            self._device.submit(self._stream.settle).result()

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        for pool in (self._device, self._pasters):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _submit(pool: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # closed meanwhile: the engine has told the jobs itself
            pool.submit(work)
