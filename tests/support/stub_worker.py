"""A worker process without torch: the real link, orders and faults, and an engine that paints one colour.

Its model is a file, to which it adds a line for each call: the prompts in it. Run by the pool as a program.
"""

import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket
from inpaint.errors import CancelledError, DeviceError, ModelError
from inpaint.job import Event, Job
from inpaint.request import InpaintRequest, InpaintResult
from inpaint.runtime.faults import Faults
from server.engines.worker import Paints, WorkerSpec, run

STEP_S = 0.01


@dataclass(frozen=True)
class StubStats:
    waiting: int
    running: int
    unet_calls: int
    row_steps: int
    images: int
    failures: int
    out_of_memory: int
    max_rows: int
    backlog_s: float = 0.0


class StubEngine:
    """Takes a moment for each step of a batch; a picture's colour is its seed."""

    native_size, vae_factor, in_channels = 1024, 8, 9

    def __init__(self, log: Path, max_rows: int, faults: Faults) -> None:
        self._log, self._max_rows, self._faults = log, max_rows, faults
        self.profile = Profile(MadeFor("stub", "", "", "", ""), max_slots=2 * max_rows)
        slots = {n: STEP_S for n in (1, 2, 4, 8, 16) if n <= 2 * max_rows}
        self.profile.survey(Bucket(128, 128), slots, encode_s=1e-4, decode_s=1e-4)
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, int] = {}
        self._calls = self._images = 0
        self._wake = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: InpaintRequest, *, key: str, deadline_s: float, promised: bool = False) -> Job:
        job = Job(request, request.seeds)
        self._waiting.append(job)
        self._wake.release()
        return job

    def stats(self) -> Any:
        waiting, running = len(self._waiting), len(self._running)
        return StubStats(waiting, running, self._calls, self._calls, self._images, 0, 0, self._max_rows)

    def close(self) -> None:
        """A stub's thread ends with its process."""

    def _run(self) -> None:
        while self._wake.acquire():
            while self._waiting or self._running:
                self._tick()

    def _tick(self) -> None:
        while self._waiting and len(self._running) < self._max_rows:
            job = self._waiting.popleft()
            self._running[job] = 0
            job.emit(Event("encoding", steps=job.request.steps_to_run))
        for job in [job for job in self._running if job.cancelled]:
            del self._running[job]
            job.fail(CancelledError("the job was cancelled"))
        if not self._running:
            return
        prompts = [job.request.prompt for job in self._running]
        with self._log.open("a") as log:
            print(*prompts, sep=",", file=log)
        self._faults.before_call([(prompt, cast("Any", None)) for prompt in prompts])
        threading.Event().wait(STEP_S * (5 if "slow" in prompts else 1))
        self._calls += 1
        for job in list(self._running):
            self._advance(job)

    def _advance(self, job: Job) -> None:
        self._running[job] += 1
        step, steps = self._running[job], job.request.steps_to_run
        preview = Image.new("RGB", (4, 4), (step, 0, 0)) if job.wants_preview else None
        job.emit(Event("step", step, steps, preview))
        if step == steps:
            del self._running[job]
            self._images += len(job.seeds)
            images = [Image.new("RGB", job.request.image.size, (seed % 256, 0, 0)) for seed in job.seeds]
            job.finish(
                InpaintResult(images, job.seeds, (0, 0, 8, 8), ("a warning",), {"denoise_s": 1.5}), steps
            )


def load(spec: WorkerSpec, index: int, start: int) -> Paints:
    if not Path(spec.model).exists():
        raise ModelError(f"there is no model {spec.model}")
    if Path(spec.model).read_text() == "no GPU":
        raise DeviceError("this machine has no such GPU")
    return StubEngine(Path(spec.model), spec.max_rows, Faults.parse(spec.faults, start=start))


if __name__ == "__main__":
    run(int(sys.argv[1]), load)
