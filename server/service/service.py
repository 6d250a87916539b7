"""The life of a v1 request: admitted, prepared, charged, painted, answered; v2 shares the first steps.

It knows no HTTP. A request is written down before it is painted, so that the next process knows what a killed
server owes: it refunds v1 requests and paints v2 requests.
"""

import asyncio
import math
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from inpaint.errors import BusyError, CancelledError, DeadlineError
from inpaint.request import InpaintResult
from server.engines.client import Terms, Ticket
from server.service.accounting import Accounting, model_of, notes_of
from server.service.caller import Caller
from server.service.limits import RateState
from server.service.order import Order
from server.service.own_pictures import OwnPictures
from server.service.parts import Parts
from server.service.patches import Written, wants_boxes, write_patches, written_whole
from server.service.pictures import CONTENT_TYPES, Prepared, Reader, write
from server.service.pixel_budget import PixelBudget
from server.service.preparation import Preparation
from server.service.selecting import Selecting
from server.service.stored_pictures import StoredPictures
from server.service.uploads import Upload, Uploads
from server.storage.requests import Record

T = TypeVar("T")
Begun = Callable[[Record, Ticket], None]

_MIN_FREE_BYTES = 64_000_000  # of the database's disk, for a few requests with their pictures

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may be read: the rest of its key's rate, and the upload of its body."""

    rate: RateState
    upload: Upload


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """The answer to a v1 request: the files, and the values of its headers."""

    files: list[bytes]
    content_type: str
    size: tuple[int, int]
    record: Record
    seconds: float
    remaining: float  # credits of the caller
    warnings: tuple[str, ...] = ()


class Service:
    """The service of one process, shared by every dialect. Every method is for the event loop."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.accounting = Accounting(parts.settings, parts.store, parts.ledger, parts.metrics)
        pixels = PixelBudget(parts.settings.max_decoded_pixels)
        self.pictures = StoredPictures(parts, pixels)
        self.preparation = Preparation(
            parts.settings,
            Reader(
                parts.fetcher,
                parts.threads,
                OwnPictures(parts.store, self.pictures).read,
                max_bytes=parts.settings.fetch_max_bytes,
            ),
            parts.limiter,
            parts.metrics,
            pixels,
            native_size=lambda model: parts.client.health().of(model).native_size,
        )
        self.selecting = Selecting(self.preparation, parts.threads, parts.settings.device)
        self.draining = False
        self._uploads = Uploads(parts.settings.max_uploads, parts.settings.max_upload_bytes)
        self._under_way = 0
        self._painting: Counter[str] = Counter()  # v1 requests under way, by model
        self._idle = asyncio.Event()
        self._idle.set()

    # Admission.

    @asynccontextmanager
    async def admitted(self, caller: Caller, scope: str) -> AsyncIterator[Admission]:
        """Admit one request before its body is read; it counts as its key's for the length of the block.

        A body that is being read takes no place of those that are painted; :meth:`placed` takes one for it.

        Raises:
            ForbiddenError: the key may not use this model.
            RateError: the key is over its rate, or has too many requests under way.
            BusyError: the server is full or draining.
        """
        caller.require(scope)
        self._check_room()
        rate = await self.parts.limiter.check_rate(caller.key_id)
        with self.parts.limiter.slot(caller.key_id), self._uploads.upload(caller.key_id) as upload:
            yield Admission(rate, upload)

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Hold a place among the requests under way, for one whose body was read.

        Raises:
            BusyError: the server is full or draining.
        """
        self._check_room()
        with self.counted():
            yield

    def _check_room(self) -> None:
        settings = self.parts.settings
        if self.draining:
            raise BusyError("the server is going down for a restart; try again", 10.0)
        if self._under_way >= sum(map(self._places, settings.models.names)):
            raise BusyError("the server is full; try again", self.parts.client.health().backlog_s or 5.0)

    def _places(self, model: str) -> int:
        """Return how many requests one model may have under way."""
        settings = self.parts.settings
        return settings.max_waiting + settings.max_rows * len(settings.workers_of[model])

    @contextmanager
    def _place_at(self, model: str) -> Iterator[None]:
        """Hold a place among the v1 requests of one model: those of another one leave it its own.

        Raises:
            BusyError: the model is not ready, or has no place.
        """
        health = self.parts.client.health().of(model)
        if not health.ready:
            what = f"the model {model}" if self.parts.settings.models.several else "the server"
            raise BusyError(f"{what} is not ready: {health.reason}", 10.0)
        if self._painting[model] >= self._places(model):
            raise BusyError("the server is full; try again", health.backlog_s or 5.0)
        self._painting[model] += 1
        try:
            yield
        finally:
            self._painting[model] -= 1

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the block as work that a drain waits for."""
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Admit no more requests, and wait until those under way are answered, at most ``timeout_s``."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("drain ran out of time", under_way=self._under_way)

    def can_store(self) -> bool:
        """Return whether requests can be written down: the last write succeeded, and the disk has room."""
        database = self.parts.database
        if database.file is None:
            return database.writable
        return database.writable and shutil.disk_usage(database.file.parent).free >= _MIN_FREE_BYTES

    # Painting, v1.

    async def paint(
        self, caller: Caller, order: Order, gone: asyncio.Future[None], begun: Begun | None = None
    ) -> Painted:
        """Prepare, charge, paint and write one request.

        Args:
            caller: who pays.
            order: what to paint.
            gone: done when the caller has hung up; the request is then cancelled.
            begun: called when an engine has taken the request, to follow or cancel it.

        Raises:
            InpaintError: the request failed and was refunded; ``server.errors`` has the error's status.
        """
        started = time.monotonic()
        with self._place_at(self.parts.settings.models.named(order.model)):
            async with self.preparation.prepared(caller, order) as prepared:
                if gone.done():
                    raise CancelledError("the caller hung up")
                return await self._paint(caller, order, prepared, gone, begun, started)

    async def _paint(
        self,
        caller: Caller,
        order: Order,
        prepared: Prepared,
        gone: asyncio.Future[None],
        begun: Begun | None,
        started: float,
    ) -> Painted:
        record = self.accounting.new_record(caller, "v1", prepared, order)
        await asyncio.to_thread(self.parts.store.accept, record)
        async with self.accounting.settling(record) as settlement:
            await asyncio.to_thread(self.parts.store.begin, record.id)
            ticket = await self.parts.client.submit(prepared.request, self._terms(caller, prepared.model))
            settlement.ticket = ticket
            if begun is not None:
                begun(record, ticket)
            result = await self.in_time(ticket.result(), gone)
            files = await self.write(record, prepared, result)
            await self.accounting.finish(record, prepared.request, result)
        return Painted(
            files=files,
            content_type=CONTENT_TYPES[order.output_format],
            size=order.resized(prepared.request.image.size) or prepared.request.image.size,
            record=record,
            seconds=time.monotonic() - started,
            remaining=await self.accounting.remaining(caller),
            warnings=(*notes_of(record), *result.warnings),
        )

    def _terms(self, caller: Caller, model: str) -> Terms:
        """Return the terms of a v1 request, whose caller waits for it; v2 requests have no deadline."""
        settings = self.parts.settings
        return Terms(caller.key_id, settings.deadline_s, settings.max_slowdown or math.inf, model)

    async def in_time(self, work: Coroutine[Any, Any, T], gone: asyncio.Future[None]) -> T:
        """Return the result of ``work``, unless the caller hangs up or the deadline passes first.

        Raises:
            CancelledError: the caller hung up; ``work`` was cancelled.
            DeadlineError: the deadline passed; ``work`` was cancelled.
        """
        result, deadline_s = asyncio.ensure_future(work), self.parts.settings.deadline_s
        try:
            await asyncio.wait((result, gone), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if gone.done():
                raise CancelledError("the caller hung up")
            raise DeadlineError(f"not painted within {deadline_s:g} seconds; try fewer steps, or v2")
        finally:
            result.cancel()

    async def written(self, record: Record, prepared: Prepared, result: InpaintResult) -> Written:
        """Encode what is kept of the painted pictures: whole files, or patches if the request says so."""
        if wants_boxes(record):
            model = self._made_with(record)
            with self.parts.metrics.stages.labels("write").time():
                return await self.parts.threads.pixels(write_patches, record, prepared, result, model)
        return written_whole(record, prepared, result, await self.write(record, prepared, result))

    async def write(self, record: Record, prepared: Prepared, result: InpaintResult) -> list[bytes]:
        """Encode the painted pictures as files, in the format that was requested."""
        fields = record.fields
        size: Any = fields.get("size")
        model = self._made_with(record)
        with self.parts.metrics.stages.labels("write").time():
            return await self.parts.threads.pixels(
                write,
                prepared,
                result,
                str(fields["output_format"]),
                int(str(fields["quality"])),
                model,
                tuple(size) if size else None,
            )

    def _made_with(self, record: Record) -> str | None:
        """Return the model's name or path for the files' metadata; None if nothing is written into them."""
        models = self.parts.settings.models
        return models.given[model_of(record, models)] if record.fields.get("metadata") else None
