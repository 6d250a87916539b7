"""The routes of the hosted API: paths, methods and what OpenAPI says about them."""

from typing import Any

from fastapi import APIRouter, Response
from sse_starlette import EventSourceResponse

from server.dialects.openapi import problems
from server.dialects.segmind import MAX_IDEMPOTENCY_KEY, Segmind
from server.dialects.segmind_answers import Credits, Finished, Queued, Status, Success
from server.dialects.segmind_events import Events
from server.service.pictures import CONTENT_TYPES

_IMAGES = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES.values()}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY},
    "description": "Requests with the same key and body are painted and charged once.",
}


def _taking(model: str, *, required: bool) -> dict[str, Any]:
    """Describe a route that takes the body called ``model``, which it reads itself."""
    content = {"schema": {"$ref": f"#/components/schemas/{model}"}}
    kinds = ("application/json", "multipart/form-data")
    body = {"required": required, "content": dict.fromkeys(kinds, content)}
    return {"requestBody": body, "parameters": [_IDEMPOTENCY]}


_PAINT = _taking("InpaintBody", required=True)
_REFINE = _taking("RefineBody", required=False)
_PAINT_ERRORS = (400, 404, 406, 413, 415, 422, 502)
_REQUEST = "/v2/requests/{request_id}"


def routes(segmind: Segmind, events: Events) -> APIRouter:
    """Return every route of the dialect, handled by ``segmind`` and ``events``."""
    router = APIRouter(tags=["sdxl-inpaint"])
    _add_painting(router, segmind)
    _add_answers(router, segmind)
    _add_progress(router, segmind, events)
    router.add_api_route(
        "/v1/get-user-credits",
        segmind.credits,
        methods=["GET"],
        summary="Credits left",
        response_model=Credits,
        responses=problems(),
    )
    return router


def _add_painting(router: APIRouter, segmind: Segmind) -> None:
    router.add_api_route(
        "/v1/sdxl-inpaint",
        segmind.paint,
        methods=["POST"],
        summary="Paint and wait",
        responses={200: {"model": Success, "content": _IMAGES}, **problems(*_PAINT_ERRORS, 504)},
        openapi_extra=_PAINT,
    )
    router.add_api_route(
        "/v2/sdxl-inpaint",
        segmind.submit,
        methods=["POST"],
        summary="Queue and return",
        response_model=Queued,
        responses=problems(*_PAINT_ERRORS),
        openapi_extra=_PAINT,
    )


def _add_answers(router: APIRouter, segmind: Segmind) -> None:
    """Add the routes that answer for a queued request as a whole."""
    for path in (_REQUEST, "/v1/requests/{request_id}"):
        router.add_api_route(
            path,
            segmind.finished,
            methods=["GET"],
            summary="Answer of a queued request",
            response_model=Finished,
            responses={422: {"model": Finished}, **problems(404)},
        )
    router.add_api_route(
        f"{_REQUEST}/refine",
        segmind.refine,
        methods=["POST"],
        summary="Paint a request's pictures again, exactly",
        response_model=Queued,
        responses=problems(400, 404, 406, 413, 415, 422),
        openapi_extra=_REFINE,
    )
    router.add_api_route(
        _REQUEST,
        segmind.cancel,
        methods=["DELETE"],
        summary="Cancel a queued request",
        response_model=Status,
        responses=problems(404),
    )


def _add_progress(router: APIRouter, segmind: Segmind, events: Events) -> None:
    """Add the routes for a queued request's status, events and pictures."""
    router.add_api_route(
        f"{_REQUEST}/status",
        segmind.status,
        methods=["GET"],
        summary="State of a queued request",
        response_model=Status,
        responses={422: {"model": Status}, **problems(404)},
    )
    router.add_api_route(
        f"{_REQUEST}/events",
        events.listen,
        methods=["GET"],
        summary="Server-sent events: queued, step, done, failed",
        response_class=EventSourceResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **problems(404)},
    )
    router.add_api_route(
        f"{_REQUEST}/images/{{number}}",
        segmind.picture,
        methods=["GET"],
        summary="A painted picture",
        response_class=Response,
        responses={200: {"content": _IMAGES}, **problems(400, 404)},
    )
