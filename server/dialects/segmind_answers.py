"""The bodies and headers of the hosted API's answers, and how they are made from a request's record."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from inpaint.pace import Pace
from server.dialects.intake import base_url, picture_url
from server.dialects.segmind_request import InpaintBody
from server.service.accounting import warnings_of
from server.service.caller import Caller
from server.service.limits import RateState
from server.service.order import Format
from server.service.service import Painted, Service
from server.storage.ledger import MICRO
from server.storage.requests import Record

_WARNINGS_BYTES = 2_000


class Success(BaseModel):
    """The answer with ``base64: true``."""

    status: Literal["Success"] = "Success"
    image: Annotated[str, Field(description="The first picture in base64, without a data: prefix.")]
    images: Annotated[list[str], Field(description="All pictures, like `image`.")]
    infer_time: Annotated[float, Field(description="Seconds.")]
    outputs: Annotated[int, Field(description="Number of pictures.")]
    image_format: Format


class Problem(BaseModel):
    """The body of every error."""

    error: Annotated[str, Field(description="One sentence that names what is wrong.")]


class Queued(BaseModel):
    """The answer to an accepted v2 request; its URLs are absolute."""

    request_id: str
    status: Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"] = "QUEUED"
    poll_url: Annotated[str, Field(description="For older clients; the same answer as at `response_url`.")]
    status_url: Annotated[str, Field(description="The request's state.")]
    response_url: Annotated[str, Field(description="The request's answer.")]


class RunMetrics(BaseModel):
    """Seconds and credits of a request; values that are not known yet are absent."""

    cost: Annotated[float, Field(description="Price in credits; 0 if painting failed.")]
    remaining_credits: Annotated[float | None, Field(description="Credits left on the key.")] = None
    inference_time: Annotated[
        float | None, Field(description="Seconds of encoding, denoising and decoding.")
    ] = None
    queue_time: Annotated[float | None, Field(description="Seconds in the queue.")] = None
    total_time: Annotated[float | None, Field(description="Seconds from submission to the end.")] = None


class Status(BaseModel):
    """The state of a v2 request."""

    status: Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]
    request_id: str
    status_url: str
    response_url: str
    metrics: RunMetrics
    error: Annotated[str | None, Field(description="Why it failed.")] = None


class OutputImage(BaseModel):
    """A painted picture; its URL needs no key."""

    url: str
    content_type: str
    file_name: str
    file_size: Annotated[
        int | None, Field(description="In bytes; absent if the file is made when it is asked for.")
    ] = None
    box: Annotated[
        tuple[int, int, int, int] | None,
        Field(
            description="Left, top, right and bottom, in pixels, of the part that may differ from the given "
            "picture; `&crop=box` on the URL gives this part."
        ),
    ] = None


class Finished(Status):
    """The answer of a v2 request; it holds the pictures once ``status`` is COMPLETED."""

    output: Annotated[str | None, Field(description="URL of the first picture.")] = None
    images: list[OutputImage] = []
    seed: int
    seeds: Annotated[list[int], Field(description="The seed of each picture.")] = []
    prompt: str
    warnings: Annotated[list[str], Field(description="Such as: the prompt was cut.")] = []
    model: Annotated[str, Field(description="The model that paints it, or has painted it.")]
    pace: Pace = "exact"
    unet_calls: Annotated[
        list[int],
        Field(description="Of each picture: UNet calls that are made, and that the scheduler asks for."),
    ] = []
    boxes: Annotated[
        int,
        Field(
            description="Boxes that are painted for each picture, each at the price of one: several if parts "
            "of the mask are far apart."
        ),
    ] = 1
    refines: Annotated[
        str | None, Field(description="The request whose pictures this one paints again, exactly.")
    ] = None
    distance_db: Annotated[
        list[float | None] | None,
        Field(
            description="Of each refined picture: how far it is from its draft, in decibels, inside the mask "
            "(PSNR; 45 is hardly seen); null if the two are identical. Absent if the draft was gone."
        ),
    ] = None


class Credits(BaseModel):
    """The credits left on a key."""

    model_config = ConfigDict(populate_by_name=True)

    credits: float
    free_credits: Annotated[float, Field(alias="free-credits")] = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers about queued requests, made from their records."""

    service: Service

    def queued(self, request: Request, record: Record) -> Queued:
        """Return the answer to a submission."""
        return Queued(request_id=record.id, **self._urls(request, record))

    async def status(self, request: Request, record: Record) -> Status:
        """Return the state of a request, its URLs and its metrics."""
        urls = self._urls(request, record)
        # The hosted API knows four states; a cancelled request is a failed one that says so.
        state = "FAILED" if record.state == "CANCELLED" else record.state
        return Status(
            status=state,
            request_id=record.id,
            status_url=urls["status_url"],
            response_url=urls["response_url"],
            metrics=await self._metrics(record),
            error=record.error if state == "FAILED" else None,
        )

    async def finished(self, request: Request, record: Record) -> Finished:
        """Return a request's status, with its pictures once they are painted."""
        status, outputs = await self.status(request, record), cast("list[dict[str, Any]]", record.outputs)
        images = [
            OutputImage(
                url=picture_url(base_url(request, self.service.parts.settings), record, number),
                content_type=str(output["content_type"]),
                file_name=str(output["file_name"]),
                file_size=output.get("file_size"),
                box=output.get("box"),
            )
            for number, output in enumerate(outputs)
        ]
        settings: Any = record.fields["settings"]
        return Finished(
            **dict(status),
            output=images[0].url if images else None,
            images=images,
            seed=record.seeds[0],
            seeds=record.seeds,
            prompt=settings["prompt"],
            warnings=[text for output in record.outputs for text in warnings_of(output)],
            model=record.fields.get("model") or self.service.parts.settings.models.default,
            **_calls_of(record),
            **_draft_of(record),
        )

    def _urls(self, request: Request, record: Record) -> dict[str, str]:
        base = base_url(request, self.service.parts.settings)
        response_url = f"{base}/v2/requests/{record.id}"
        return {
            "response_url": response_url,
            "status_url": f"{response_url}/status",
            "poll_url": f"{base}/v1/requests/{record.id}",
        }

    async def _metrics(self, record: Record) -> RunMetrics:
        started, ended = record.started_at, record.ended_at
        remaining = None
        if record.state == "COMPLETED":
            remaining = await self.service.accounting.remaining(Caller(record.key_id, frozenset()))
        return RunMetrics(
            cost=0.0 if record.state == "FAILED" else record.cost_micro / MICRO,  # a failed one is refunded
            remaining_credits=remaining,
            inference_time=record.inference_s,
            queue_time=started - record.created_at if started else None,
            total_time=ended - record.created_at if ended else None,
        )


def _calls_of(record: Record) -> dict[str, Any]:
    """Return the pace, the UNet calls and the boxes of a request; an earlier version wrote down none."""
    names = ("pace", "unet_calls", "boxes")
    return {name: record.fields[name] for name in names if name in record.fields}


def _draft_of(record: Record) -> dict[str, Any]:
    """Return the draft that a request refines, and the distances from it; nothing for any other request."""
    refines: Any = record.fields.get("refines")
    if refines is None:
        return {}
    measured = [output["distance_db"] for output in record.outputs if "distance_db" in output]
    return {"refines": refines["request_id"], "distance_db": measured or None}


def response_of(answer: Status) -> JSONResponse:
    """Return an answer under status 422 if its request failed, as the hosted API does, else under 200."""
    status = 422 if answer.status == "FAILED" else 200
    return JSONResponse(answer.model_dump(mode="json", exclude_none=True), status)


def _in_a_header(warnings: Sequence[str]) -> list[str]:
    """Return the first warnings, as many as fit: proxies refuse an answer whose headers exceed 4 kB."""
    kept: list[str] = []
    room = _WARNINGS_BYTES
    for warning in warnings:
        room -= len(json.dumps(warning[:200]))
        if room >= 0:
            kept.append(warning[:200])
    return kept


def picture_response(painted: Painted, rate: RateState, body: InpaintBody) -> Response:
    """Return the first picture's bytes, or JSON with all pictures if ``base64`` was set."""
    record = painted.record
    width, height = painted.size
    facts = {"height": height, "width": width, "samples": len(painted.files), "seeds": record.seeds}
    # The hosted API's clients know the other facts alone.
    if record.fields.get("pace") == "near" or record.fields.get("boxes", 1) != 1:
        facts |= _calls_of(record)
    if body.model:
        facts["model"] = record.fields["model"]
    if painted.warnings:
        facts["warnings"] = _in_a_header(painted.warnings)
    headers = {
        "x-remaining-credits": f"{painted.remaining:.6f}",
        "x-generation-time": f"{painted.seconds:.3f}",
        "x-output-metadata": json.dumps(facts),
        "x-seed-value": str(record.seeds[0]),
        "x-cost": f"{record.cost_micro / MICRO:.6f}",
        "x-rate-limit-remaining": str(rate.remaining),
        "x-rate-limit-reset-at-utc": datetime.fromtimestamp(rate.reset_at, UTC).isoformat(),
    }
    if not body.base64:
        # Set as a header, because one public client compares it exactly, so no charset may follow.
        return Response(painted.files[0], headers={**headers, "content-type": painted.content_type})
    encoded = [base64.b64encode(data).decode("ascii") for data in painted.files]
    answer = Success(
        image=encoded[0],
        images=encoded,
        infer_time=round(painted.seconds, 3),
        outputs=len(encoded),
        image_format=body.output_format,
    )
    return JSONResponse(answer.model_dump(), headers=headers)
