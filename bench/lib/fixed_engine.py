"""An engine whose UNet calls take a fixed time and which paints one colour, to test the code around it.

Its model is ``fixed:SECONDS``, the seconds of a UNet call, or ``fixed:SECONDS:ROWS`` to override the
settings' rows. Rows share calls as in the real engine; the prompts ``slow``, ``slower``, ``die`` and ``hang``
make it slow down, exit and hang.
"""

import os
import threading
import time
from collections import deque
from typing import Any

from PIL import Image

from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket
from inpaint.errors import CancelledError
from inpaint.job import Event, Job
from inpaint.request import InpaintRequest, InpaintResult
from server.engines.worker import Paints, WorkerSpec

_SLOWED = {"slow": 10, "slower": 50}  # prompt → how many times as long a step takes


class Stats:
    """The fields of ``EngineStats`` that callers read."""

    def __init__(self, engine: "FixedEngine") -> None:
        self.row_steps, self.unet_calls, self.images = engine.row_steps, engine.calls, engine.images
        self.out_of_memory, self.failures, self.max_rows = 0, 0, engine.max_rows
        self.waiting, self.running = len(engine.waiting), len(engine.running)
        left = sum(job.request.steps_to_run for job in [*engine.waiting])
        left += sum(job.request.steps_to_run - done for job, done in [*engine.running.items()])
        self.backlog_s = left * engine.step_s / engine.max_rows
        self.step_us: dict[str, tuple[int, int]] = {}


class FixedEngine:
    """An engine that takes ``step_s`` for each step of a batch; a picture's colour is its seed."""

    native_size, vae_factor, in_channels = 128, 8, 9

    def __init__(self, step_s: float, max_rows: int) -> None:
        self.step_s, self.max_rows = step_s, max_rows
        self.profile = Profile(MadeFor("fixed", "", "", "", ""), max_slots=2 * max_rows)
        slots = {n: step_s for n in (1, 2, 4, 8, 16) if n <= 2 * max_rows}
        self.profile.survey(Bucket(16, 16), slots, encode_s=1e-4, decode_s=1e-4)
        self.waiting: deque[Job] = deque()
        self.running: dict[Job, int] = {}
        self.calls = self.images = self.row_steps = 0
        self._wake = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: InpaintRequest, *, key: str, deadline_s: float, promised: bool = False) -> Job:
        """Queue a request, as ``Engine.submit`` does; no deadline is enforced."""
        job = Job(request, request.seeds)
        self.waiting.append(job)
        self._wake.release()
        return job

    def stats(self) -> Any:
        """Return figures like those of ``Engine.stats``."""
        return Stats(self)

    def close(self) -> None:
        """Do nothing: the thread ends with its process."""

    def _run(self) -> None:
        while self._wake.acquire():
            due = time.monotonic()
            while self.waiting or self.running:
                due = self._tick(max(due, time.monotonic() - self.step_s))

    def _tick(self, due: float) -> float:
        while self.waiting and len(self.running) < self.max_rows:
            job = self.waiting.popleft()
            self.running[job] = 0
            job.emit(Event("encoding", steps=job.request.steps_to_run))
        for job in [job for job in self.running if job.cancelled]:
            del self.running[job]
            job.fail(CancelledError("the job was cancelled"))
        prompts = {job.request.prompt for job in self.running}
        if "die" in prompts:
            os._exit(9)
        while "hang" in prompts:
            time.sleep(1)
        # On a clock, so that a busy machine does not make the steps longer.
        due += self.step_s * max((_SLOWED.get(prompt, 1) for prompt in prompts), default=1)
        time.sleep(max(0.0, due - time.monotonic()))
        self.calls += 1
        for job in list(self.running):
            self._advance(job)
        return due

    def _advance(self, job: Job) -> None:
        self.running[job] += 1
        self.row_steps += 1
        step, steps = self.running[job], job.request.steps_to_run
        preview = Image.new("RGB", (4, 4), (step % 256, 0, 0)) if job.wants_preview else None
        job.emit(Event("step", step, steps, preview))
        if step == steps:
            del self.running[job]
            self.images += len(job.seeds)
            images = [Image.new("RGB", job.request.image.size, (seed % 256, 0, 0)) for seed in job.seeds]
            job.finish(InpaintResult(images, job.seeds, (0, 0, 8, 8), (), {"denoise_s": 1.5}), steps)


def load(spec: WorkerSpec, index: int, start: int) -> Paints:
    _, step_s, *rows = spec.model.split(":")
    return FixedEngine(float(step_s), int(rows[0]) if rows else spec.max_rows)
