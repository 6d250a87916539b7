"""An engine in this process: what ``--workers 0`` and many tests use instead of worker processes."""

import asyncio
from contextlib import suppress

from inpaint.errors import BusyError, ClosedError, DeviceError, InpaintError
from inpaint.job import Event, Job
from inpaint.request import InpaintRequest
from server.engines.client import ANY_TIME, Health, Terms
from server.engines.forecast import Engines
from server.engines.ticket import LoopTicket, prepare
from server.engines.worker import Load, Paints, WorkerSpec, load_engine


class InProcessClient:
    """An engine in this process: for tests and ``--workers 0``. Nothing can restart it if its GPU fails."""

    def __init__(self, spec: WorkerSpec, *, load: Load = load_engine) -> None:
        self._spec = spec
        self._load = load
        self._engine: Paints | None = None
        self._not_ready = "the model is being loaded"
        self._tickets: set[LoopTicket] = set()

    async def start(self) -> None:
        """Load the model, see :meth:`server.engines.client.EngineClient.start`."""
        self._engine = await asyncio.to_thread(self._load, self._spec, 0, 1)
        self._not_ready = ""

    async def close(self, drain_s: float) -> None:
        """Take no more, wait at most ``drain_s`` for what is under way, then stop."""
        self._not_ready = "the server is stopping"
        if self._tickets:
            await asyncio.wait([asyncio.ensure_future(t.ended()) for t in self._tickets], timeout=drain_s)
        for ticket in list(self._tickets):
            self._end(ticket, ClosedError("the server stopped before this was finished; send it again"))
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> LoopTicket:
        """Hand a request over, see :meth:`server.engines.client.EngineClient.submit`."""
        request = await prepare(request)
        if self._engine is None or self._not_ready:
            raise BusyError(f"not ready: {self._not_ready}; try again later", 5.0)
        ticket = LoopTicket(request)
        submitting = asyncio.ensure_future(asyncio.to_thread(self._submit, self._engine, request, terms))
        try:
            job = await asyncio.shield(submitting)
        except asyncio.CancelledError:  # the caller left, but the thread goes on: its job must not
            submitting.add_done_callback(_drop)
            raise
        self._follow(ticket, job)
        return ticket

    def health(self) -> Health:
        """See :meth:`server.engines.client.EngineClient.health`."""
        if self._engine is None:
            return Health(ready=False, reason=self._not_ready)
        stats = self._engine.stats()
        running = sum(ticket.begun for ticket in self._tickets)
        return Health(
            ready=not self._not_ready,
            reason=self._not_ready,
            waiting=len(self._tickets) - running,
            running=running,
            native_size=self._engine.native_size,
            backlog_s=stats.backlog_s,
            row_steps=stats.row_steps,
            unet_calls=stats.unet_calls,
            images=stats.images,
            out_of_memory=stats.out_of_memory,
            steps=stats.step_us,
        )

    @property
    def engines(self) -> Engines:
        """What the engine tells of itself; only once it has started."""
        assert self._engine is not None, self._not_ready
        return Engines.of(self._engine)

    @staticmethod
    def _submit(engine: Paints, request: InpaintRequest, terms: Terms) -> Job:
        engines = Engines.of(engine)
        given_s = engines.given_s(engines.work(request, terms.key), terms)
        return engine.submit(request, key=terms.key, deadline_s=given_s)

    def _follow(self, ticket: LoopTicket, job: Job) -> None:
        loop = asyncio.get_running_loop()
        self._tickets.add(ticket)
        ticket.on_cancel = job.cancel
        ticket.on_watch = job.watch

        def heard(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                loop.call_soon_threadsafe(self._hear, ticket, job, event)

        job.listen(heard)

    def _hear(self, ticket: LoopTicket, job: Job, event: Event) -> None:
        if event.state == "done":
            ticket.finish(job.result(0))
        if event.error is not None:
            self._end(ticket, self._meaning(event.error, ticket))
        elif event.state not in ("queued", "done"):  # the ticket has told both itself
            ticket.tell(event)
        if ticket.finished:
            self._tickets.discard(ticket)

    def _meaning(self, error: InpaintError, ticket: LoopTicket) -> InpaintError:
        if isinstance(error, DeviceError):
            self._not_ready = str(error)
        return error

    def _end(self, ticket: LoopTicket, error: InpaintError) -> None:
        ticket.fail(error)
        self._tickets.discard(ticket)


def _drop(submitting: "asyncio.Future[Job]") -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
