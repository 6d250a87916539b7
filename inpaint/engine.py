"""The engine: one model, one thread that owns it, and requests that join and leave between steps."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from PIL import Image

from inpaint.batcher import Batch, Batcher, Entry
from inpaint.canvas import cut
from inpaint.demo import demo_checkpoint
from inpaint.denoise import Row, step
from inpaint.errors import (
    CancelledError,
    ClosedError,
    DeadlineError,
    DeviceError,
    InpaintError,
    OutOfMemoryError,
)
from inpaint.fast.levers import Fast, choose, ready
from inpaint.faults import Faults
from inpaint.job import Event, Job
from inpaint.lane import Lane, attempt
from inpaint.latents import DECODED_TOGETHER
from inpaint.memory import computing_in, empty_cache
from inpaint.models import Model, load_model, pick_device, pick_dtype
from inpaint.painter import Painter, Task
from inpaint.profile import Profile
from inpaint.request import InpaintRequest, InpaintResult
from inpaint.side import Side
from inpaint.warmup import made_for, survey
from inpaint.weights import Checkpoint, config_folder, resolve
from inpaint.work import Bucket, work_of


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
    max_rows: int  # rows of one UNet call at most; halved by an out-of-memory
    step_us: Mapping[str, tuple[int, int]]  # rows in a UNet call → how many such calls, their microseconds
    backlog_s: float = 0.0  # until all that it holds is stepped


class Engine:
    """Paints requests. Every method may be called from any thread.

    >>> with Engine.load("demo") as engine:
    ...     result = engine.paint(InpaintRequest(image=photo, mask=mask, prompt="a red circle", seed=7))
    """

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int = 8,
        fast: Fast | None = None,
        profile: Profile | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.model = model
        self.profile = profile or Profile(made_for(model), max_slots=2 * max_rows)
        self._fast = fast
        self._faults = faults
        self._painter = Painter(model)
        self._wake = threading.Condition()  # guards everything down to the counters
        self._batcher = Batcher(self.profile)
        self._tasks: dict[Entry, Task] = {}
        self._posted: deque[Callable[[], None]] = deque()  # by the threads beside the engine's
        self._fresh = False  # something was submitted
        self._busy = 0  # jobs submitted and not ended
        self._accepting = True
        self._closing = False
        self._broken: DeviceError | None = None
        self._max_rows = max_rows
        self._counts = dict.fromkeys(("unet_calls", "row_steps", "images", "failures", "out_of_memory"), 0)
        self._step_us: dict[str, tuple[int, int]] = {}
        name = f"inpaint-{model.name}"
        self._lane = Lane(model.device, urgent=True)
        self._side = Side(self._painter, self._post, name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        if fast is not None:
            fast.start()
        self._thread.start()

    @classmethod
    def load(
        cls,
        model: str | Path = "demo",
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
        precision: str = "exact",
        without: Iterable[str] = (),
        few_step_lora: Path | None = None,
        max_rows: int = 8,
        profiles: Path | None = None,
        faults: Faults | None = None,
    ) -> Self:
        """An engine for a model's name, a diffusers folder or a single ``.safetensors`` file.

        Args:
            model: ``demo``, a name from ``inpaint models list``, or a path.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            dtype: ``auto`` (fp16 on CUDA, fp32 on a CPU), ``float32``, ``float16`` or ``bfloat16``.
            memory: ``auto`` (by the free memory) or a plan's name, see ``inpaint.memory.PLANS``.
            precision: ``exact``, or ``fp8`` for quicker pictures that differ a little.
            without: names of levers (``inpaint.fast``) to leave out.
            few_step_lora: a ``.safetensors`` LoRA that paints in 4 to 8 steps (SDXL-Lightning, Hyper-SD) to
                merge into the UNet; samplers then space their steps as it was trained, and want guidance 1.
            max_rows: samples that share one UNet call at most; fewer where measuring finds that more gain
                nothing.
            profiles: a folder of measurements. Those of this model on this device are made where they are not
                there, in a few seconds, and make promises of time possible from the first request.
            faults: to inject, in tests.

        Raises:
            ModelError: missing, damaged or of an unknown kind.
            DeviceError: the device is not there.
            RequestError: there is no such precision or lever, or this device cannot have it.
        """
        place = pick_device(device)
        checkpoint: Checkpoint = demo_checkpoint() if model == "demo" else resolve(model)
        configs = config_folder() if checkpoint.kind == "file" else None
        loaded = load_model(
            checkpoint.path, checkpoint.name, place, pick_dtype(dtype, place), memory, configs, few_step_lora
        )
        levers = choose(loaded, frozenset(without), precision=precision)
        fast = ready(loaded, levers, slots=2 * max_rows)
        profile = None
        if profiles is not None:
            profile = survey(loaded, fast, made_for(loaded, levers), profiles, max_slots=2 * max_rows)
        return cls(loaded, max_rows=max_rows, fast=fast, profile=profile, faults=faults)

    @property
    def native_size(self) -> int:
        """Side in pixels of the square that the model was trained on."""
        return self.model.native_size

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell and side."""
        return self.model.vae_factor

    def submit(
        self, request: InpaintRequest, *, key: str = "", deadline_s: float = inf, promised: bool = False
    ) -> Job:
        """Queue a request and return at once.

        Args:
            request: what to paint.
            key: who asks; the engine's time is shared fairly between keys.
            deadline_s: nobody wants the pictures later than that.
            promised: take it whatever is ahead of it; whoever sends it has looked at the time already.

        Raises:
            RequestError: there is nothing to repaint.
            BusyError: it could not be finished by its deadline; nothing was begun.
            ClosedError: the engine takes no more requests.
        """
        first = random.getrandbits(32) if request.seed == -1 else request.seed
        job = Job(request, [first + i for i in range(request.samples)])
        canvas = cut(request, self.model.native_size)
        work = work_of(request, canvas.size, self.model.vae_factor, key)
        with self._wake:
            if self._broken is not None:
                raise self._broken
            if not self._accepting:
                raise ClosedError("the engine is closing and takes no more requests")
            work = replace(work, deadline=time.monotonic() + deadline_s)
            entry = self._batcher.enter(work) if promised else self._batcher.submit(work)
            job.emit(Event("queued", steps=request.steps_to_run))
            self._tasks[entry] = Task(job, canvas, {entry: 0})
            self._busy += 1
            self._fresh = True
            self._wake.notify_all()
        return job

    def paint(self, request: InpaintRequest) -> InpaintResult:
        """Paint a request and wait for it; raises what :meth:`Job.result` raises."""
        return self.submit(request).result()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more requests and wait until those under way have ended; False if the time ran out."""
        with self._wake:
            self._accepting = False
            return self._wake.wait_for(lambda: self._busy == 0, timeout_s)

    def close(self) -> None:
        """Cancel what is under way and let go of the model."""
        with self._wake:
            self._accepting = False
            self._closing = True
            self._wake.notify_all()
        self._thread.join()
        self._side.close()
        if self._fast is not None:
            self._fast.close()

    def stats(self) -> EngineStats:
        """What the engine holds and has done."""
        with self._wake:
            tasks = set(self._tasks.values())
            return EngineStats(
                sum(not task.rows for task in tasks),
                self._batcher.running,
                max_rows=self._max_rows,
                step_us=dict(self._step_us),
                backlog_s=self._batcher.backlog_s(),
                **self._counts,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Called by the threads beside the engine's.

    def _post(self, tell: Callable[[], None]) -> None:
        with self._wake:
            self._posted.append(tell)
            self._wake.notify_all()

    # Below here: the engine's own thread.

    def _run(self) -> None:
        try:
            with self._lane.active():
                while self._wait_for_work():
                    self._drop()
                    self._begin()
                    self._step(self._next_batch())
                    self._leave()
                    if self._broken is not None:
                        self._end_all(self._broken)
        finally:  # also where this loop itself is at fault: nobody may wait for a thread that is gone
            with self._wake:
                self._accepting = False
            self._end_all(CancelledError("the engine was closed before this was finished"))

    def _wait_for_work(self) -> bool:
        """Hear what was posted; False when the engine closes."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._fresh or self._posted or self._batcher.running)
            self._fresh = False
            posted = list(self._posted)
            self._posted.clear()
        for tell in posted:
            tell()
        return not self._closing

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

    def _encoded(self, task: Task, error: InpaintError | None) -> None:
        if error is not None:
            self._fail(task, error)
        elif task.entry in self._tasks:
            if task.fresh:
                self.profile.observe_encode(task.entry.work.bucket, task.timings["encode_s"])
            self._lane.keep(tensor for row in task.rows for tensor in row.tensors())
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
        started = time.monotonic()
        error = attempt(partial(self._call, batch, rows))
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

    def _call(self, batch: Batch, rows: list[Row]) -> None:
        tasks = [self._tasks[entry] for entry, _ in batch]
        for task, row in zip(tasks, rows, strict=True):
            row.watched = task.job.wants_preview
        if self._faults is not None:
            prompts = [task.job.request.prompt for task in tasks]
            self._faults.before_call(list(zip(prompts, rows, strict=True)))
        if rows[0].precise:
            with computing_in(self.model.unet, torch.float32):
                step(self.model, rows)
        else:
            step(self.model, rows, self._fast)
        self._lane.pace()

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
        half = len(batch) // 2
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
            self._max_rows = min(self._max_rows, len(fits))

    def _count_step(self, rows: list[Row], seconds: float) -> None:
        self._counts["unet_calls"] += 1
        self._counts["row_steps"] += len(rows)
        calls, micros = self._step_us.get(str(len(rows)), (0, 0))
        self._step_us[str(len(rows))] = (calls + 1, micros + round(seconds * 1e6))
        self.profile.observe_step(rows[0].bucket, sum(row.slots for row in rows), seconds)

    def _report(self, task: Task) -> None:
        if task.steps == task.reported:
            return
        task.reported = task.steps
        task.job.emit(Event("step", *task.steps, preview=self._preview(task)))

    def _preview(self, task: Task) -> Image.Image | None:
        """What the first watched sample looks like; a preview that fails is one that is left out."""
        previews: list[Image.Image] = []
        estimates = [row.estimate for row in task.rows if row.estimate is not None]
        if estimates:
            attempt(lambda: previews.append(self._painter.preview(estimates[0])))
        return previews[0] if previews else None

    def _leave(self) -> None:
        """Rows that are done go to be decoded, at once and a few together."""
        done: dict[Bucket, list[tuple[Task, int]]] = {}
        for task in dict.fromkeys(self._tasks.values()):
            for sample, row in enumerate(task.rows):
                if row.done and sample not in task.decoding:
                    task.decoding.add(sample)
                    done.setdefault(row.bucket, []).append((task, sample))
        for rows in done.values():
            for i in range(0, len(rows), DECODED_TOGETHER):
                self._side.decode(rows[i : i + DECODED_TOGETHER], self._lane.mark(), self._painted)

    def _painted(self, task: Task, sample: int, error: InpaintError | None) -> None:
        if error is not None and task.entry in self._tasks and self._repaint(task, sample):
            return
        self._counts["images"] += error is None
        if error is not None:
            self._fail(task, error)
        elif task.entry in self._tasks and task.complete:
            self._end(task)

    def _repaint(self, task: Task, sample: int) -> bool:
        """Start a row again in fp32 where half precision gave NaN; False if that would change nothing."""
        row = task.rows[sample]
        halves = {parameter.dtype for parameter in self.model.unet.parameters()}
        if row.precise or halves - {torch.float16, torch.bfloat16} or bool(torch.isfinite(row.latents).all()):
            return False
        self._painter.begin_again(task, sample)
        task.decoding.discard(sample)
        bucket = task.rows[sample].bucket
        with self._wake:
            entry = self._batcher.enter(replace(task.entry.work, bucket=bucket, samples=1))
            task.entries[entry] = sample
            self._tasks[entry] = task
        return True

    def _fail(self, task: Task, error: InpaintError) -> None:
        self._note(error)
        if task.entry in self._tasks:
            self._end(task, error)

    def _note(self, error: InpaintError) -> None:
        """What an error means for the engine itself."""
        self._counts["out_of_memory"] += isinstance(error, OutOfMemoryError)
        if isinstance(error, DeviceError):
            self._broken = error
        else:
            empty_cache(self.model.device)

    def _end(self, task: Task, error: InpaintError | None = None) -> None:
        """Forget a task and tell its job; without an error it is complete."""
        with self._wake:
            for entry in task.entries:
                del self._tasks[entry]
                self._batcher.remove(entry)
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
