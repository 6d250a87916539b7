"""The engine: one model, one thread that owns it, and requests that join and leave between steps."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from PIL import Image

from inpaint.canvas import cut
from inpaint.demo import demo_checkpoint
from inpaint.denoise import Row, step
from inpaint.errors import (
    CancelledError,
    ClosedError,
    DeviceError,
    InpaintError,
    OutOfMemoryError,
    PaintError,
)
from inpaint.faults import Faults
from inpaint.job import Event, Job
from inpaint.models import Model, load_model, pick_device, pick_dtype
from inpaint.painter import Painter, Task, empty_cache, first_line
from inpaint.request import InpaintRequest, InpaintResult
from inpaint.weights import Checkpoint, config_folder, resolve
from inpaint.work import Bucket


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


class Engine:
    """Paints requests. Every method may be called from any thread.

    >>> with Engine.load("demo") as engine:
    ...     result = engine.paint(InpaintRequest(image=photo, mask=mask, prompt="a red circle", seed=7))
    """

    def __init__(self, model: Model, *, max_rows: int = 8, faults: Faults | None = None) -> None:
        self.model = model
        self._faults = faults
        self._painter = Painter(model)
        self._max_rows = max_rows
        self._wake = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._running: list[Task] = []  # the thread's own
        self._busy = 0  # jobs submitted and not ended
        self._accepting = True
        self._closing = False
        self._broken: DeviceError | None = None
        self._counts = dict.fromkeys(("unet_calls", "row_steps", "images", "failures", "out_of_memory"), 0)
        self._step_us: dict[str, tuple[int, int]] = {}
        self._bucket: Bucket | None = None  # stepped last
        self._thread = threading.Thread(target=self._run, name=f"inpaint-{model.name}", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        model: str | Path = "demo",
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
        max_rows: int = 8,
        faults: Faults | None = None,
    ) -> Self:
        """An engine for a model's name, a diffusers folder or a single ``.safetensors`` file.

        Args:
            model: ``demo``, a name from ``inpaint models list``, or a path.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            dtype: ``auto`` (fp16 on CUDA, fp32 on a CPU), ``float32``, ``float16`` or ``bfloat16``.
            memory: ``auto`` (by the free memory) or a plan's name, see ``inpaint.memory.PLANS``.
            max_rows: samples that share one UNet call at most.
            faults: to inject, in tests.

        Raises:
            ModelError: missing, damaged or of an unknown kind.
            DeviceError: the device is not there.
        """
        place = pick_device(device)
        precision = pick_dtype(dtype, place)
        checkpoint: Checkpoint = demo_checkpoint() if model == "demo" else resolve(model)
        configs = config_folder() if checkpoint.kind == "file" else None
        loaded = load_model(checkpoint.path, checkpoint.name, place, precision, memory, configs)
        return cls(loaded, max_rows=max_rows, faults=faults)

    def submit(self, request: InpaintRequest) -> Job:
        """Queue a request and return at once.

        Raises:
            RequestError: there is nothing to repaint.
            ClosedError: the engine takes no more requests.
        """
        first = random.getrandbits(32) if request.seed == -1 else request.seed
        job = Job(request, [first + i for i in range(request.samples)])
        task = Task(job, cut(request, self.model.native_size))
        with self._wake:
            if self._broken is not None:
                raise self._broken
            if not self._accepting:
                raise ClosedError("the engine is closing and takes no more requests")
            job.emit(Event("queued", steps=request.steps_to_run))
            self._waiting.append(task)
            self._busy += 1
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

    def stats(self) -> EngineStats:
        """What the engine holds and has done."""
        with self._wake:
            return EngineStats(
                len(self._waiting),
                len(self._undone()),
                max_rows=self._max_rows,
                step_us=dict(self._step_us),
                **self._counts,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Below here: the engine's own thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._drop_cancelled()
                self._join()
                self._step(self._next_batch())
                self._leave()
                if self._broken is not None:
                    self._end_all(self._broken)
        finally:  # also where this loop itself is at fault: nobody may wait for a thread that is gone
            with self._wake:
                self._accepting = False
            self._end_all(CancelledError("the engine was closed before this was finished"))

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._waiting or self._running)
            return not self._closing

    def _drop_cancelled(self) -> None:
        with self._wake:
            cancelled = [task for task in [*self._running, *self._waiting] if task.job.cancelled]
        for task in cancelled:
            self._end(task, CancelledError("the job was cancelled"))

    def _join(self) -> None:
        """Encode waiting tasks while the next UNet call has room for their rows."""
        while len(self._undone()) < self._max_rows:
            with self._wake:
                if not self._waiting:
                    return
                task = self._waiting.popleft()
                self._running.append(task)
            task.timings["queue_s"] = time.monotonic() - task.submitted_at
            task.job.emit(Event("encoding", steps=task.job.request.steps_to_run))
            with task.timed("encode_s"):
                error = self._attempt(partial(self._painter.begin, task))
            if error is not None:
                self._end(task, error)

    def _undone(self) -> list[tuple[Task, Row]]:
        return [(task, row) for task in self._running for row in task.rows if not row.done]

    def _next_batch(self) -> list[tuple[Task, Row]]:
        """Rows for one UNet call, first come first served, the buckets taking turns."""
        undone = self._undone()
        buckets = list(dict.fromkeys(row.bucket for _, row in undone))
        if not buckets:
            return []
        last = buckets.index(self._bucket) if self._bucket in buckets else -1
        self._bucket = buckets[(last + 1) % len(buckets)]
        return [pair for pair in undone if pair[1].bucket == self._bucket][: self._max_rows]

    def _step(self, batch: list[tuple[Task, Row]]) -> None:
        """Advance rows together; where that fails, in halves, down to the row that fails alone."""
        if not batch:
            return
        tasks = list(dict.fromkeys(task for task, _ in batch))
        for task, row in batch:
            row.watched = task.job.wants_preview
        started = time.monotonic()
        with ExitStack() as clocks:
            for task in tasks:
                clocks.enter_context(task.timed("denoise_s"))
            error = self._attempt(partial(self._call, batch))
        if error is None:
            self._counts["unet_calls"] += 1
            self._counts["row_steps"] += len(batch)
            self._count_step(len(batch), time.monotonic() - started)
            for task in tasks:
                self._report(task)
        elif len(batch) == 1:
            self._end(tasks[0], error)
        else:
            half = len(batch) // 2
            if isinstance(error, OutOfMemoryError):
                self._max_rows = half
            for part in (batch[:half], batch[half:]):
                # A row that took its step before the failure is simply one step ahead of its neighbours.
                # One whose task has just failed by a sample in the other half has nowhere to go.
                self._step([(task, row) for task, row in part if not row.done and task in self._running])

    def _call(self, batch: list[tuple[Task, Row]]) -> None:
        if self._faults is not None:
            self._faults.before_call([(task.job.request.prompt, row) for task, row in batch])
        step(self.model, [row for _, row in batch])

    def _count_step(self, rows: int, seconds: float) -> None:
        calls, micros = self._step_us.get(str(rows), (0, 0))
        self._step_us[str(rows)] = (calls + 1, micros + round(seconds * 1e6))

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
            self._attempt(lambda: previews.append(self._painter.preview(estimates[0])))
        return previews[0] if previews else None

    def _leave(self) -> None:
        """Decode rows that are done and answer the tasks that are complete."""
        for task in list(self._running):
            for sample, row in enumerate(task.rows):
                if row.done and sample not in task.images and task in self._running:
                    with task.timed("decode_s"):
                        error = self._attempt(partial(self._painter.finish, task, sample))
                    self._counts["images"] += error is None
                    if error is not None:
                        self._end(task, error)
            if task in self._running and len(task.images) == len(task.rows):
                self._end(task)

    def _end(self, task: Task, error: InpaintError | None = None) -> None:
        """Forget a task and tell its job; without an error it is complete."""
        with self._wake:
            (self._running if task in self._running else self._waiting).remove(task)
        if error is None:
            task.job.finish(task.result(), task.steps[1])
        else:
            self._counts["failures"] += not isinstance(error, CancelledError)
            task.job.fail(error)
        with self._wake:
            self._busy -= 1
            self._wake.notify_all()

    def _end_all(self, error: InpaintError) -> None:
        for task in [*self._running, *self._waiting]:
            self._end(task, error)

    def _attempt(self, work: Callable[[], None]) -> InpaintError | None:
        """Run one stage; what goes wrong fails the jobs it concerns, and never the thread."""
        error: InpaintError
        try:
            work()
            return None
        except InpaintError as known:
            return known
        except torch.OutOfMemoryError as unfit:
            error = OutOfMemoryError(_OUT_OF_MEMORY.format(first_line(unfit)))
        except torch.AcceleratorError as fatal:
            error = DeviceError(f"the GPU failed and this process must be restarted: {first_line(fatal)}")
            self._broken = error
        except Exception as bug:  # noqa: BLE001 - a bug in one request must not end the others
            error = PaintError(f"internal error, please report it: {type(bug).__name__}: {first_line(bug)}")
            error.__cause__ = bug
        # Here, outside the except block, the failed attempt's frames and their tensors are gone.
        self._counts["out_of_memory"] += isinstance(error, OutOfMemoryError)
        if self._broken is None:
            empty_cache(self.model.device)
        return error


_OUT_OF_MEMORY = "not enough memory for this picture even alone; try --memory fp8 or a smaller area ({})"
