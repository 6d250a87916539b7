"""Errors in the shape of a path's dialect, those that no handler raises included."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as field_of

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from inpaint.errors import InpaintError, RequestError
from server.errors import TooLargeError, headers_of, status_of

_TEXTS = {404: "there is no such route or model", 405: "this route does not support this method"}


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a request, before a dialect words it.

    ``status`` is that of ``server.errors`` and ``text`` one sentence, which begins with ``field`` if one is
    wrong. ``error`` is None if no handler was reached: no such route, or another method.
    """

    status: int
    text: str
    field: str = ""
    error: Exception | None = None
    headers: Mapping[str, str] = field_of(default_factory=dict)
    request_id: str = ""


Shape = Callable[[Failure], JSONResponse]


def plain(failure: Failure) -> JSONResponse:
    """Return an error as the hosted API does: one field, ``error``."""
    return JSONResponse({"error": failure.text}, failure.status, failure.headers)


def failure_of(request: Request, error: InpaintError) -> Failure:
    """Return what one of our errors says about a request."""
    status, text, request_id = status_of(error), str(error), request.state.request_id
    if status == 500:
        text = f"{text} (request {request_id})"
    name = error.field if isinstance(error, RequestError | TooLargeError) else ""
    return Failure(status, text, name, error, headers_of(error), request_id)


class Shapes:
    """The shapes of errors by the beginning of a path; the longest counts, else the hosted API's."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = sorted(shapes.items(), key=lambda item: -len(item[0]))

    def answer(self, request: Request, failure: Failure) -> JSONResponse:
        """Return the answer to a request that failed."""
        path = request.scope["path"]
        fits = (shape for prefix, shape in self._shapes if path == prefix or path.startswith(f"{prefix}/"))
        return next(fits, plain)(failure)

    def of_error(self, request: Request, error: InpaintError) -> JSONResponse:
        """Return the answer to a request that failed with one of our errors."""
        return self.answer(request, failure_of(request, error))

    def internal_error(self, request: Request) -> JSONResponse:
        """Return the answer to a request that failed because of a bug."""
        request_id = request.state.request_id
        text = f"internal error; please report it with the request id {request_id}"
        return self.answer(request, Failure(500, text, error=RuntimeError(), request_id=request_id))

    def add_to(self, app: FastAPI) -> None:
        """Answer every error of an application so, the framework's own included."""

        @app.exception_handler(InpaintError)
        async def known(request: Request, error: InpaintError) -> JSONResponse:
            return self.of_error(request, error)

        @app.exception_handler(HTTPException)
        async def http(request: Request, error: HTTPException) -> JSONResponse:
            text = _TEXTS.get(error.status_code, str(error.detail))
            if error.status_code == 404 and "//" in request.scope["path"]:
                text = f"{text}: its path has two slashes in a row; perhaps the base URL ends with one"
            request_id = request.state.request_id
            failure = Failure(error.status_code, text, headers=error.headers or {}, request_id=request_id)
            return self.answer(request, failure)

        @app.exception_handler(RequestValidationError)
        async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
            first = error.errors()[0]
            where, name = first["loc"][0], str(first["loc"][-1])
            status, text = 400, f"{name}: {first['msg']}"
            if where == "path":
                status, text, name = 404, "there is no such request or picture", ""
            return self.answer(
                request, Failure(status, text, name, error, request_id=request.state.request_id)
            )
