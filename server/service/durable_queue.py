"""Requests that outlive the process: accepted once, painted once, kept until they expire (v2).

Inputs and results lie in the blob store, everything else in the database; this module's own memory holds no
more than who is waiting for what, so that a restart begins where the last process stopped.
"""

import asyncio
import io
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog
from PIL import Image

from inpaint.errors import BusyError, CancelledError, InpaintError, PaintError
from inpaint.images.codec import decode
from inpaint.job import Event
from inpaint.request import InpaintRequest, InpaintResult
from server.engines.client import Terms, Ticket
from server.errors import FailedError, NotFoundError, RateError, UnauthorizedError
from server.service.caller import Caller
from server.service.order import Order
from server.service.pictures import CONTENT_TYPES, MAX_KEPT_BYTES, Prepared, write_input
from server.service.service import Painted, Service, settings_of, steps_of
from server.service.sweeper import keep_swept
from server.storage.requests import Record

_RETRY_S = 0.5  # while no engine is ready
_CANCEL_S = 10.0  # for another server to hear that it shall cancel, and to do so
ENDED = ("COMPLETED", "FAILED", "CANCELLED")

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Live:
    """A request of this process that has not ended."""

    record: Record
    task: asyncio.Task[None] | None = None  # from its turn to its end
    begun: bool = False
    ticket: Ticket | None = None
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # it got its ticket, or ended
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class DurableQueue:
    """The v2 requests of one process. Every method is for the event loop."""

    def __init__(self, service: Service) -> None:
        self._service, self._parts = service, service.parts
        settings = self._parts.settings
        # More than an engine can paint at once would only hold decoded pixels in memory.
        self._turns = asyncio.Semaphore(2 * settings.max_rows * max(settings.workers, 1))
        self._live: dict[str, _Live] = {}  # in order of arrival
        self._arriving: Counter[str] = Counter()  # by key: being read, not yet written down
        self._tasks: set[asyncio.Task[None]] = set()
        # Of its own: a server whose other threads all wait for something is busy, and not dead.
        self._heartbeat_executor = ThreadPoolExecutor(1, "inpaint-heart")
        self._left = False

    async def start(self) -> None:
        """Take up what an earlier process left, and from now on what other servers leave."""
        parts = self._parts
        await self._on_heartbeat_thread(parts.peers.beat, {})
        for record in await self._on_heartbeat_thread(parts.store.recover):
            self._launch(record)
        self._spawn(self._keep_beating())
        self._spawn(keep_swept(parts))

    async def stop(self) -> None:
        """Leave what has not ended for the next process, or for another server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._left:
            self._left = True
            with suppress(BusyError):  # others will find out by themselves
                await self._on_heartbeat_thread(
                    self._parts.peers.leave
                )  # after a heartbeat that is on its way
            self._heartbeat_executor.shutdown(wait=False)

    async def find(self, caller: Caller, idempotency_key: str, digest: str) -> Record | None:
        """The request that this key was used for; raises IdempotencyError if its body was another."""
        return await asyncio.to_thread(self._parts.store.find, caller.key_id, idempotency_key, digest)

    async def enqueue(
        self, caller: Caller, order: Order, *, idempotency_key: str | None = None, digest: str = ""
    ) -> Record:
        """Prepare, charge and write down; painted later.

        Raises:
            InpaintError: it cannot be painted or paid, or there is no room; nothing was written down.
        """
        self._check_room(caller.key_id)
        self._arriving[caller.key_id] += 1
        try:
            prepared = await self._service.prepare(caller, order)
            record = self._service.new_record(caller, "v2", prepared, order)
            return await self._accept(record, prepared, idempotency_key, digest)
        finally:
            self._arriving[caller.key_id] -= 1
            self._arriving += Counter()  # drops the zeros: keys come and go

    def _check_room(self, key_id: str) -> None:
        settings, health = self._parts.settings, self._parts.client.health()
        waiting = sum(live.ticket is None for live in self._live.values())
        if waiting + self._arriving.total() >= settings.max_waiting:
            raise BusyError("the server is full; try again", health.backlog_s or 5.0)
        own = sum(live.record.key_id == key_id for live in self._live.values()) + self._arriving[key_id]
        if key_id and own >= settings.max_in_flight_per_key:
            problem = f"this key has {settings.max_in_flight_per_key} requests under way already"
            raise RateError(f"{problem}; wait for one of them", health.backlog_s / own or 1.0)

    async def _accept(
        self, record: Record, prepared: Prepared, idempotency_key: str | None, digest: str
    ) -> Record:
        kept: Record | None = None
        try:
            await asyncio.to_thread(self._keep_inputs, record.id, prepared)
            kept = await asyncio.to_thread(
                self._parts.store.accept, record, idempotency_key=idempotency_key, body_digest=digest
            )
        finally:
            if kept is None or kept.id != record.id:
                await asyncio.to_thread(self._parts.blobs.delete, record.id)
        if kept.id == record.id:
            self._launch(kept)
        return kept

    def _keep_inputs(self, request_id: str, prepared: Prepared) -> None:
        blobs, request = self._parts.blobs, prepared.request
        blobs.put(request_id, "image.png", write_input(request.image, prepared.like))
        blobs.put(request_id, "mask.png", write_input(request.mask))

    async def get(self, caller: Caller, request_id: str) -> Record:
        """The request as it stands; NotFoundError for unknown, expired and other people's."""
        return await asyncio.to_thread(self._parts.store.get, request_id, caller.key_id)

    async def wait(self, record: Record, caller: Caller) -> Record:
        """The request once it has ended.

        Raises:
            BusyError: this process stops before that; the next one paints it.
        """
        while record.state not in ENDED:
            if (live := self._live.get(record.id)) is not None:
                await live.ended.wait()
            elif self._service.draining:
                problem = "the server is going down for a restart; send it again with this Idempotency-Key"
                raise BusyError(problem, 10.0)
            else:
                await asyncio.sleep(_RETRY_S)  # another task or process is just about to have it
            record = await self.get(caller, record.id)
        return record

    async def painted(self, caller: Caller, record: Record) -> Painted:
        """An ended request as v1 answers it.

        Raises:
            InpaintError: it failed; with the same status as the first time.
        """
        if record.state != "COMPLETED":
            raise FailedError(record.error or "failed", record.error_status or 500)
        blobs, names = self._parts.blobs, [str(output["file_name"]) for output in record.outputs]
        files = [await asyncio.to_thread(blobs.get, record.id, name) for name in names]
        return Painted(
            files=files,
            content_type=str(record.outputs[0]["content_type"]),
            size=Image.open(io.BytesIO(files[0])).size,  # of our own file; reads its header alone
            record=record,
            seconds=(record.ended_at or 0.0) - record.created_at,
            remaining=await self._service.remaining(caller),
        )

    async def cancel(self, caller: Caller, request_id: str) -> Record:
        """Stop it within one step; one that has ended stays as it is."""
        record = await self.get(caller, request_id)
        if (live := self._live.get(record.id)) is not None:
            await self._cancel(live)
            await live.ended.wait()
        elif record.state == "QUEUED":  # which changes nothing of another server's
            await self._service.fail(record, "cancelled by the caller", 422, state="CANCELLED")
        record = await self.get(caller, request_id)
        if record.state not in ENDED:  # another server's
            await asyncio.to_thread(self._parts.store.ask_cancel, record.id)
            with suppress(TimeoutError, BusyError):
                async with asyncio.timeout(_CANCEL_S):
                    record = await self.wait(record, caller)
        return record

    async def picture(
        self, request_id: str, number: int, *, key_id: str | None, token: str | None
    ) -> tuple[bytes, str]:
        """One painted picture and its content type, for its owner or whoever holds its URL."""
        store = self._parts.store
        if token is not None:
            record = await asyncio.to_thread(store.get_by_token, request_id, token)
        elif key_id is not None:
            record = await asyncio.to_thread(store.get, request_id, key_id)
        else:
            raise UnauthorizedError("Missing Authorization or x-api-key in header")
        if not 0 <= number < len(record.outputs):
            raise NotFoundError("there is no such picture")
        output = record.outputs[number]
        data = await asyncio.to_thread(self._parts.blobs.get, record.id, str(output["file_name"]))
        return data, str(output["content_type"])

    async def events(self, caller: Caller, request_id: str) -> AsyncGenerator[Event | int]:
        """Its place in the queue (0 is next) whenever that changes, then the engine's events.

        Of a request that another server has: its steps, once a second. Over when the request has ended, or
        when this process is about to.
        """
        record = await self.get(caller, request_id)
        step = 0
        while record.state not in ENDED:
            if (live := self._live.get(request_id)) is not None:
                async with aclosing(self._follow(live)) as happenings:
                    async for happening in happenings:
                        yield happening
            elif self._service.draining:
                return
            else:
                if record.step != step:
                    step = record.step
                    yield Event("step", step, max(step, steps_of(record)))
                await asyncio.sleep(_RETRY_S)
            with suppress(BusyError):  # the database is away; the stream goes on when it is back
                record = await self.get(caller, request_id)

    async def _follow(self, live: _Live) -> AsyncGenerator[Event | int]:
        place = -1
        while live.ticket is None and not live.ended.is_set():
            if (now := self._place(live)) != place:
                place = now
                yield place
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await live.changed.wait()
        if live.ticket is not None:
            async with aclosing(live.ticket.events(preview=True)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        await live.ended.wait()

    def _place(self, live: _Live) -> int:
        waiting = [other for other in self._live.values() if other.ticket is None]
        return waiting.index(live) if live in waiting else 0

    # Among other servers.

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._parts.peers.beat_s)
            try:
                await self._on_heartbeat_thread(self._parts.store.catch_up)
                if self._parts.database.shared:
                    await self._beat()
            except BusyError as error:  # the database is away; once it is back, others may have our requests
                log.warning("no heartbeat", error=str(error))
            except Exception as error:  # without a heart everything here would be another's
                log.error("bug", error=type(error).__name__, exc_info=error)

    async def _on_heartbeat_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._heartbeat_executor, function, *arguments
        )

    async def _beat(self) -> None:
        parts = self._parts
        steps = {
            request_id: live.ticket.steps_taken if live.ticket is not None else 0
            for request_id, live in self._live.items()
        }
        pulse = await self._on_heartbeat_thread(parts.peers.beat, steps)
        await self._abandon([live for name in pulse.lost if (live := self._live.get(name)) is not None])
        for name in pulse.cancelled:
            if (live := self._live.get(name)) is not None:
                await self._cancel(live)
        for record in await self._on_heartbeat_thread(parts.store.recover, pulse.dead):
            log.info("taken over", request=record.id)
            self._launch(record)

    async def _abandon(self, lost: list[_Live]) -> None:
        """They are another's by now, whom nothing that this process still does with them must reach."""
        tasks = [live.task for live in lost if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cancel(self, live: _Live) -> None:
        """Within one step, or at once where it waits."""
        live.cancelled = True  # where it begins at this moment, it ends before its first step
        if live.ticket is not None:
            live.ticket.cancel()
        elif not live.begun:
            await self._service.fail(live.record, "cancelled by the caller", 422, state="CANCELLED")
            self._end(live)

    # Painting.

    def _launch(self, record: Record) -> None:
        live = self._live[record.id] = _Live(record)
        live.task = self._spawn(self._run(live))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug", error=type(error).__name__, exc_info=error)

    async def _run(self, live: _Live) -> None:
        """One request, from its turn to its end; while the service drains, it stays QUEUED instead."""
        try:
            async with self._turns:
                await self._until_ready(live)
                with self._service.counted():
                    if (record := await self._begin(live)) is not None:
                        live.begun = True
                        await self._paint(record, live)
        except InpaintError as error:
            log.info("request failed", request=live.record.id, error=type(error).__name__)
        finally:
            self._end(live)

    async def _until_ready(self, live: _Live) -> None:
        while not (self._parts.client.health().ready or self._service.draining or live.cancelled):
            await asyncio.sleep(_RETRY_S)

    async def _begin(self, live: _Live) -> Record | None:
        """None where it was cancelled while it waited, or is to be left for the next process."""
        store, request_id = self._parts.store, live.record.id
        begin = partial(store.begin, request_id)
        while not self._service.draining:
            begun = asyncio.ensure_future(asyncio.to_thread(begin))
            try:
                return await asyncio.shield(begun)
            except asyncio.CancelledError:  # nobody is going to paint it, and it was not tried
                with suppress(BusyError):
                    await begun
                    await asyncio.to_thread(store.requeue, request_id)
                raise
            except BusyError:  # the database is away; perhaps it heard of it all the same
                begin = partial(store.begin_again, request_id)
                await asyncio.sleep(_RETRY_S)
        return None

    async def _patiently(self, live: _Live, work: Callable[..., Coroutine[Any, Any, T]], *given: Any) -> T:
        """What it returns, once the database and the picture store answer: the request is not to blame.

        Raises:
            CancelledError: the caller did not wait for that.
        """
        while True:
            try:
                return await work(*given)
            except BusyError:
                if live.cancelled:
                    raise CancelledError("cancelled by the caller") from None
                await asyncio.sleep(_RETRY_S)

    def _end(self, live: _Live) -> None:
        if self._live.get(live.record.id) is live:  # not one that was lost, and taken over again meanwhile
            del self._live[live.record.id]
        live.changed.set()
        live.ended.set()

    async def _paint(self, record: Record, live: _Live) -> None:
        async with self._service.accounted(record) as account:
            await self._patiently(live, self._check, record)
            account.ticket = live.ticket = await self._submit(live)
            live.changed.set()
            if live.cancelled:
                live.ticket.cancel()
            await self._keep(live, record, await live.ticket.result())

    async def _check(self, record: Record) -> None:
        """What became wrong while it waited.

        Raises:
            UnauthorizedError: its key was revoked, which pays for nothing more.
            PaintError: it took a server down with it, perhaps, and more than once.
        """
        if record.attempts > self._parts.settings.max_attempts:
            raise PaintError(f"begun {record.attempts - 1} times and never finished; not tried again")
        if record.key_id and not await asyncio.to_thread(self._parts.keys.active, record.key_id):
            raise UnauthorizedError("the key of this request was revoked or has expired")

    async def _submit(self, live: _Live) -> Ticket:
        prepared = await self._patiently(live, asyncio.to_thread, self._prepared, live.record)
        if live.cancelled:
            raise CancelledError("cancelled by the caller")
        submit, terms = self._parts.client.submit, Terms(live.record.key_id)
        return await self._patiently(live, submit, prepared.request, terms)  # an engine may be starting again

    def _prepared(self, record: Record) -> Prepared:
        blobs = self._parts.blobs
        like = decode(blobs.get(record.id, "image.png"), "image", max_bytes=MAX_KEPT_BYTES)
        mask = decode(blobs.get(record.id, "mask.png"), "mask", max_bytes=MAX_KEPT_BYTES).image
        return Prepared(InpaintRequest(image=like.image, mask=mask, **settings_of(record)), like)  # type: ignore[arg-type]

    async def _keep(self, live: _Live, record: Record, result: InpaintResult) -> None:
        output_format = str(record.fields["output_format"])
        prepared = await self._patiently(live, asyncio.to_thread, self._prepared, record)
        files = await self._service.write(record, prepared, result)
        outputs: list[dict[str, object]] = []
        warnings = list(result.warnings)
        for number, data in enumerate(files):
            name = f"{number}.{output_format}"
            await self._patiently(live, asyncio.to_thread, self._parts.blobs.put, record.id, name, data)
            outputs.append(
                {
                    "file_name": name,
                    "content_type": CONTENT_TYPES[output_format],
                    "file_size": len(data),
                    "warnings": [] if number else warnings,  # of the whole request
                }
            )
        await self._patiently(live, self._service.finish, record, prepared.request, result, outputs)
