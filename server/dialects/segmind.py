"""The hosted API's routes: ``/v1/sdxl-inpaint`` answers at once, ``/v2`` queues, polls, streams, cancels."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from inpaint.job import Event
from server.dialects.segmind_models import (
    Credits,
    Finished,
    InpaintBody,
    OutputImage,
    Problem,
    Queued,
    RunMetrics,
    Status,
    Success,
    read_fields,
)
from server.http.auth import Gate
from server.http.body import Fields, fields_of
from server.service.caller import MODEL_SCOPE, Caller
from server.service.durable_queue import ENDED, DurableQueue
from server.service.limits import RateState
from server.service.order import Format
from server.service.pictures import CONTENT_TYPES, convert
from server.service.service import MICRO, Painted, Service
from server.storage.requests import Record

RequestId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="From the answer to the submission.")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"$ref": "#/components/schemas/InpaintBody"}}
            for kind in ("application/json", "multipart/form-data")
        },
    }
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 200},
    "description": "The same key with the same body is the same request, charged once.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's words for the errors of a route."""
    return {status: {"model": Problem} for status in (401, 403, 429, 500, 503, *statuses)}


@dataclass(frozen=True, slots=True)
class Segmind:
    """The dialect's handlers; ``router()`` hangs them under their paths."""

    service: Service
    queue: DurableQueue
    gate: Gate

    def router(self) -> APIRouter:
        """All routes of the dialect."""
        router = APIRouter(tags=["sdxl-inpaint"])
        images = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES.values()}
        post = (400, 404, 406, 413, 422, 502)
        router.add_api_route(
            "/v1/sdxl-inpaint",
            self.paint,
            methods=["POST"],
            summary="Paint and wait",
            responses={200: {"model": Success, "content": images}, **problems(*post, 504)},
            openapi_extra={**_BODY, "parameters": [_IDEMPOTENCY]},
        )
        router.add_api_route(
            "/v2/sdxl-inpaint",
            self.submit,
            methods=["POST"],
            summary="Queue a painting",
            response_model=Queued,
            responses=problems(*post),
            openapi_extra={**_BODY, "parameters": [_IDEMPOTENCY]},
        )
        self._follow(router, images)
        router.add_api_route(
            "/v1/get-user-credits",
            self.credits,
            methods=["GET"],
            summary="Credits left",
            response_model=Credits,
            responses=problems(),
        )
        return router

    def _follow(self, router: APIRouter, images: dict[str, Any]) -> None:
        """The routes of a queued request."""
        for path in ("/v2/requests/{request_id}", "/v1/requests/{request_id}"):
            router.add_api_route(
                path,
                self.finished,
                methods=["GET"],
                summary="The answer to a queued request",
                response_model=Finished,
                responses={422: {"model": Finished}, **problems(404)},
            )
        router.add_api_route(
            "/v2/requests/{request_id}",
            self.cancel,
            methods=["DELETE"],
            summary="Cancel",
            response_model=Status,
            responses=problems(404),
        )
        router.add_api_route(
            "/v2/requests/{request_id}/status",
            self.status,
            methods=["GET"],
            summary="Where a queued request stands",
            response_model=Status,
            responses={422: {"model": Status}, **problems(404)},
        )
        router.add_api_route(
            "/v2/requests/{request_id}/events",
            self.events,
            methods=["GET"],
            summary="Server-sent events: queued, step, done, failed",
            response_class=EventSourceResponse,
            responses={200: {"content": {"text/event-stream": {}}}, **problems(404)},
        )
        router.add_api_route(
            "/v2/requests/{request_id}/images/{number}",
            self.picture,
            methods=["GET"],
            summary="One painted picture",
            response_class=Response,
            responses={200: {"content": images}, **problems(400, 404)},
        )

    async def paint(self, request: Request) -> Response:
        """v1: the picture's bytes, or JSON with ``base64``."""
        caller = await self.gate.admit(request)
        async with self.service.admitted(caller, MODEL_SCOPE) as rate:
            fields = await fields_of(request, self.service.parts.settings)
            body = self._read(fields)
            async with watched(request) as gone:
                if key := _idempotency_key(request):
                    record = await self._once(caller, body, key, fields)
                    waiting = self.queue.wait(record, caller)  # it goes on whether or not anybody waits
                    painted = await self.queue.painted(caller, await self.service.in_time(waiting, gone))
                else:
                    painted = await self.service.paint(caller, body.order(), gone)
            return await asyncio.to_thread(picture_response, painted, rate, body)

    async def _once(self, caller: Caller, body: InpaintBody, key: str | None, fields: Fields) -> Record:
        """The request of this idempotency key, a new one if need be."""
        digest = await asyncio.to_thread(digest_of, fields) if key else ""
        if key and (record := await self.queue.find(caller, key, digest)) is not None:
            return record
        return await self.queue.enqueue(caller, body.order(), idempotency_key=key, digest=digest)

    async def submit(self, request: Request) -> Queued:
        """v2: accepted, to be painted whatever happens to this process."""
        caller = await self.gate.admit(request)
        async with self.service.admitted(caller, MODEL_SCOPE):
            fields = await fields_of(request, self.service.parts.settings)
            body = self._read(fields)
            record = await self._once(caller, body, _idempotency_key(request), fields)
        return Queued(request_id=record.id, **self._urls(request, record))

    async def status(self, request: Request, request_id: RequestId) -> Response:
        """422 when it failed, as the hosted API does."""
        record = await self.queue.get(await self.gate.admit(request), request_id)
        return _by_state(await self._status(request, record), record)

    async def finished(self, request: Request, request_id: RequestId) -> Response:
        """Everything about it; 422 when it failed."""
        record = await self.queue.get(await self.gate.admit(request), request_id)
        return _by_state(await self._finished(request, record), record)

    async def cancel(self, request: Request, request_id: RequestId) -> Status:
        """One that has ended stays as it is."""
        record = await self.queue.cancel(await self.gate.admit(request), request_id)
        return await self._status(request, record)

    async def events(self, request: Request, request_id: RequestId) -> EventSourceResponse:
        """Ends with ``done`` or ``failed``, whose data are the request's answer."""
        caller = await self.gate.admit(request)
        await self.queue.get(caller, request_id)
        return EventSourceResponse(self._stream(request, caller, request_id))

    async def _stream(
        self, request: Request, caller: Caller, request_id: str
    ) -> AsyncIterator[ServerSentEvent]:
        async with aclosing(self.queue.events(caller, request_id)) as events:
            async for event in events:
                if isinstance(event, int):
                    yield _sse("queued", {"position": event})
                elif event.state == "step":
                    yield _sse("step", {"step": event.step, "steps": event.steps, "preview": _preview(event)})
        record = await self.queue.get(caller, request_id)
        if record.state not in ENDED:
            return  # the server stops; whoever connects again meets the next one
        answer = await self._finished(request, record)
        name = "done" if record.state == "COMPLETED" else "failed"
        yield _sse(name, answer.model_dump(mode="json", exclude_none=True))

    async def picture(
        self,
        request: Request,
        request_id: RequestId,
        number: int,
        token: Annotated[str | None, Query()] = None,
        wanted: Annotated[Format | None, Query(alias="format", description="Another than it has.")] = None,
    ) -> Response:
        """With the token of the URL that the answer gave, or with its owner's key."""
        caller = None if token else await self.gate.admit(request)
        data, content_type = await self.queue.picture(
            request_id, number, key_id=caller.key_id if caller else None, token=token
        )
        if wanted is not None and content_type != CONTENT_TYPES[wanted]:
            data, content_type = await asyncio.to_thread(convert, data, wanted), CONTENT_TYPES[wanted]
        return Response(data, media_type=content_type, headers={"Cache-Control": "private, max-age=3600"})

    async def credits(self, request: Request) -> Credits:
        """What the key has left; a large constant where nothing is counted."""
        return Credits(credits=await self.service.remaining(await self.gate.admit(request)))

    def _read(self, fields: Fields) -> InpaintBody:
        return read_fields(fields, lenient=self.service.parts.settings.segmind_lenient)

    def _urls(self, request: Request, record: Record) -> dict[str, Any]:
        base = (self.service.parts.settings.public_url or str(request.base_url)).rstrip("/")
        response_url = f"{base}/v2/requests/{record.id}"
        return {
            "response_url": response_url,
            "status_url": f"{response_url}/status",
            "poll_url": f"{base}/v1/requests/{record.id}",
        }

    async def _status(self, request: Request, record: Record) -> Status:
        metrics = await self._metrics(request, record)
        return Status(**_standing(record), **_two(self._urls(request, record)), metrics=metrics)

    async def _finished(self, request: Request, record: Record) -> Finished:
        status = await self._status(request, record)
        images = [
            OutputImage(
                url=f"{status.response_url}/images/{number}?token={record.fields['token']}",
                content_type=str(output["content_type"]),
                file_name=str(output["file_name"]),
                file_size=int(str(output["file_size"])),
            )
            for number, output in enumerate(record.outputs)
        ]
        settings: Any = record.fields["settings"]
        return Finished(
            **dict(status),
            output=images[0].url if images else None,
            images=images,
            seed=record.seeds[0],
            seeds=record.seeds,
            prompt=settings["prompt"],
            warnings=[text for output in record.outputs for text in _warnings(output)],
        )

    async def _metrics(self, request: Request, record: Record) -> RunMetrics:
        started, ended = record.started_at, record.ended_at
        remaining = None
        if record.state == "COMPLETED":
            remaining = await self.service.remaining(Caller(record.key_id, frozenset()))
        return RunMetrics(
            cost=0.0 if record.state == "FAILED" else record.cost_micro / MICRO,  # it was given back
            remaining_credits=remaining,
            inference_time=record.inference_s,
            queue_time=started - record.created_at if started else None,
            total_time=ended - record.created_at if ended else None,
        )


def _warnings(output: Mapping[str, Any]) -> list[str]:
    found: list[str] = output.get("warnings", [])  # absent in what an earlier version wrote down
    return found


def _two(urls: Mapping[str, Any]) -> dict[str, Any]:
    return {name: urls[name] for name in ("status_url", "response_url")}


def _standing(record: Record) -> dict[str, Any]:
    """The hosted API knows four states; a cancelled request is a failed one that says so."""
    state = "FAILED" if record.state == "CANCELLED" else record.state
    return {"status": state, "request_id": record.id, "error": record.error if state == "FAILED" else None}


def _by_state(answer: Status, record: Record) -> Response:
    status = 422 if answer.status == "FAILED" else 200
    return JSONResponse(answer.model_dump(mode="json", exclude_none=True), status)


def _sse(event: str, data: object) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data), event=event)


def _preview(event: Event) -> str | None:
    if event.preview is None:
        return None
    file = BytesIO()
    event.preview.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key", "").strip()
    return hashlib.sha256(key.encode()).hexdigest() if key else None


def digest_of(fields: Fields) -> str:
    """Of what was asked for, and not of its encoding: a retried form has another boundary."""
    found = hashlib.sha256()
    for name in sorted(fields):
        value = fields[name]
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        found.update(f"{name!r}:{len(data)}:".encode() + data)
    return found.hexdigest()


@asynccontextmanager
async def watched(request: Request) -> AsyncIterator[asyncio.Task[None]]:
    """A task that is done when the client has closed its connection; the body was read before."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(hung_up())
    try:
        yield task
    finally:
        task.cancel()


def picture_response(painted: Painted, rate: RateState, body: InpaintBody) -> Response:
    """Bytes of the first picture, or JSON with all of them."""
    record = painted.record
    width, height = painted.size
    facts = {"height": height, "width": width, "samples": len(painted.files), "seeds": record.seeds}
    if painted.warnings:
        facts["warnings"] = [warning[:200] for warning in painted.warnings]  # a header has its limits
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
        # Set as a header, because one public client compares it to the letter: no charset may follow.
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
