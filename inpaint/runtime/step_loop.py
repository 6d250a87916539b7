"""The step loop: the one thread that owns a model's UNet, and who joins and leaves between its calls.

Every tick: hear what was posted, drop who is cancelled or late, have others encoded, one UNet call for the
batcher's rows, send the finished ones to be decoded. A call that fails is divided until the row is found that
fails alone.
"""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from inpaint.batching.batcher import Batch, Batcher, QueuedWork
from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import Bucket, Work
from inpaint.canvas.crop import Canvas
from inpaint.errors import (
    CancelledError,
    ClosedError,
    DeadlineError,
    DeviceError,
    InpaintError,
    OutOfMemoryError,
)
from inpaint.job import Event, Job
from inpaint.lora.cache import NO_LORAS, LoraSet
from inpaint.lora.spec import LoraUse
from inpaint.memory import empty_cache
from inpaint.model.denoise import Row, step
from inpaint.model.load import Model
from inpaint.model.unet import Forward, plain
from inpaint.model.vae import DECODED_TOGETHER
from inpaint.runtime.faults import Faults
from inpaint.runtime.lora_switch import LoraSwitch
from inpaint.runtime.side_thread import SideThread
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.runtime.streams import DeviceStream, attempt


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the engine started, and what it holds now."""

    waiting: int  # jobs not yet encoded
    running: int  # rows between their first and their last step
    unet_calls: int
    row_steps: int  # UNet calls × rows in them
    images: int
    failures: int
    out_of_memory: int
    max_rows: int  # guided rows of the native size in one UNet call at most; an out-of-memory halves it
    step_us: Mapping[str, tuple[int, int]]  # rows in a UNet call → how many such calls, their microseconds
    backlog_s: float = 0.0  # until all that it holds is stepped
    exchanges: int = 0  # of the LoRAs in the UNet


class StepLoop:
    """Rows of any requests, one call at a time. The public methods may be called from any thread."""

    def __init__(
        self,
        model: Model,
        profile: Profile,
        fast: Forward | None,
        faults: Faults | None,
        loras: Path | None,
    ) -> None:
        self._model = model
        self._profile = profile
        self._fast = fast
        self._precise: tuple[tuple[LoraUse, ...], Forward] | None = None
        self._faults = faults
        self._stages = Stages(model, loras)
        self._lora_switch = LoraSwitch(model)
        self._wake = threading.Condition()  # guards everything down to the counters
        self._batcher = Batcher(profile)
        self._tasks: dict[QueuedWork, RunningRequest] = {}
        self._posted: deque[Callable[[], None]] = deque()  # by the threads beside this one
        self._fresh = False  # something was submitted
        self._busy = 0  # jobs submitted and not ended
        self._accepting = True
        self._closing = False
        self._broken: DeviceError | None = None
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._step_us: dict[str, tuple[int, int]] = {}
        name = f"inpaint-{model.name}"
        self._stream = DeviceStream(model.device, urgent=True)
        self._side = SideThread(self._stages, self._post, name, overlapped=profile.overlapped)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, canvas: Canvas, work: Work, *, deadline_s: float, promised: bool) -> None:
        """Queue a job; see ``Engine.submit``.

        Raises:
            BusyError: it could not be finished by its deadline; nothing was begun.
            ClosedError: no more are taken.
            DeviceError: the GPU failed before.
        """
        with self._wake:
            if self._broken is not None:
                raise self._broken
            if not self._accepting:
                raise ClosedError("the engine is closing and takes no more requests")
            work = replace(work, expires_at=time.monotonic() + deadline_s)
            entry = self._batcher.enter(work) if promised else self._batcher.submit(work)
            job.emit(Event("queued", steps=job.request.steps_to_run))
            self._tasks[entry] = RunningRequest(job, canvas, {entry: 0})
            self._busy += 1
            self._fresh = True
            self._wake.notify_all()

    def drain(self, timeout_s: float | None) -> bool:
        """Take no more, and wait until those under way have ended; False if the time ran out."""
        with self._wake:
            self._accepting = False
            return self._wake.wait_for(lambda: self._busy == 0, timeout_s)

    def close(self) -> None:
        """Cancel what is under way, and end the threads."""
        with self._wake:
            self._accepting = False
            self._closing = True
            self._wake.notify_all()
        self._thread.join()
        self._side.close()

    def stats(self) -> EngineStats:
        """What it holds and has done."""
        native = int(self._model.unet.config.sample_size)
        with self._wake:
            tasks = set(self._tasks.values())
            return EngineStats(
                sum(not task.rows for task in tasks),
                self._batcher.running,
                max_rows=max(1, self._batcher.cap(Bucket(native, native)) // 2),
                step_us=dict(self._step_us),
                backlog_s=self._batcher.backlog_s(),
                **self._counts,
            )

    # Called by the threads beside this one.

    def _post(self, tell: Callable[[], None]) -> None:
        with self._wake:
            self._posted.append(tell)
            self._wake.notify_all()

    # Below here: the loop's own thread.

    def _run(self) -> None:
        try:
            with self._stream.active():
                while self._wait_for_work():
                    self._drop()
                    self._begin()
                    self._side.take_turn()
                    self._step(self._next_batch())
                    self._leave()
                    if self._broken is not None:
                        self._end_all(self._broken)
        finally:  # also where this loop itself is at fault: nobody may wait for a thread that is gone
            with self._wake:
                self._accepting = False
            self._end_all(CancelledError("the engine was closed before this was finished"))
            attempt(partial(self._use, NO_LORAS))  # the model may go on in another engine

    def _wait_for_work(self) -> bool:
        """Hear what was posted; False when the engine closes."""
        with self._wake:
            self._wake.wait_for(self._has_work)
            self._fresh = False
            posted = list(self._posted)
            self._posted.clear()
        for tell in posted:
            tell()
        return not self._closing

    def _has_work(self) -> bool:
        asked = self._closing or self._fresh or bool(self._posted)
        return asked or self._side.pending or self._batcher.running > 0

    def _drop(self) -> None:
        """Cancelled and expired tasks leave between two steps."""
        with self._wake:
            cancelled = {task for task in self._tasks.values() if task.job.cancelled}
            late = {self._tasks[entry] for entry in self._batcher.expired()} - cancelled
        for task in cancelled:
            self._end(task, CancelledError("the job was cancelled"))
        for task in late:
            self._end(task, DeadlineError("not finished within its deadline; try fewer steps"))

    def _begin(self) -> None:
        """Have waiting tasks encoded, as many as the next UNet calls have room for."""
        with self._wake:
            entries = self._batcher.to_begin()
            for entry in entries:
                if self._tasks[entry].rows:  # a row that is painted once more
                    self._batcher.begun(entry)
        for task in [self._tasks[entry] for entry in entries if not self._tasks[entry].rows]:
            task.spend("queue_s", time.monotonic() - task.entry.submitted_at)
            task.job.emit(Event("encoding", steps=task.job.request.steps_to_run))
            self._side.encode(task, partial(self._encoded, task))

    def _encoded(self, task: RunningRequest, error: InpaintError | None) -> None:
        if error is not None:
            self._fail(task, error)
        elif task.entry in self._tasks:
            if task.fresh:
                self._profile.observe_encode(task.entry.work.bucket, task.timings["encode_s"])
            self._stream.keep(tensor for row in task.rows for tensor in row.tensors())
            with self._wake:
                self._batcher.begun(task.entry)

    def _next_batch(self) -> Batch:
        with self._wake:
            return self._batcher.next_batch()

    def _step(self, batch: Batch, *, again: bool = True) -> None:
        """Advance rows together; where that fails, in halves, down to the row that fails alone."""
        if not batch:
            return
        rows = [self._tasks[entry].row(entry, sample) for entry, sample in batch]
        tasks = list(dict.fromkeys(self._tasks[entry] for entry, _ in batch))
        before = [row.position for row in rows]
        error = attempt(partial(self._use, rows[0].conditioning.loras))
        started = time.monotonic()
        error = error or attempt(partial(self._call, batch, rows))
        seconds = time.monotonic() - started
        moved = [pair for pair, row, at in zip(batch, rows, before, strict=True) if row.position > at]
        with self._wake:
            self._batcher.stepped(moved)
        if error is None:
            self._count_step(rows, seconds)
            for task in tasks:
                task.spend("denoise_s", seconds)
                self._report(task)
        else:
            self._note(error)
            self._divide(batch, error, again=again)

    def _use(self, loras: LoraSet) -> None:
        """Have these LoRAs in the UNet, in place of those of the call before."""
        seconds = self._lora_switch.use(loras, self._stream.settle)
        if seconds is not None:
            self._counts["exchanges"] += 1
            self._profile.observe_switch(seconds)

    def _call(self, batch: Batch, rows: list[Row]) -> None:
        tasks = [self._tasks[entry] for entry, _ in batch]
        for task, row in zip(tasks, rows, strict=True):
            row.watched = task.job.wants_preview
        if self._faults is not None:
            prompts = [task.job.request.prompt for task in tasks]
            self._faults.before_call(list(zip(prompts, rows, strict=True)))
        step(self._model, rows, self._in_fp32() if rows[0].precise else self._fast)
        self._stream.pace()

    def _in_fp32(self) -> Forward:
        """The way through a copy of the UNet in fp32, there as long as precise rows are."""
        # A copy: compiled code and recorded calls hold on to where the UNet's own weights lie.
        uses = self._lora_switch.uses
        if self._precise is None or self._precise[0] != uses:
            self._precise = None  # before the next is made: there is no room for two
            self._precise = uses, plain(copy.deepcopy(self._model.unet).float())
        return self._precise[1]

    def _divide(self, batch: Batch, error: InpaintError, *, again: bool) -> None:
        """After a call that failed: its rows in halves; one alone once more, with nothing beside it."""
        short = isinstance(error, OutOfMemoryError)
        if len(batch) == 1:
            task = self._tasks[batch[0][0]]
            if short and again:
                self._side.settle()  # what is being encoded and decoded takes memory, too
                self._step(batch, again=False)
            else:
                self._end(task, error)
            return
        half = (len(batch) + 1) // 2
        if short:
            self._limit(batch[:half])
        for part in (batch[:half], batch[half:]):
            # A row that took its step before the failure is simply one step ahead of its neighbours.
            # One whose task has just failed by a sample in the other half has nowhere to go.
            self._step([(entry, i) for entry, i in part if entry in self._tasks and entry.left[i]])

    def _limit(self, fits: Batch) -> None:
        """From now on no more rows than these share a call."""
        with self._wake:
            bucket = fits[0][0].work.bucket
            self._batcher.limit(bucket, sum(entry.work.slots for entry, _ in fits))

    def _count_step(self, rows: list[Row], seconds: float) -> None:
        self._counts["unet_calls"] += 1
        self._counts["row_steps"] += len(rows)
        calls, micros = self._step_us.get(str(len(rows)), (0, 0))
        self._step_us[str(len(rows))] = (calls + 1, micros + round(seconds * 1e6))
        self._profile.observe_step(rows[0].bucket, sum(row.slots for row in rows), seconds)

    def _report(self, task: RunningRequest) -> None:
        if task.steps == task.reported:
            return
        task.reported = task.steps
        task.job.emit(Event("step", *task.steps, preview=self._preview(task)))

    def _preview(self, task: RunningRequest) -> Image.Image | None:
        """What the first watched sample looks like; a preview that fails is one that is left out."""
        previews: list[Image.Image] = []
        estimates = [row.estimate for row in task.rows if row.estimate is not None]
        if estimates:
            attempt(lambda: previews.append(self._stages.preview(estimates[0])))
        return previews[0] if previews else None

    def _leave(self) -> None:
        """Rows that are done go to be decoded, at once and a few together."""
        done: dict[Bucket, list[tuple[RunningRequest, int]]] = {}
        for task in dict.fromkeys(self._tasks.values()):
            for sample, row in enumerate(task.rows):
                if row.done and sample not in task.decoding:
                    task.decoding.add(sample)
                    done.setdefault(row.bucket, []).append((task, sample))
        for rows in done.values():
            for i in range(0, len(rows), DECODED_TOGETHER):
                self._side.decode(rows[i : i + DECODED_TOGETHER], self._stream.mark(), self._painted)

    def _painted(self, task: RunningRequest, sample: int, error: InpaintError | None) -> None:
        if error is not None and task.entry in self._tasks and self._repaint(task, sample):
            return
        self._counts["images"] += error is None
        if error is not None:
            self._fail(task, error)
        elif task.entry in self._tasks and task.complete:
            self._end(task)

    def _repaint(self, task: RunningRequest, sample: int) -> bool:
        """Start a row again in fp32 where half precision gave NaN; False if that would change nothing."""
        row = task.rows[sample]
        halves = {parameter.dtype for parameter in self._model.unet.parameters()}
        if row.precise or halves - {torch.float16, torch.bfloat16} or bool(torch.isfinite(row.latents).all()):
            return False
        self._stages.begin_again(task, sample)
        task.decoding.discard(sample)
        bucket = task.rows[sample].bucket
        with self._wake:
            entry = self._batcher.enter(replace(task.entry.work, bucket=bucket, samples=1))
            task.entries[entry] = sample
            self._tasks[entry] = task
        return True

    def _fail(self, task: RunningRequest, error: InpaintError) -> None:
        self._note(error)
        if task.entry in self._tasks:
            self._end(task, error)

    def _note(self, error: InpaintError) -> None:
        """What an error means for the engine itself."""
        self._counts["out_of_memory"] += isinstance(error, OutOfMemoryError)
        if isinstance(error, DeviceError):
            self._broken = error
        else:
            empty_cache(self._model.device)

    def _end(self, task: RunningRequest, error: InpaintError | None = None) -> None:
        """Forget a task and tell its job; without an error it is complete."""
        with self._wake:
            for entry in task.entries:
                del self._tasks[entry]
                self._batcher.remove(entry)
            if not any(entry.work.bucket.precise for entry in self._tasks):
                self._precise = None
        if error is None:
            task.job.finish(task.result(), task.steps[1])
        else:
            self._counts["failures"] += not isinstance(error, CancelledError)
            task.job.fail(error)
        with self._wake:
            self._busy -= 1
            self._wake.notify_all()

    def _end_all(self, error: InpaintError) -> None:
        for task in set(self._tasks.values()):
            self._end(task, error)


_COUNTED = ("unet_calls", "row_steps", "images", "failures", "out_of_memory", "exchanges")
