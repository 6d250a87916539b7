"""The way of every dialect into the service: key, limits, body, painting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from inpaint.errors import CancelledError, DeadlineError
from server.errors import FailedError
from server.http.auth import Gate
from server.http.body import Fields, fields_of, optional_fields_of
from server.service.caller import MODEL_SCOPE, Caller
from server.service.durable_queue import DurableQueue
from server.service.limits import RateState
from server.service.order import Order
from server.service.service import Begun, Painted, Service
from server.settings import Settings
from server.storage.requests import Record


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request whose body was read: who sent it, its fields, and the rest of its key's rate."""

    caller: Caller
    fields: Fields
    rate: RateState


@dataclass(frozen=True, slots=True)
class Intake:
    """The service as the handlers of every dialect use it."""

    service: Service
    queue: DurableQueue
    gate: Gate

    @asynccontextmanager
    async def arrival(self, request: Request, *, optional: bool = False) -> AsyncIterator[Arrival]:
        """Admit a request, read its body, and hold its place for the length of the block.

        Args:
            request: its body is not read yet.
            optional: whether it may have no body.

        Raises:
            InpaintError: it is refused, or its body cannot be read.
        """
        caller, parts = await self.gate.admit(request), self.service.parts
        async with self.service.admitted(caller, MODEL_SCOPE) as admission:
            read = optional_fields_of if optional else fields_of
            fields = await read(request, parts, admission.upload)
            with self.service.placed():
                yield Arrival(caller, fields, admission.rate)

    async def paint(
        self, request: Request, caller: Caller, order: Order, begun: Begun | None = None
    ) -> Painted:
        """Paint an order while its caller waits; ``begun`` is called when an engine has taken it.

        Raises:
            InpaintError: it failed and was refunded.
        """
        async with watched(request) as gone:
            return await self.service.paint(caller, self.own(request, order), gone, begun)

    async def store(self, request: Request, caller: Caller, order: Order) -> Record:
        """Paint an order while its caller waits, and keep its pictures, which the answer names by URL.

        Raises:
            InpaintError: it failed and was refunded, or was not painted in time.
        """
        async with watched(request) as gone:
            record = await self.queue.enqueue(caller, self.own(request, order))
            try:
                record = await self.service.in_time(self.queue.wait(record, caller), gone)
            except (CancelledError, DeadlineError):
                await self.queue.cancel(caller, record.id)  # its caller will never learn its id
                raise
        if record.state != "COMPLETED":
            raise FailedError(record.error or "failed", record.error_status or 500)
        return record

    def own(self, request: Request, order: Order) -> Order:
        """Return an order with the URLs of our own pictures recognised."""
        return order.own(base_url(request, self.service.parts.settings))

    def picture_urls(self, request: Request, record: Record) -> list[str]:
        """Return the URL of each picture of a request, which need no key."""
        base = base_url(request, self.service.parts.settings)
        return [picture_url(base, record, number) for number in range(len(record.outputs))]


def base_url(request: Request, settings: Settings) -> str:
    """Return this server's URL for the sender of a request, without a slash at its end."""
    return (settings.public_url or str(request.base_url)).rstrip("/")


def picture_url(base: str, record: Record, number: int) -> str:
    """Return the URL of a request's picture, with the token that replaces a key."""
    return f"{base}/v2/requests/{record.id}/images/{number}?token={record.fields['token']}"


@asynccontextmanager
async def watched(request: Request) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that is done when the client has closed its connection; the body must be read before."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(hung_up())
    try:
        yield task
    finally:
        task.cancel()
