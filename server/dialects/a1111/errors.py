"""Errors as A1111 words them, and the statuses that its clients know."""

import json
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from inpaint.errors import RequestError, shown
from server.dialects.errors import Failure
from server.errors import ContentTypeError, CreditsError


class WebUiProblem(BaseModel):
    """The body of every error."""

    error: str = "HTTPException"
    detail: str
    body: str = ""
    errors: str = ""


class ScriptError(RequestError):
    """A request asks for a script that is not here."""

    def __init__(self, name: object) -> None:
        text = name if isinstance(name, str) and name.isprintable() and len(name) <= 60 else shown(name)[1:-1]
        super().__init__("script_name", f"Script '{text}' not found")


class Answer(JSONResponse):
    """JSON in ASCII: what a client sent may come back in it, halves of surrogate pairs included."""

    def render(self, content: Any) -> bytes:
        """Return the encoded content."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def shape(failure: Failure) -> JSONResponse:
    """Return an error in A1111's shape, with the sentence in ``detail``."""
    status, headers = failure.status, dict(failure.headers)
    if status in (400, 406):
        status = _status_of(failure.error)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="sdxl-inpaint"'
    return Answer(WebUiProblem(detail=_detail(failure)).model_dump(), status, headers)


def _status_of(error: Exception | None) -> int:
    """Return the status for what the hosted API calls 400 and 406."""
    if isinstance(error, CreditsError):
        return 402
    return 415 if isinstance(error, ContentTypeError) else 422


def _detail(failure: Failure) -> str:
    if failure.status == 404 and failure.error is None:
        return "Not Found"  # exactly; AI-Render knows a web UI without its API by it
    return failure.error.problem if isinstance(failure.error, ScriptError) else failure.text


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for OpenAPI: those that every route has, and these."""
    return {status: {"model": WebUiProblem} for status in (401, 403, 429, 500, 503, *statuses)}
