"""The step loop: the one thread that owns a model's UNet, and decides which rows join each of its calls.

Every tick it runs the callbacks that other threads posted, drops requests that were cancelled or are late,
has waiting requests encoded, makes one UNet call for the rows that the batcher chose, and sends finished rows
to be decoded.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from inpaint.batching.batcher import Batch, QueuedWork
from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import Bucket, Work
from inpaint.canvas.crop import Cut
from inpaint.errors import (
    CancelledError,
    ClosedError,
    DeadlineError,
    DeviceError,
    InpaintError,
    OutOfMemoryError,
)
from inpaint.fast.optimizations import Fast
from inpaint.job import CANCELLED, CLOSED, Event, Job
from inpaint.lora.cache import NO_LORAS, LoraSet
from inpaint.memory import empty_cache
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.row import Row
from inpaint.model.vae import DECODED_TOGETHER
from inpaint.runtime.cpu_threads import CpuThreads
from inpaint.runtime.faults import Faults
from inpaint.runtime.in_flight import InFlight
from inpaint.runtime.lora_switch import LoraSwitch
from inpaint.runtime.recovery import Recovery
from inpaint.runtime.side_thread import SideThread
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.runtime.streams import DeviceStream, attempt


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the engine started, and its load now."""

    waiting: int  # jobs not yet encoded
    running: int  # rows between their first and their last step
    unet_calls: int
    row_steps: int  # UNet calls × rows in them
    images: int
    failures: int
    out_of_memory: int
    max_rows: int  # guided rows of the native size in one UNet call at most; an out-of-memory halves it
    step_us: Mapping[str, tuple[int, int]]  # rows in a UNet call → number of such calls, their microseconds
    backlog_s: float = 0.0  # seconds until everything in the engine is stepped
    lora_switches: int = 0  # changes of the LoRAs in the UNet


class StepLoop:
    """The thread that steps one model's requests. The public methods may be called from any thread."""

    def __init__(
        self,
        model: Model,
        profile: Profile,
        fast: Fast | None,
        faults: Faults | None,
        loras: Path | None,
    ) -> None:
        name = f"inpaint-{model.name}"
        self._model = model
        self._profile = profile
        self._fast = fast
        self._faults = faults
        self._in_flight = InFlight(profile)
        self._wake = self._in_flight.changed  # guards everything down to the counters
        self._posted: deque[Callable[[], None]] = deque()  # callbacks of other threads
        self._fresh = False  # something was submitted
        self._busy = 0  # jobs submitted and not ended
        self._accepting = True
        self._closing = False
        self._broken: DeviceError | None = None
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._step_us: dict[str, tuple[int, int]] = {}
        self._stages = Stages(model, loras, deep_cache=fast is not None and fast.caches_deep_level)
        self._threads = CpuThreads(model)
        self._lora_switch = LoraSwitch(model)
        self._stream = DeviceStream(model.device, urgent=True)
        self._side = SideThread(self._stages, self._post, name, overlapped=profile.overlapped)
        self._recovery = Recovery(
            self._in_flight, self._stages, call=self._call, end=self._end, settle=self._side.settle
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, cut: Cut, work: Work, *, deadline_s: float, promised: bool) -> None:
        """Queue a job; see ``Engine.submit``.

        Raises:
            BusyError: it could not be finished by its deadline; it was not started.
            ClosedError: the engine takes no more requests.
            DeviceError: the GPU failed before.
        """
        with self._wake:
            if self._broken is not None:
                raise self._broken
            if not self._accepting:
                raise ClosedError("the engine is closing and takes no more requests")
            work = replace(work, expires_at=time.monotonic() + deadline_s)
            self._in_flight.add(job, cut, work, promised=promised)
            self._busy += 1
            self._fresh = True
            self._wake.notify_all()

    def drain(self, timeout_s: float | None) -> bool:
        """Take no more jobs and wait until all have ended; return False if ``timeout_s`` ran out."""
        with self._wake:
            self._accepting = False
            return self._wake.wait_for(lambda: self._busy == 0, timeout_s)

    def close(self) -> None:
        """Cancel all jobs and end the threads."""
        with self._wake:
            self._accepting = False
            self._closing = True
            self._wake.notify_all()
        self._stages.stop()
        self._thread.join()
        self._side.close()

    def stats(self) -> EngineStats:
        """Return the counters and the load."""
        native = int(self._model.unet.config.sample_size)
        with self._wake:
            batcher = self._in_flight.batcher
            return EngineStats(
                sum(not task.rows for task in set(self._in_flight.tasks.values())),
                batcher.running,
                max_rows=max(1, batcher.cap(Bucket(native, native)) // 2),
                step_us=dict(self._step_us),
                backlog_s=batcher.backlog_s(),
                **self._counts,
            )

    def _post(self, callback: Callable[[], None]) -> None:
        """Have the loop's thread call something. The only method that the side threads call."""
        with self._wake:
            self._posted.append(callback)
            self._wake.notify_all()

    # Below here: the loop's own thread.

    def _run(self) -> None:
        try:
            self._threads.begin()
            with self._stream.active():
                while self._wait_for_work():
                    self._drop()
                    self._begin()
                    self._side.take_turn()
                    if batch := self._in_flight.next_batch():
                        self._recovery.step(batch)
                    self._leave()
                    if self._broken is not None:
                        self._end_all(self._broken)
        finally:  # also after a bug in this loop: no caller may wait for a thread that is gone
            self._threads.end()
            with self._wake:
                self._accepting = False
            self._end_all(CancelledError(CLOSED))
            with self._stream.active():  # the stream that the switch waits for
                attempt(partial(self._use, NO_LORAS))  # another engine may use the model next

    def _wait_for_work(self) -> bool:
        """Wait, then run the posted callbacks; return False when the engine closes."""
        with self._wake:
            self._wake.wait_for(self._has_work)
            self._fresh = False
            posted = list(self._posted)
            self._posted.clear()
        for callback in posted:
            callback()
        return not self._closing

    def _has_work(self) -> bool:
        signalled = self._closing or self._fresh or bool(self._posted)
        return signalled or self._side.pending or self._in_flight.batcher.running > 0

    def _drop(self) -> None:
        """End requests that were cancelled or are late, between two steps."""
        cancelled, late = self._in_flight.cancelled_and_late()
        for task in cancelled:
            self._end(task, CancelledError(CANCELLED))
        for task in late:
            self._end(task, DeadlineError("not finished by its deadline; allow more time or use fewer steps"))

    def _begin(self) -> None:
        """Have waiting boxes encoded, as many as the next UNet calls have room for."""
        for entry in self._in_flight.to_encode():
            task = self._in_flight.tasks[entry]
            if "queue_s" not in task.timings:  # the first box
                task.spend("queue_s", time.monotonic() - entry.submitted_at)
                task.job.emit(Event("encoding", steps=task.job.request.steps_to_run))
            self._side.encode(task, task.box(entry), partial(self._encoded, task, entry))

    def _encoded(
        self, task: RunningRequest, entry: QueuedWork, seconds: float | None, error: InpaintError | None
    ) -> None:
        if error is not None:
            self._fail(task, error)
        elif entry in self._in_flight.tasks:
            if seconds is not None:
                self._profile.observe_encode(entry.work.bucket, seconds)
            rows = task.begun[task.box(entry)]
            self._stream.keep(tensor for row in rows for tensor in row.tensors())
            with self._wake:
                self._in_flight.batcher.begun(entry)

    def _call(self, batch: Batch) -> InpaintError | None:
        """Advance rows by one UNet call; return what went wrong."""
        rows = [self._in_flight.tasks[entry].row_of(entry, sample) for entry, sample in batch]
        tasks = [self._in_flight.tasks[entry] for entry, _ in batch]
        before = [row.position for row in rows]
        error = attempt(partial(self._use, rows[0].conditioning.loras))
        started = time.monotonic()
        error = error or attempt(partial(self._step, tasks, rows))
        seconds = time.monotonic() - started
        moved = [pair for pair, row, at in zip(batch, rows, before, strict=True) if row.position > at]
        with self._wake:
            self._in_flight.batcher.stepped(moved)
        if error is not None:
            self._note(error)
            return error
        self._counts["unet_calls"] += 1
        self._counts["row_steps"] += len(rows)
        for task in dict.fromkeys(tasks):
            task.spend("denoise_s", seconds)
            self._report(task)
        return None

    def _use(self, loras: LoraSet) -> None:
        """Switch the LoRAs in the UNet to these."""
        seconds = self._lora_switch.use(loras, self._stream.settle)
        if seconds is not None:
            self._counts["lora_switches"] += 1
            self._profile.observe_switch(seconds)

    def _step(self, tasks: list[RunningRequest], rows: list[Row]) -> None:
        began = self._stream.begin()
        # Counted before the step: a row's next call may take another number of slots.
        book = partial(self._count_step, len(rows), rows[0].bucket, sum(row.slots for row in rows))
        for task, row in zip(tasks, rows, strict=True):
            row.watched = task.job.wants_preview
            if not row.watched:
                task.estimates.clear()
        if self._faults is not None:
            prompts = [task.job.request.prompt for task in tasks]
            self._faults.before_call(list(zip(prompts, rows, strict=True)))
        precise = rows[0].precise
        forward = self._recovery.in_fp32(self._lora_switch.uses) if precise else self._fast
        with self._threads.watched():
            step(self._model, rows, forward)
        shown = [task.download_estimate(row) for task, row in zip(tasks, rows, strict=True) if row.watched]
        self._stream.pace(began, partial(self._ended, book, shown))

    @staticmethod
    def _ended(book: Callable[[float], None], shown: list[Callable[[], None]], seconds: float) -> None:
        """Use what a UNet call leaves once it has ended: its seconds, and estimates of watched rows."""
        book(seconds)
        for show in shown:
            show()

    def _count_step(self, rows: int, bucket: Bucket, slots: int, seconds: float) -> None:
        """Book the seconds of one UNet call, once they are known."""
        calls, micros = self._step_us.get(str(rows), (0, 0))
        self._step_us[str(rows)] = (calls + 1, micros + round(seconds * 1e6))
        self._profile.observe_step(bucket, slots, seconds)

    def _report(self, task: RunningRequest) -> None:
        """Emit a step event if the request has taken a step since the last one."""
        if task.steps == task.reported:
            return
        task.reported = task.steps
        previews: list[Image.Image | None] = []
        attempt(lambda: previews.append(self._stages.preview(task)))  # one that fails is left out
        task.job.emit(Event("step", *task.steps, preview=previews[0] if previews else None))

    def _leave(self) -> None:
        """Send finished rows to be decoded immediately, ``DECODED_TOGETHER`` of one bucket at most."""
        for rows in self._in_flight.to_decode():
            for i in range(0, len(rows), DECODED_TOGETHER):
                self._side.decode(rows[i : i + DECODED_TOGETHER], self._stream.mark(), self._painted)

    def _painted(self, task: RunningRequest, number: int, error: InpaintError | None) -> None:
        present = task.entry in self._in_flight.tasks
        if error is not None and present and self._recovery.repaint(task, number):
            return
        if error is not None:
            self._fail(task, error)
            return
        self._counts["images"] += task.pasted(number)
        if present and task.complete:
            self._end(task)

    def _fail(self, task: RunningRequest, error: InpaintError) -> None:
        self._note(error)
        if task.entry in self._in_flight.tasks:
            self._end(task, error)

    def _note(self, error: InpaintError) -> None:
        """Count an out-of-memory and free cached memory for the next attempt, or remember a broken device."""
        if isinstance(error, OutOfMemoryError):
            self._counts["out_of_memory"] += 1
            empty_cache(self._model.device)  # of every stream, so after no other error
        elif isinstance(error, DeviceError):
            self._broken = error

    def _end(self, task: RunningRequest, error: InpaintError | None = None) -> None:
        """Forget a request and end its job, with its pictures if there is no error."""
        self._in_flight.remove(task)
        if error is None:
            task.job.finish(task.result(), task.steps[1])
        else:
            self._counts["failures"] += not isinstance(error, CancelledError)
            task.job.fail(error)
        with self._wake:
            self._busy -= 1
            self._wake.notify_all()

    def _end_all(self, error: InpaintError) -> None:
        for task in set(self._in_flight.tasks.values()):
            self._end(task, error)


_COUNTED = ("unet_calls", "row_steps", "images", "failures", "out_of_memory", "lora_switches")
