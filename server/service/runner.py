"""The runner of v2 requests: each waits for its turn and an engine, is painted, and its pictures are kept."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog

from inpaint.errors import BusyError, CancelledError, InpaintError, PaintError
from inpaint.request import InpaintResult
from server.engines.client import Terms, Ticket
from server.errors import UnauthorizedError
from server.service.accounting import model_of, notes_of, pixels_of, settings_of
from server.service.pictures import IMAGE, MASK, Prepared, read_inputs
from server.service.refining import distances
from server.service.service import Service
from server.storage.requests import Record

_RETRY_S = 0.5  # between two tries while the engines, the database or the picture store do not answer

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class LiveRequest:
    """A request that this process is to paint and that has not ended."""

    record: Record
    task: asyncio.Task[None] | None = None  # waits for its turn, paints it and ends it
    begun: bool = False
    ticket: Ticket | None = None
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # it got its ticket, or ended
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Runner:
    """The tasks that paint the v2 requests of one process. Every method is for the event loop."""

    def __init__(self, service: Service) -> None:
        self._service, self._parts = service, service.parts
        settings = self._parts.settings
        # More requests than the engines paint at a time would only hold decoded pixels in memory. Those of a
        # model that is not loaded wait with their turn, which must not be another model's.
        self._turns = {
            model: asyncio.Semaphore(2 * settings.max_rows * len(workers))
            for model, workers in settings.workers_of.items()
        }
        self.live: dict[str, LiveRequest] = {}  # by request id, in order of arrival
        self._tasks: set[asyncio.Task[None]] = set()

    def model_of(self, record: Record) -> str:
        """Return the name of the model that is to paint a request; it may not be served any more."""
        return str(record.fields.get("model") or self._parts.settings.models.default)

    def launch(self, record: Record) -> None:
        """Start the task that paints a QUEUED request when its turn comes."""
        live = self.live[record.id] = LiveRequest(record)
        live.task = self.spawn(self._run(live))
        # Not in the task: one that is cancelled before its first step is never entered.
        live.task.add_done_callback(lambda _: self._end(live))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that :meth:`stop` cancels; an exception in it is logged as a bug."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug", error=type(error).__name__, exc_info=error)

    async def stop(self) -> None:
        """Cancel every task; requests that have not ended go back to the queue."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self, live: LiveRequest) -> None:
        """Stop a request: within one step if it is being painted, immediately if it is waiting."""
        live.cancelled = True  # a request that begins at this moment ends before its first step
        if live.ticket is not None:
            live.ticket.cancel()
        elif not live.begun:
            await self._service.accounting.fail(
                live.record, "cancelled by the caller", 422, state="CANCELLED"
            )
            self._end(live)

    async def _run(self, live: LiveRequest) -> None:
        """Paint one request in its turn; while the service drains, leave it QUEUED instead."""
        try:
            async with self._turns.get(self.model_of(live.record), nullcontext()):
                with await self._until_ready(live), self._service.counted():
                    if (record := await self._begin(live)) is not None:
                        live.begun = True
                        await self._paint(record, live)
        except InpaintError as error:
            log.info("request failed", request=live.record.id, error=type(error).__name__)

    async def _until_ready(self, live: LiveRequest) -> ExitStack:
        """Wait for an engine and for memory; the caller exits what is returned when the request has ended."""
        held, pixels = ExitStack(), pixels_of(live.record)
        while not (self._service.draining or live.cancelled):
            with suppress(BusyError):
                if self._parts.client.health().of(self.model_of(live.record)).ready:
                    held.enter_context(self._service.preparation.pixels.hold(pixels))
                    break
            await asyncio.sleep(_RETRY_S)
        return held

    async def _begin(self, live: LiveRequest) -> Record | None:
        """Mark the request PROCESSING; None if it was cancelled while it waited or is the next process's."""
        store, request_id = self._parts.store, live.record.id
        begin = partial(store.begin, request_id)
        while not self._service.draining:
            begun = asyncio.ensure_future(asyncio.to_thread(begin))
            try:
                return await asyncio.shield(begun)
            except asyncio.CancelledError:  # this process will not paint it, so the attempt does not count
                with suppress(BusyError):
                    await begun
                    await asyncio.to_thread(store.requeue, request_id)
                raise
            except BusyError:  # the database does not answer, but it may have made the change
                begin = partial(store.begin_again, request_id)
                await asyncio.sleep(_RETRY_S)
        return None

    def _end(self, live: LiveRequest) -> None:
        if self.live.get(live.record.id) is live:  # it may have been lost and taken over again meanwhile
            del self.live[live.record.id]
        live.changed.set()
        live.ended.set()

    async def _paint(self, record: Record, live: LiveRequest) -> None:
        async with self._service.accounting.settling(record) as settlement:
            await self._retry_while_busy(live, self._check, record)
            prepared = await self._read_inputs(live, record)
            settlement.ticket = live.ticket = await self._submit(live, prepared)
            live.changed.set()
            if live.cancelled:
                live.ticket.cancel()
            await self._keep(live, record, prepared, await live.ticket.result())

    async def _check(self, record: Record) -> None:
        """Refuse a request that may no longer be painted.

        Raises:
            ModelError: its model is not served any more.
            UnauthorizedError: its key was revoked or has expired, so that nothing may be charged to it.
            PaintError: it was begun too often without an end; perhaps it crashes the server.
        """
        model_of(record, self._parts.settings.models)
        if record.attempts > self._parts.settings.max_attempts:
            raise PaintError(f"begun {record.attempts - 1} times and never finished; not tried again")
        if record.key_id and not await asyncio.to_thread(self._parts.keys.active, record.key_id):
            raise UnauthorizedError("the key of this request was revoked or has expired")

    async def _submit(self, live: LiveRequest, prepared: Prepared) -> Ticket:
        if live.cancelled:
            raise CancelledError("cancelled by the caller")
        submit, terms = self._parts.client.submit, Terms(live.record.key_id, model=self.model_of(live.record))
        # An engine that is being restarted raises BusyError too.
        return await self._retry_while_busy(live, submit, prepared.request, terms)

    async def _read_inputs(self, live: LiveRequest, record: Record) -> Prepared:
        threads, get = self._parts.threads, self._parts.blobs.get
        files = [
            await self._retry_while_busy(live, threads.blobs, get, record.id, name) for name in (IMAGE, MASK)
        ]
        return await threads.pixels(read_inputs, files[0], files[1], settings_of(record))

    async def _keep(
        self, live: LiveRequest, record: Record, prepared: Prepared, result: InpaintResult
    ) -> None:
        """Write the painted pictures, or their patches, to the picture store, and end the request."""
        painted = await self._service.written(record, prepared, result)
        measured = await self._retry_while_busy(live, distances, self._parts, record, prepared, painted)
        outputs: list[dict[str, object]] = []
        warnings = [*notes_of(record), *result.warnings]
        for number, (name, data) in enumerate(painted.files):
            put = partial(self._parts.blobs.put, record.id, name, data)
            await self._retry_while_busy(live, self._parts.threads.blobs, put)
            outputs.append(
                dict(painted.outputs[number])
                | {"box": list(painted.box), "warnings": [] if number else warnings}  # of the whole request
                | ({"distance_db": measured[number]} if measured else {})
            )
        await self._retry_while_busy(
            live, self._service.accounting.finish, record, prepared.request, result, outputs
        )

    async def _retry_while_busy(
        self, live: LiveRequest, work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> T:
        """Repeat ``work`` until it raises no BusyError, and return its result.

        A database or a picture store that does not answer is no reason to fail the request.

        Raises:
            CancelledError: the caller cancelled the request meanwhile.
        """
        while True:
            try:
                return await work(*arguments)
            except BusyError:
                if live.cancelled:
                    raise CancelledError("cancelled by the caller") from None
                await asyncio.sleep(_RETRY_S)
