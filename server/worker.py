"""Where an engine runs: in this process, or as the one worker of a process of its own.

``python -m server.worker FD`` is that process: :mod:`server.pool` starts it and speaks to it over the
socket ``FD``. It ends when the other end of the socket is closed, so none outlives its pool. torch is
imported inside functions only: the pool's process imports this module too.
"""

import asyncio
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from inpaint.errors import BusyError, ClosedError, DeviceError, InpaintError
from inpaint.faults import Faults
from inpaint.job import Event, Job
from inpaint.profile import Profile
from inpaint.request import InpaintRequest
from server.client import ANY_TIME, Health, Terms
from server.forecast import Engines
from server.tickets import LoopTicket, prepare
from server.wire import Link, Message, error_message, request_from, result_message

if TYPE_CHECKING:
    from inpaint.engine import EngineStats

EXIT_UNFIT, EXIT_BROKEN = 2, 3  # could not load; the GPU failed under it
_STATS_S = 0.25


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker loads; see ``Engine.load``. ``faults`` are in the words of :mod:`inpaint.faults`."""

    model: str = "demo"
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    max_rows: int = 8
    precision: str = "exact"
    without: Sequence[str] = ()
    few_step_lora: str | None = None
    loras: str | None = None  # a folder
    profiles: str | None = None  # a folder
    faults: str = ""


class Paints(Protocol):
    """What a worker needs of an engine."""

    profile: Profile

    @property
    def native_size(self) -> int:
        """As ``Engine.native_size``."""

    @property
    def vae_factor(self) -> int:
        """As ``Engine.vae_factor``."""

    def submit(self, request: InpaintRequest, *, key: str, deadline_s: float, promised: bool = False) -> Job:
        """As ``Engine.submit``."""

    def stats(self) -> "EngineStats":
        """As ``Engine.stats``."""

    def close(self) -> None:
        """As ``Engine.close``."""


Load = Callable[[WorkerSpec, int, int], Paints]


def load_engine(spec: WorkerSpec, index: int, start: int) -> Paints:
    """The engine of worker number ``index`` (from 0), in its process number ``start`` (from 1).

    Raises:
        ModelError: missing or damaged.
        DeviceError: the device is not there.
    """
    import torch

    from inpaint.engine import Engine

    several = spec.device == "cuda" or (spec.device == "auto" and torch.cuda.is_available())
    return Engine.load(
        spec.model,
        device=f"cuda:{index}" if several else spec.device,
        dtype=spec.dtype,
        memory=spec.memory,
        max_rows=spec.max_rows,
        precision=spec.precision,
        without=spec.without,
        few_step_lora=None if spec.few_step_lora is None else Path(spec.few_step_lora),
        loras=None if spec.loras is None else Path(spec.loras),
        profiles=None if spec.profiles is None else Path(spec.profiles),
        faults=Faults.parse(spec.faults, start=start) if spec.faults else None,
    )


class InProcessClient:
    """An engine in this process: for tests and ``--workers 0``. Nothing can restart it if its GPU fails."""

    def __init__(self, spec: WorkerSpec, *, load: Load = load_engine) -> None:
        self._spec = spec
        self._load = load
        self._engine: Paints | None = None
        self._not_ready = "the model is being loaded"
        self._tickets: set[LoopTicket] = set()

    async def start(self) -> None:
        """Load the model, see :meth:`server.client.EngineClient.start`."""
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
        """Hand a request over, see :meth:`server.client.EngineClient.submit`."""
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
        """See :meth:`server.client.EngineClient.health`."""
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


class _Worker:
    """An engine at the far end of a link."""

    def __init__(self, engine: Paints, link: Link) -> None:
        self._engine = engine
        self._link = link
        self._jobs: dict[int, Job] = {}
        self._told: object = None

    def serve(self, orders: "queue.SimpleQueue[Message]") -> NoReturn:
        """Obey orders, and between them say how far the engine is."""
        while True:
            try:
                self._obey(orders.get(timeout=_STATS_S))
            except queue.Empty:
                self._tell_stats()

    def _obey(self, order: Message) -> None:
        job = self._jobs.get(order.id)
        if order.kind == "submit":
            self._submit(order)
        elif job is not None and order.kind == "cancel":
            job.cancel()
        elif job is not None and order.kind == "watch":
            job.watch(order.fields["change"])

    def _submit(self, order: Message) -> None:
        try:
            key, left_s = order.fields["key"], order.fields["left_s"]
            job = self._engine.submit(request_from(order), key=key, deadline_s=left_s, promised=True)
        except InpaintError as error:
            self._fail(order.id, error)
            return
        self._jobs[order.id] = job
        job.watch(order.fields["watchers"])
        job.listen(partial(self._tell, order.id, job))

    def _tell(self, request_id: int, job: Job, event: Event) -> None:
        """Called in the engine's thread."""
        if event.error is not None:
            if event.state == "cancelled" and not job.cancelled:
                self._fail(request_id, ClosedError("the engine's thread ended"))
            else:
                self._fail(request_id, event.error)
        elif event.state == "done":
            self._jobs.pop(request_id, None)
            self._tell_stats()  # first, so that whoever has the picture sees it counted
            self._link.send(result_message(request_id, job.result(0)))
        elif event.state != "queued":
            fields = {"state": event.state, "step": event.step, "steps": event.steps}
            images = () if event.preview is None else (event.preview,)
            self._link.send(Message("event", request_id, fields, images))

    def _fail(self, request_id: int, error: InpaintError) -> None:
        if isinstance(error, DeviceError | ClosedError):
            # Not this request's fault, perhaps: the pool finds out whose. Nothing is said after this.
            _leave(self._link, error_message("broken", 0, error), EXIT_BROKEN)
            return
        self._jobs.pop(request_id, None)
        self._tell_stats()
        self._link.send(error_message("failed", request_id, error))

    def _tell_stats(self) -> None:
        stats = self._engine.stats()
        if stats != self._told:
            self._told = stats
            fields = {"stats": asdict(stats), "profile": self._engine.profile.to_json()}
            self._link.send(Message("stats", fields=fields))


def _leave(link: Link, last_words: Message, status: int) -> None:
    link.send(last_words)
    link.after_sent(lambda: os._exit(status))  # no clean-up: a spoiled GPU could hang it


def _read(link: Link, orders: "queue.SimpleQueue[Message]") -> None:
    for message in link.messages():
        orders.put(message)
    os._exit(0)  # the pool is gone or wants us gone, whatever the other threads are at


def run(fd: int, load: Load = load_engine) -> None:
    """Be a worker, to the end of this process."""
    link = Link(socket.socket(fileno=fd))
    orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, orders), name="inpaint-orders", daemon=True).start()
    order = orders.get().fields
    try:
        engine = load(WorkerSpec(**order["spec"]), order["index"], order["start"])
    except InpaintError as error:
        _leave(link, error_message("unfit", 0, error), EXIT_UNFIT)
        threading.Event().wait()
        return
    link.send(Message("ready", fields=Engines.of(engine).to_json()))
    _Worker(engine, link).serve(orders)


if __name__ == "__main__":
    run(int(sys.argv[1]))
