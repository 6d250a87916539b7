"""An engine in this process, for ``--workers 0`` and for tests."""

import asyncio
from contextlib import suppress
from functools import partial

from inpaint.errors import BusyError, ClosedError, DeviceError, InpaintError
from inpaint.job import Event, Job, submitted
from inpaint.request import InpaintRequest
from server.engines.client import ANY_TIME, Health, Terms
from server.engines.forecast import Engines
from server.engines.ticket import LoopTicket, prepare
from server.engines.worker import Load, Paints, WorkerSpec, load_engine


class InProcessClient:
    """An engine client without worker processes: nothing can restart its engine if the GPU fails."""

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
        """Take no more, wait at most ``drain_s`` seconds for what is under way, then stop."""
        self._not_ready = "the server is stopping"
        if self._tickets:
            await asyncio.wait([asyncio.ensure_future(t.ended()) for t in self._tickets], timeout=drain_s)
        for ticket in list(self._tickets):
            self._end(ticket, ClosedError("the server stopped before this was finished; send it again"))
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> LoopTicket:
        """Queue a request, see :meth:`server.engines.client.EngineClient.submit`."""
        request = await prepare(request)
        if self._engine is None or self._not_ready:
            raise BusyError(f"not ready: {self._not_ready}; try again later", 5.0)
        ticket = LoopTicket(request)
        self._follow(ticket, await submitted(partial(self._submit, self._engine, request, terms)))
        return ticket

    def health(self) -> Health:
        """Return the engine's state, see :meth:`server.engines.client.EngineClient.health`."""
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
            in_channels=self._engine.in_channels,
            backlog_s=stats.backlog_s,
            row_steps=stats.row_steps,
            unet_calls=stats.unet_calls,
            images=stats.images,
            out_of_memory=stats.out_of_memory,
            steps=stats.step_us,
        )

    @property
    def engines(self) -> Engines:
        """Description of the engine, once it has started."""
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

        def forward(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: the ticket has no reader any more
                loop.call_soon_threadsafe(self._on_event, ticket, job, event)

        job.listen(forward)

    def _on_event(self, ticket: LoopTicket, job: Job, event: Event) -> None:
        if event.state == "done":
            ticket.finish(job.result(0))
        if event.error is not None:
            if isinstance(event.error, DeviceError):
                self._not_ready = str(event.error)
            self._end(ticket, event.error)
        elif event.state not in ("queued", "done"):  # the ticket has emitted both itself
            ticket.emit(event)
        if ticket.finished:
            self._tickets.discard(ticket)

    def _end(self, ticket: LoopTicket, error: InpaintError) -> None:
        ticket.fail(error)
        self._tickets.discard(ticket)
