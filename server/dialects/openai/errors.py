"""Errors in OpenAI's shape, with the statuses that its clients understand."""

from collections.abc import Mapping

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from server.dialects.errors import Failure
from server.errors import ContentTypeError, CreditsError, NotFoundError

_CODES: Mapping[int, str] = {
    400: "invalid_value",
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    503: "overloaded",
    504: "timeout",
}
# OpenAI's API has neither: credits that are gone are a limit there, and a URL or a LoRA that cannot be used
# is an invalid value.
_STATUS: Mapping[int, int] = {406: 429, 422: 400}


class UnknownModelError(NotFoundError):
    """There is no model of this name to describe; a request to paint may name any."""


class ErrorFacts(BaseModel):
    """An error; ``param`` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every error."""

    error: ErrorFacts


def answer(failure: Failure) -> JSONResponse:
    """Return a request's error."""
    status, body = described(failure)
    return JSONResponse(body.model_dump(), status, failure.headers)


def described(failure: Failure) -> tuple[int, ErrorAnswer]:
    """Return the status and the body of an error."""
    status, text = _STATUS.get(failure.status, failure.status), failure.text
    code, param = _CODES.get(status), failure.field if failure.field != "body" else ""
    if isinstance(failure.error, ContentTypeError):
        status, code = 415, _CODES[415]
        text = "Content-Type: must be multipart/form-data or application/json"
    elif isinstance(failure.error, CreditsError):
        code = "insufficient_quota"
    elif isinstance(failure.error, UnknownModelError):
        code, param = "model_not_found", "model"
    facts = ErrorFacts(message=text, type=_type(status), param=param or None, code=code)
    return status, ErrorAnswer(error=facts)


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
