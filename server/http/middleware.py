"""The middleware around every request: its id, its log line, its metrics and the security headers."""

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
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

log = structlog.get_logger()


class RequestMiddleware:
    """The outermost layer of the application, which also answers for internal errors.

    Pure ASGI, because Starlette's ``BaseHTTPMiddleware`` hides a client's disconnect from the routes. It
    calls ``internal_error`` itself, because Starlette's own handler runs outside all middleware and raises
    the error again, upon which uvicorn closes the connection under the client's next request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, internal_error: Callable[[Request], ASGIApp]) -> None:
        self._app, self._metrics, self._internal_error = app, metrics, internal_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
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
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception as error:
                log.error("bug", error=type(error).__name__, exc_info=error)
                if status:  # part of the answer has been sent
                    raise
                await self._internal_error(Request(scope))(scope, receive, send_with_headers)
            finally:
                self._record(scope, status, time.monotonic() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's template, because paths with ids would fill the metrics.
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        log.info("request", method=scope["method"], route=route, status=status, seconds=round(seconds, 4))


def _given_id(scope: Scope) -> str | None:
    """Return the id that a proxy or client sent, if it is safe to log."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return None
