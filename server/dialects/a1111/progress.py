"""The requests that each caller is waiting for: their progress, their previews, and how they are interrupted.

Upstream these are the whole web UI's. Here they are those of the caller's key, because sd-backend-client
waits for ``job_count`` 0 before each of its own. Everything runs on the event loop.
"""

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from PIL import Image

from inpaint.job import Event
from server.dialects.a1111.answers import timestamp
from server.dialects.a1111.models import Progress, State
from server.engines.client import Ticket
from server.service.caller import Caller
from server.storage.requests import Record

_BEGUN = 0.01  # upstream's progress of a job before its first step; 0 means that there is none


class Run:
    """A request whose caller waits for its pictures."""

    def __init__(self, key_id: str, job: str) -> None:
        self.key_id, self.job = key_id, job
        self.record: Record | None = None  # once an engine has taken it
        self.interrupted = self.skipped = False
        self.preview: Image.Image | None = None
        self._ticket: Ticket | None = None
        self._step, self._steps = 0, 0
        self._since, self._created_at = time.monotonic(), time.time()
        self._watching = False
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, record: Record, ticket: Ticket) -> None:
        """Follow the request, which an engine has taken; cancel it if it was interrupted before."""
        self.record, self._ticket = record, ticket
        self._tasks.append(asyncio.create_task(self._follow(ticket.events())))
        if self.interrupted:
            ticket.cancel()

    def interrupt(self, *, skip: bool = False) -> None:
        """End the request within a step, without an error for its caller."""
        self.interrupted, self.skipped = True, skip
        if self._ticket is not None:
            self._ticket.cancel()

    def watch(self) -> None:
        """Have previews made from the next step on: they cost time, so only while a client asks for them."""
        if self._ticket is not None and not self._watching:
            self._watching = True
            self._tasks.append(asyncio.create_task(self._keep_previews(self._ticket.events(preview=True))))

    def progress(self, job_count: int) -> Progress:
        """Return the state of this request, one of ``job_count`` of its caller."""
        done = min(1.0, _BEGUN + self._step / self._steps) if self._steps else _BEGUN
        elapsed_s = time.monotonic() - self._since
        state = State(
            skipped=self.skipped,
            interrupted=self.interrupted and not self.skipped,
            job=self.job,
            job_count=job_count,
            job_timestamp=timestamp(self._created_at),
            sampling_step=self._step,
            sampling_steps=self._steps,
        )
        return Progress(progress=done, eta_relative=elapsed_s / done - elapsed_s, state=state)

    def end(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self._step, self._steps = event.step, event.steps

    async def _keep_previews(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self.preview = event.preview or self.preview


class Runs:
    """The running requests of this process, the oldest first."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    @contextmanager
    def run(self, caller: Caller, job: str) -> Iterator[Run]:
        """Count the block as a request of ``caller``."""
        run = Run(caller.key_id, job)
        self._runs.append(run)
        try:
            yield run
        finally:
            self._runs.remove(run)
            run.end()

    def of(self, caller: Caller) -> list[Run]:
        """Return a caller's requests, those with its key; without keys there is one caller."""
        return [run for run in self._runs if run.key_id == caller.key_id]


def png_of(preview: Image.Image) -> str:
    """Return a preview as PNG in base64."""
    file = io.BytesIO()
    preview.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
