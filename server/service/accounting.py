"""The accounting of requests: their price, their record, and their end, settled or refunded and counted."""

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from inpaint.errors import CancelledError, InpaintError, ModelError, RequestError
from inpaint.request import MAX_SIDE, SETTINGS, InpaintRequest, InpaintResult, upright_size
from server.engines.client import Ticket
from server.errors import status_of
from server.models import Models
from server.observe.metrics import Metrics
from server.service.caller import Caller
from server.service.order import Order
from server.service.pictures import Prepared
from server.service.pixel_budget import decoded_pixels
from server.settings import Settings
from server.storage.ledger import MICRO, Ledger
from server.storage.requests import Record, Store

log = structlog.get_logger()
UNMETERED = 999_999.0  # credits left if nothing is metered, because clients expect a number


@dataclass(slots=True)
class Settlement:
    """The state inside a :meth:`Accounting.settling` block that decides how the request is settled."""

    ticket: Ticket | None = None  # of the engine, once the request was submitted


class Accounting:
    """The prices of requests and their settlement in the ledger. Every method is for the event loop."""

    def __init__(self, settings: Settings, store: Store, ledger: Ledger, metrics: Metrics) -> None:
        self._settings, self._store, self._ledger, self._metrics = settings, store, ledger, metrics
        self.open: set[str] = set()  # ids of requests that a task is about to settle

    def price_micro(self, caller: Caller, request: InpaintRequest, boxes: int) -> int:
        """Return the exact price in micro-credits: steps × megapixels × samples × boxes × the price per unit.

        Steps count by the share of their UNet calls that is made, and each box of a mask with islands far
        apart is painted at the full resolution.
        """
        if not self._settings.metering or not caller.key_id:
            return 0
        width, height = upright_size(request.image)
        plan = request.call_plan
        steps = request.steps_to_run * plan.made / plan.calls
        work = steps * width * height / 1e6 * request.samples * boxes
        return math.ceil(work * self._settings.price * MICRO)

    async def remaining(self, caller: Caller) -> float:
        """Return the credits that a caller has left; UNMETERED if nothing is metered."""
        if not self._settings.metering or not caller.key_id:
            return UNMETERED
        return await asyncio.to_thread(self._ledger.balance, caller.key_id) / MICRO

    def new_record(self, caller: Caller, mode: str, prepared: Prepared, order: Order) -> Record:
        """Return the record of a request that is about to be accepted.

        Args:
            caller: who pays.
            mode: v1 or v2.
            prepared: the request, with its seed drawn.
            order: the request as the dialect passed it.
        """
        request = prepared.request
        settings = {name: getattr(request, name) for name in SETTINGS}
        answered = order.resized(request.image.size)
        size = max(request.image.size, answered or (0, 0), key=math.prod)
        return Record.new(
            id=secrets.token_hex(16),
            key_id=caller.key_id,
            mode=mode,
            fields={
                "settings": settings,
                "model": prepared.model,
                "output_format": order.output_format,
                "quality": order.quality,
                "metadata": self._settings.metadata if order.metadata is None else order.metadata,
                "steps": request.steps_to_run,
                "pace": request.pace,
                "unet_calls": [request.call_plan.made, request.call_plan.calls],
                "boxes": prepared.boxes,
                "pixels": decoded_pixels(*size, request.samples, alpha=request.image.has_transparency_data),
                "token": secrets.token_urlsafe(24),  # gives access to this request's pictures only
                **({"size": list(answered)} if answered else {}),
                # A file in another size cannot be made of a box.
                "answer": "files" if answered else order.answer,
                "notes": [f"image: it {note}" for note in prepared.like.notes],
            },
            seeds=request.seeds,
            cost_micro=self.price_micro(caller, request, prepared.boxes),
        )

    @asynccontextmanager
    async def settling(self, record: Record) -> AsyncIterator[Settlement]:
        """End the request, and the engine's work on it, if the block raises.

        Its price is refunded, unless the caller cancelled it after its first step, which used the GPU. If
        this process stops, a v1 request fails and a v2 request goes back to the queue for the next process.
        """
        settlement = Settlement()
        self.open.add(record.id)
        try:
            yield settlement
        except (Exception, asyncio.CancelledError) as error:
            if settlement.ticket is not None:
                settlement.ticket.cancel()  # does nothing if it has ended
            await asyncio.shield(self._settle(record, error, settlement))
            raise
        finally:
            self.open.discard(record.id)

    async def _settle(self, record: Record, error: BaseException, settlement: Settlement) -> None:
        if isinstance(error, CancelledError):
            refund = settlement.ticket is None or not settlement.ticket.started
            await self.fail(record, str(error), status_of(error), state="CANCELLED", refund=refund)
        elif isinstance(error, InpaintError):
            await self.fail(record, str(error), status_of(error))
        elif not isinstance(error, asyncio.CancelledError):
            await self.fail(record, "internal error", 500)
        elif record.mode == "v1":
            await self.fail(record, "the server stopped; send it again", 503)
        else:
            await asyncio.to_thread(self._store.requeue, record.id)

    async def fail(
        self, record: Record, error: str, status: int, *, state: str = "FAILED", refund: bool = True
    ) -> None:
        """End a request without pictures; one that has ended stays as it is.

        The caller receives ``error``, with the HTTP status ``status``.
        """
        ended = await asyncio.to_thread(
            self._store.fail, record.id, error=error, status=status, state=state, refund=refund
        )
        if ended:
            kind = "refunded" if refund else "settled"
            self._metrics.credits.labels(kind).inc(record.cost_micro / MICRO)

    async def finish(
        self,
        record: Record,
        request: InpaintRequest,
        result: InpaintResult,
        outputs: list[dict[str, object]] | None = None,
    ) -> None:
        """End a request whose pictures are stored, and count it; one that was cancelled stays cancelled.

        Args:
            record: of the request.
            request: as the engine painted it.
            result: the painted pictures and their timings.
            outputs: the files in the picture store; None for v1, which stores none.
        """
        ended = await asyncio.to_thread(
            self._store.finish, record.id, outputs=outputs or [], inference_s=inference_s(result)
        )
        if ended:
            self._count(record, request, result)

    def _count(self, record: Record, request: InpaintRequest, result: InpaintResult) -> None:
        width, height = request.image.size
        log.info(
            "painted",
            request=record.id,
            samples=len(result.images),
            width=width,
            height=height,
            steps=request.steps_to_run,
            seconds=round(inference_s(result), 3),
        )
        metrics = self._metrics
        metrics.images.inc(len(result.images))
        metrics.steps.inc(request.steps_to_run * request.samples * max(1, len(result.boxes)))
        metrics.queue_wait.observe(result.timings.get("queue_s", 0.0))
        metrics.credits.labels("settled").inc(record.cost_micro / MICRO)
        for stage in ("encode", "denoise", "decode"):
            metrics.stages.labels(stage).observe(result.timings.get(f"{stage}_s", 0.0))


def inference_s(result: InpaintResult) -> float:
    """Return the seconds that the engine itself worked on a request."""
    return sum(result.timings.get(f"{stage}_s", 0.0) for stage in ("encode", "denoise", "decode"))


def steps_of(record: Record) -> int:
    """Return the number of denoising steps that a request takes."""
    return int(str(record.fields.get("steps", 0)))


def pixels_of(record: Record) -> int:
    """Return what a request takes of the budget of pixels, from its record.

    An earlier version wrote no pixels into it; the request then counts as one with the largest picture.
    """
    return int(str(record.fields.get("pixels", decoded_pixels(MAX_SIDE, MAX_SIDE, len(record.seeds)))))


def settings_of(record: Record) -> dict[str, object]:
    """Return the fields of a stored request.

    Raises:
        RequestError: the record is damaged.
    """
    settings = record.fields["settings"]
    if not isinstance(settings, dict):
        raise RequestError("request", "its stored settings are damaged; send it again")
    return settings


def model_of(record: Record, models: Models) -> str:
    """Return the name of the model that paints a request; an earlier version wrote down none.

    Raises:
        ModelError: it is not served any more.
    """
    name = str(record.fields.get("model") or models.default)
    if name not in models.given:
        have = ", ".join(models.names)
        raise ModelError(f"the model {name!r} of this request is no longer served; send it again for {have}")
    return name


def notes_of(record: Record) -> tuple[str, ...]:
    """Return what of a record's picture is not painted or kept."""
    notes: Any = record.fields.get("notes", [])  # absent in records of earlier versions
    return tuple(notes)


def warnings_of(output: Mapping[str, Any]) -> list[str]:
    """Return the warnings that came with one of a record's outputs."""
    found: list[str] = output.get("warnings", [])  # absent in records of earlier versions
    return found
