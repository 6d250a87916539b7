"""What surrounds every request: its id, its log line, its metrics, the headers that keep browsers careful."""

import re
import secrets
import time
from collections.abc import Callable

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.observe.metrics import Metrics

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CAREFUL = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

log = structlog.get_logger()


class RequestMiddleware:
    """Pure ASGI, because Starlette's ``BaseHTTPMiddleware`` hides from a route that its client hung up.

    It also answers for bugs, with ``internal_error``: Starlette's own handler stands outside all middleware
    and raises the error once more, for which uvicorn closes the connection under the client's next request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, internal_error: Callable[[Request], ASGIApp]) -> None:
        self._app, self._metrics, self._internal_error = app, metrics, internal_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status, started = 0, time.monotonic()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if scope["state"].get("hang_up"):
                    headers["connection"] = "close"
                for name, value in _CAREFUL.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception as error:
                log.error("bug", error=type(error).__name__, exc_info=error)
                if status:  # half an answer is out
                    raise
                await self._internal_error(Request(scope))(scope, receive, send_with_headers)
            finally:
                self._tell(scope, status, time.monotonic() - started)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")  # the template: ids would fill the metrics
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        log.info("request", method=scope["method"], route=route, status=status, seconds=round(seconds, 4))


def _given_id(scope: Scope) -> str | None:
    """A proxy's or client's own id, where it is harmless to write down."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return None
