"""The answers of the routes: a picture's bytes or JSON, and errors as lists of sentences."""

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from server.dialects.errors import Failure
from server.errors import ContentTypeError, CreditsError
from server.service.pictures import CONTENT_TYPES
from server.service.service import Painted

JSON = "application/json"
_NAMES: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}


class Edited(BaseModel):
    """The answer to `Accept: application/json`."""

    image: Annotated[str, Field(description="The picture in base64.")]
    finish_reason: Literal["SUCCESS"] = "SUCCESS"
    seed: int


class Errors(BaseModel):
    """The body of every error."""

    id: Annotated[str, Field(description="The request's id, as in `x-request-id`.")]
    name: Annotated[str, Field(description="The kind of error, as `bad_request`.")]
    errors: Annotated[list[str], Field(description="What is wrong; begins with the field if one is.")]


ERROR_STATUSES = tuple(status for status in _NAMES if status != 405)  # which no method of a route answers
_HEADERS = {
    "finish-reason": {"schema": {"type": "string"}, "description": "SUCCESS."},
    "seed": {"schema": {"type": "integer"}, "description": "The seed of the picture."},
}


def responses() -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route for OpenAPI."""
    images = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES.values()}
    painted = {"model": Edited, "content": images, "headers": _HEADERS}
    return {200: painted, **{status: {"model": Errors} for status in ERROR_STATUSES}}


def wants_json(request: Request) -> bool:
    """Return whether ``Accept`` prefers JSON to a picture: of equals the first, if neither a picture."""
    best, found = 0.0, False
    for part in request.headers.get("accept", "").lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        weight = next((_weight(word[2:]) for word in parameters if word.startswith("q=")), 1.0)
        if (kind == JSON or kind.startswith("image/")) and weight > best:
            best, found = weight, kind == JSON
    return found


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def answer_of(painted: Painted, as_json: bool) -> Response:
    """Return a painted picture as JSON, or as its bytes."""
    seed = painted.record.seeds[0]
    headers = {"finish-reason": "SUCCESS", "seed": str(seed)}
    if not as_json:
        return Response(painted.files[0], headers={**headers, "content-type": painted.content_type})
    answer = Edited(image=base64.b64encode(painted.files[0]).decode("ascii"), seed=seed)
    return JSONResponse(answer.model_dump(), headers=headers)


def shape(failure: Failure) -> JSONResponse:
    """Return an error as the hosted API does; its statuses for credits and content types are its own."""
    status, text = failure.status, failure.text
    if isinstance(failure.error, CreditsError):
        status = 402
    elif isinstance(failure.error, ContentTypeError):
        status, text = 400, "content-type: must be multipart/form-data"
    name = _NAMES.get(status, "internal_error" if status >= 500 else "bad_request")
    body = Errors(id=failure.request_id, name=name, errors=[text])
    return JSONResponse(body.model_dump(), status, failure.headers)
