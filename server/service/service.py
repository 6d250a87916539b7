"""The life of a request behind every dialect: let in, prepared, charged, painted, settled, answered.

Knows nothing of HTTP. What is accepted is written down before it is painted, so that a killed server knows
what it owes: v1 requests are refunded at the next start, v2 requests are painted then.
"""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from inpaint.errors import BusyError, CancelledError, DeadlineError, InpaintError, RequestError
from inpaint.lora.files import require
from inpaint.request import InpaintRequest, InpaintResult, upright_size
from server.engines.client import EngineClient, Terms, Ticket
from server.errors import status_of
from server.fetch.fetcher import Fetcher
from server.observe.metrics import Metrics
from server.service.caller import Caller
from server.service.limits import Limiter, RateState
from server.service.order import Order, Source, Url
from server.service.pictures import CONTENT_TYPES, Prepared, gather, prepare, read_source, write
from server.settings import Settings
from server.storage.blobs import Blobs
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import Ledger
from server.storage.peers import Peers
from server.storage.requests import Record, Store

MICRO = 1_000_000
UNMETERED = 999_999.0  # what the credits header says where nothing is counted

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of."""

    settings: Settings
    client: EngineClient
    database: Database
    peers: Peers
    keys: Keys
    ledger: Ledger
    store: Store
    blobs: Blobs
    fetcher: Fetcher
    limiter: Limiter
    metrics: Metrics


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """The answer to a v1 request: files, and what the headers say."""

    files: list[bytes]
    content_type: str
    size: tuple[int, int]
    record: Record
    seconds: float
    remaining: float  # credits
    warnings: tuple[str, ...] = ()


class Service:
    """Shared by every dialect of one process. Every method is for the event loop."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.draining = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # Letting in.

    @asynccontextmanager
    async def admitted(self, caller: Caller, scope: str) -> AsyncIterator[RateState]:
        """A place for one request, held while it is read and painted; refused before its body is read.

        Raises:
            ForbiddenError: the key may not use this model.
            RateError: this key is over its rate, or has too many requests under way.
            BusyError: the server is full or draining.
        """
        caller.require(scope)
        self._check_room()
        rate = await self.parts.limiter.check_rate(caller.key_id)
        with self.parts.limiter.slot(caller.key_id), self.counted():
            yield rate

    def _check_room(self) -> None:
        settings = self.parts.settings
        if self.draining:
            raise BusyError("the server is going down for a restart; try again", 10.0)
        if self._under_way >= settings.max_waiting + settings.max_rows * max(settings.workers, 1):
            raise BusyError("the server is full; try again", self.parts.client.health().backlog_s or 5.0)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The block is work that a drain waits for."""
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Take no more, and wait until what is under way has been answered, or the time is up."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("drain ran out of time", under_way=self._under_way)

    # Preparing.

    async def prepare(self, caller: Caller, order: Order) -> Prepared:
        """Fetch, decode and check both pictures; draw the seed."""
        with self.timed("fetch"):
            files = await self._gather(caller, order)
        with self.timed("read"):
            prepared = await asyncio.to_thread(prepare, order, *files)
            if loras := prepared.request.loras:  # now, not when it is painted: a name may be mistyped
                await asyncio.to_thread(require, loras, self.parts.settings.loras)
        return replace(prepared, request=prepared.request.with_seed())

    async def read_picture(self, caller: Caller, source: Source) -> bytes:
        """The bytes of one picture, fetched if need be."""
        parts = self.parts
        async with parts.limiter.fetches(caller.key_id) if isinstance(source, Url) else nullcontext():
            return await read_source(parts.fetcher, "image", source, max_bytes=parts.settings.fetch_max_bytes)

    async def _gather(self, caller: Caller, order: Order) -> tuple[bytes, bytes | None]:
        parts, max_bytes = self.parts, self.parts.settings.fetch_max_bytes
        if not order.has_urls:  # waits for nobody else's slow host
            return await gather(parts.fetcher, order, max_bytes=max_bytes)
        async with parts.limiter.fetches(caller.key_id):
            return await gather(parts.fetcher, order, max_bytes=max_bytes)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """The block's seconds as a stage of the metrics."""
        with self.parts.metrics.stages.labels(stage).time():
            yield

    # Charging.

    def price_micro(self, caller: Caller, request: InpaintRequest) -> int:
        """Exact and known up front: steps × megapixels × samples × the price, in micro-credits."""
        settings = self.parts.settings
        if not settings.metering or not caller.key_id:
            return 0
        width, height = upright_size(request.image)
        work = request.steps_to_run * width * height / 1e6 * request.samples
        return math.ceil(work * settings.price * MICRO)

    async def remaining(self, caller: Caller) -> float:
        """Credits left; a large constant where nothing is counted, because clients want a number."""
        if not self.parts.settings.metering or not caller.key_id:
            return UNMETERED
        return await asyncio.to_thread(self.parts.ledger.balance, caller.key_id) / MICRO

    def new_record(self, caller: Caller, mode: str, prepared: Prepared, order: Order) -> Record:
        """What is written down of a request before it is painted."""
        request = prepared.request
        settings = {name: getattr(request, name) for name in order.settings} | {"seed": request.seed}
        return Record.new(
            id=secrets.token_hex(16),
            key_id=caller.key_id,
            mode=mode,
            fields={
                "settings": settings,
                "output_format": order.output_format,
                "quality": order.quality,
                "metadata": self.parts.settings.metadata if order.metadata is None else order.metadata,
                "steps": request.steps_to_run,
                "token": secrets.token_urlsafe(24),  # opens this request's pictures, and nothing else
            },
            seeds=request.seeds,
            cost_micro=self.price_micro(caller, request),
        )

    # Painting, v1.

    async def paint(self, caller: Caller, order: Order, gone: asyncio.Future[None]) -> Painted:
        """Prepare, charge, paint and write one request.

        Args:
            caller: who pays.
            order: what to paint.
            gone: done when the caller has hung up; the request is then cancelled.

        Raises:
            InpaintError: whatever went wrong, refunded; ``server.errors`` has its status.
        """
        started = time.monotonic()
        if not (health := self.parts.client.health()).ready:
            raise BusyError(f"the server is not ready: {health.reason}", 10.0)
        prepared = await self.prepare(caller, order)
        if gone.done():
            raise CancelledError("the caller hung up")
        record = self.new_record(caller, "v1", prepared, order)
        await asyncio.to_thread(self.parts.store.accept, record)
        async with self.accounted(record) as account:
            await asyncio.to_thread(self.parts.store.begin, record.id)
            account.ticket = ticket = await self.parts.client.submit(prepared.request, self._terms(caller))
            result = await self.in_time(ticket.result(), gone)
            files = await self.write(record, prepared, result)
            await self.finish(record, prepared.request, result)
        return Painted(
            files=files,
            content_type=CONTENT_TYPES[order.output_format],
            size=result.images[0].size,
            record=record,
            seconds=time.monotonic() - started,
            remaining=await self.remaining(caller),
            warnings=result.warnings,
        )

    def _terms(self, caller: Caller) -> Terms:
        """For somebody who holds the line: v2's requests wait as long as it takes."""
        settings = self.parts.settings
        return Terms(caller.key_id, settings.deadline_s, settings.max_slowdown or math.inf)

    async def in_time(self, work: Coroutine[Any, Any, T], gone: asyncio.Future[None]) -> T:
        """What ``work`` returns, unless the caller hangs up or the deadline passes first.

        Raises:
            CancelledError: the caller hung up; ``work`` was cancelled.
            DeadlineError: it took too long, and was cancelled.
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

    async def write(self, record: Record, prepared: Prepared, result: InpaintResult) -> list[bytes]:
        """The painted pictures as files, in the format that was asked for."""
        fields = record.fields
        model = self.parts.settings.model if fields.get("metadata") else None
        with self.timed("write"):
            return await asyncio.to_thread(
                write,
                prepared,
                result,
                str(fields["output_format"]),
                int(str(fields["quality"])),
                made_with=model,
            )

    @asynccontextmanager
    async def accounted(self, record: Record) -> AsyncIterator["Account"]:
        """Whatever ends the block other than success ends the record and the engine's work on it too.

        Refunded, but for a request cancelled after its first step, which cost the GPU's time. When this
        process stops, a v2 request goes back to the queue for the next one.
        """
        account = Account()
        try:
            yield account
        except (Exception, asyncio.CancelledError) as error:
            if account.ticket is not None:
                account.ticket.cancel()  # nothing happens to one that has ended
            await asyncio.shield(self._close(record, error, account))
            raise

    async def _close(self, record: Record, error: BaseException, account: "Account") -> None:
        if isinstance(error, CancelledError):
            refund = account.ticket is None or not account.ticket.started
            await self.fail(record, str(error), status_of(error), state="CANCELLED", refund=refund)
        elif isinstance(error, InpaintError):
            await self.fail(record, str(error), status_of(error))
        elif not isinstance(error, asyncio.CancelledError):
            await self.fail(record, "internal error", 500)
        elif record.mode == "v1":
            await self.fail(record, "the server stopped; send it again", 503)
        else:
            await asyncio.to_thread(self.parts.store.requeue, record.id)

    async def fail(
        self, record: Record, error: str, status: int, *, state: str = "FAILED", refund: bool = True
    ) -> None:
        """End a request without pictures; one that has ended stays as it is."""
        ended = await asyncio.to_thread(
            self.parts.store.fail, record.id, error=error, status=status, state=state, refund=refund
        )
        if ended:
            kind = "refunded" if refund else "settled"
            self.parts.metrics.credits.labels(kind).inc(record.cost_micro / MICRO)

    async def finish(
        self,
        record: Record,
        request: InpaintRequest,
        result: InpaintResult,
        outputs: list[dict[str, object]] | None = None,
    ) -> None:
        """End a request whose pictures are safe, and count it; one cancelled meanwhile stays cancelled."""
        ended = await asyncio.to_thread(
            self.parts.store.finish, record.id, outputs=outputs or [], inference_s=inference_s(result)
        )
        if ended:
            self._count(record, request, result)

    def _count(self, record: Record, request: InpaintRequest, result: InpaintResult) -> None:
        metrics = self.parts.metrics
        metrics.images.inc(len(result.images))
        metrics.steps.inc(request.steps_to_run * request.samples)
        metrics.queue_wait.observe(result.timings.get("queue_s", 0.0))
        metrics.credits.labels("settled").inc(record.cost_micro / MICRO)
        for stage in ("encode", "denoise", "decode"):
            metrics.stages.labels(stage).observe(result.timings.get(f"{stage}_s", 0.0))


@dataclass(slots=True)
class Account:
    """What :meth:`Service.accounted` must know of the work inside its block."""

    ticket: Ticket | None = None


def inference_s(result: InpaintResult) -> float:
    """Seconds that the engine itself worked on a request."""
    return sum(result.timings.get(f"{stage}_s", 0.0) for stage in ("encode", "denoise", "decode"))


def steps_of(record: Record) -> int:
    """Denoising steps that a request takes."""
    return int(str(record.fields.get("steps", 0)))


def settings_of(record: Record) -> dict[str, object]:
    """The request's fields as they were written down."""
    settings = record.fields["settings"]
    if not isinstance(settings, dict):
        raise RequestError("request", "was not written down whole")
    return settings
