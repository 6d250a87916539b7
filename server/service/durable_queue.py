"""The queue of v2 requests: accepted once, painted once, kept until they expire.

Inputs and results are in the picture store, everything else in the database. This process's memory holds only
the requests that it is to paint, so that after a restart the next process continues where it stopped.
"""

import asyncio
import io
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image

from inpaint.errors import BusyError
from inpaint.job import Event
from server.errors import FailedError, RateError
from server.service.accounting import model_of, steps_of
from server.service.caller import Caller
from server.service.heartbeat import Heartbeat
from server.service.order import Order
from server.service.orphans import keep_searching
from server.service.pictures import write_inputs
from server.service.refining import prepare_again
from server.service.runner import LiveRequest, Runner
from server.service.service import Painted, Service
from server.service.sweeper import keep_swept
from server.storage.requests import Record

_POLL_S = 0.5  # between two looks at a request that this process does not paint, or at a place in the queue
_CANCEL_S = 10.0  # for another server to receive a cancellation and carry it out
ENDED = ("COMPLETED", "FAILED", "CANCELLED")

Preparing = Callable[[], Coroutine[Any, Any, tuple[Record, Mapping[str, bytes]]]]


class DurableQueue:
    """The v2 requests of one process. Every method is for the event loop."""

    def __init__(self, service: Service) -> None:
        self._service, self._parts = service, service.parts
        self._runner = Runner(service)
        self._live = self._runner.live
        self._heartbeat = Heartbeat(self._parts, self._runner)
        # By key and model: being read, not yet written down.
        self._arriving: Counter[tuple[str, str]] = Counter()
        self.pictures = service.pictures

    async def start(self) -> None:
        """Take up the requests that an earlier process left, and from now on those of servers that stop."""
        await self._heartbeat.start()
        self._runner.spawn(keep_swept(self._parts))
        self._runner.spawn(keep_searching(self._parts.store, self._service.accounting, self._runner))

    async def stop(self) -> None:
        """Leave the requests that have not ended to the next process, or to another server."""
        await self._runner.stop()
        await self._heartbeat.leave()

    async def find(self, caller: Caller, idempotency_key: str, digest: str) -> Record | None:
        """Return the request that this idempotency key was used for, if any.

        Raises:
            IdempotencyError: that request had another body.
        """
        return await asyncio.to_thread(self._parts.store.find, caller.key_id, idempotency_key, digest)

    async def enqueue(
        self, caller: Caller, order: Order, *, idempotency_key: str | None = None, digest: str = ""
    ) -> Record:
        """Prepare, charge and write down a request, which is painted later.

        Args:
            caller: who pays.
            order: what to paint.
            idempotency_key: a second request with this key returns the first one's record.
            digest: of the request's body; a second request with the key must have the same.

        Raises:
            InpaintError: it cannot be painted or paid, or there is no room; nothing was written down.
        """
        prepare = partial(self._prepare, caller, order)
        place = caller.key_id, self._parts.settings.models.named(order.model)
        return await self._arrive(place, prepare, idempotency_key, digest)

    async def refine(
        self,
        caller: Caller,
        request_id: str,
        seed: int | None = None,
        *,
        idempotency_key: str | None = None,
        digest: str = "",
    ) -> Record:
        """Charge and write down a request that paints the pictures of an earlier one again, exactly.

        Args:
            caller: who pays; the earlier request is this caller's.
            request_id: of the earlier request, which was painted at the pace ``near``.
            seed: of the one picture to repaint; None repaints all.
            idempotency_key: as for :meth:`enqueue`.
            digest: as for :meth:`enqueue`.

        Raises:
            InpaintError: there is nothing to refine, it cannot be paid, or there is no room.
        """
        draft = await self.get(caller, request_id)
        prepare = partial(prepare_again, self._service, caller, draft, seed)
        place = caller.key_id, model_of(draft, self._parts.settings.models)
        return await self._arrive(place, prepare, idempotency_key, digest)

    async def _arrive(
        self, place: tuple[str, str], prepare: Preparing, idempotency_key: str | None, digest: str
    ) -> Record:
        self._check_room(*place)
        self._arriving[place] += 1
        try:
            record, inputs = await prepare()
            return await self._accept(record, inputs, idempotency_key, digest)
        finally:
            self._arriving[place] -= 1
            self._arriving += Counter()  # drops the zeros, else every key that ever called would stay here

    def _check_room(self, key_id: str, model: str) -> None:
        settings, health = self._parts.settings, self._parts.client.health().of(model)
        if health.failed:
            raise BusyError(f"the model {model} could not be loaded: {health.reason}", 60.0)
        arriving = self._arriving.items()
        waiting = [live.record for live in self._live.values() if live.ticket is None]
        waiting_here = sum(self._runner.model_of(record) == model for record in waiting)
        if waiting_here + sum(n for (_, m), n in arriving if m == model) >= settings.max_waiting:
            raise BusyError("the server is full; try again", health.backlog_s or 5.0)
        own = sum(live.record.key_id == key_id for live in self._live.values())
        own += sum(n for (key, _), n in arriving if key == key_id)
        if key_id and own >= settings.max_in_flight_per_key:
            problem = f"this key has {settings.max_in_flight_per_key} requests under way already"
            raise RateError(f"{problem}; wait for one of them", health.backlog_s / own or 1.0)

    async def _prepare(self, caller: Caller, order: Order) -> tuple[Record, Mapping[str, bytes]]:
        """Return a request's record and its files; its pixels are in memory no longer than that takes."""
        async with self._service.preparation.prepared(caller, order) as prepared:
            record = self._service.accounting.new_record(caller, "v2", prepared, order)
            return record, await self._parts.threads.pixels(write_inputs, prepared)

    async def _accept(
        self, record: Record, inputs: Mapping[str, bytes], idempotency_key: str | None, digest: str
    ) -> Record:
        blobs, threads = self._parts.blobs, self._parts.threads
        record = replace(record, stored_bytes=sum(map(len, inputs.values())))
        kept: Record | None = None
        try:
            for name, data in inputs.items():
                await threads.blobs(blobs.put, record.id, name, data)
            kept = await asyncio.to_thread(
                self._parts.store.accept,
                record,
                idempotency_key=idempotency_key,
                body_digest=digest,
                max_stored_bytes=self._parts.settings.max_stored_bytes_per_key,
            )
        finally:
            if kept is None or kept.id != record.id:
                await threads.blobs(blobs.delete, record.id)
        if kept.id == record.id:
            self._runner.launch(kept)
        return kept

    async def get(self, caller: Caller, request_id: str) -> Record:
        """Return one of the caller's requests as it is now.

        Raises:
            NotFoundError: it is unknown, has expired, or belongs to another key.
        """
        return await asyncio.to_thread(self._parts.store.get, request_id, caller.key_id)

    async def wait(self, record: Record, caller: Caller) -> Record:
        """Wait until a request has ended, and return it.

        Raises:
            BusyError: this process stops before that; the next one paints the request.
        """
        while record.state not in ENDED:
            if (live := self._live.get(record.id)) is not None:
                await live.ended.wait()
            elif self._service.draining:
                problem = "the server is going down for a restart; send it again with this Idempotency-Key"
                raise BusyError(problem, 10.0)
            else:
                await asyncio.sleep(_POLL_S)  # it is another server's, or about to be launched here
            record = await self.get(caller, record.id)
        return record

    async def painted(self, caller: Caller, record: Record) -> Painted:
        """Return the pictures of an ended request in the form of a v1 answer.

        Raises:
            FailedError: it failed; with the same status as the first time.
        """
        if record.state != "COMPLETED":
            raise FailedError(record.error or "failed", record.error_status or 500)
        files = [await self.pictures.whole(record, number) for number in range(len(record.outputs))]
        return Painted(
            files=files,
            content_type=str(record.outputs[0]["content_type"]),
            size=Image.open(io.BytesIO(files[0])).size,  # safe: we wrote this file; reads only its header
            record=record,
            seconds=(record.ended_at or 0.0) - record.created_at,
            remaining=await self._service.accounting.remaining(caller),
        )

    async def cancel(self, caller: Caller, request_id: str) -> Record:
        """Stop a request within one step, and return it; one that has ended stays as it is."""
        record = await self.get(caller, request_id)
        if (live := self._live.get(record.id)) is not None:
            await self._runner.cancel(live)
            await live.ended.wait()
        elif record.state == "QUEUED":  # changes nothing if the request belongs to another server
            await self._service.accounting.fail(record, "cancelled by the caller", 422, state="CANCELLED")
        record = await self.get(caller, request_id)
        if record.state not in ENDED:  # it belongs to another server
            await asyncio.to_thread(self._parts.store.ask_cancel, record.id)
            with suppress(TimeoutError, BusyError):
                async with asyncio.timeout(_CANCEL_S):
                    record = await self.wait(record, caller)
        return record

    async def events(self, caller: Caller, request_id: str) -> AsyncGenerator[Event | int]:
        """Yield a request's place in the queue (0 is next) when it changes, then the engine's events.

        For a request that another server paints: its steps, which that server reports once a second. Ends
        when the request has ended, or when this process is about to stop.
        """
        record = await self.get(caller, request_id)
        step = 0
        while record.state not in ENDED:
            if (live := self._live.get(request_id)) is not None:
                async with aclosing(self._follow(live)) as events:
                    async for event in events:
                        yield event
            elif self._service.draining:
                return
            else:
                if record.step != step:
                    step = record.step
                    yield Event("step", step, max(step, steps_of(record)))
                await asyncio.sleep(_POLL_S)
            with suppress(BusyError):  # the stream continues when the database answers again
                record = await self.get(caller, request_id)

    async def _follow(self, live: LiveRequest) -> AsyncGenerator[Event | int]:
        place = -1
        while live.ticket is None and not live.ended.is_set():
            if (now := self._place(live)) != place:
                place = now
                yield place
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await live.changed.wait()
        if live.ticket is not None:
            async with aclosing(live.ticket.events(preview=True)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        await live.ended.wait()

    def _place(self, live: LiveRequest) -> int:
        waiting = [other for other in self._live.values() if other.ticket is None]
        return waiting.index(live) if live in waiting else 0
