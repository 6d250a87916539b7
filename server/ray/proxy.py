"""Middleware for Ray's HTTP proxy, which turns its answers into this API's.

Ray finds it by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=server.ray.proxy:middlewares``. ``inpaint serve
--cluster local`` sets the variable; the hosts of a cluster need it in their environment at ``ray start``.
"""

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PATH = "server.ray.proxy:middlewares"
_NO_ANSWER = JSONResponse(
    {"error": "the server process that had this request ended; send it again"}, 503, {"Retry-After": "5"}
)
_RAY_HEADERS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")


def middlewares() -> list[Middleware]:
    """Return the middleware for Ray Serve's proxies."""
    return [Middleware(ProxyMiddleware)]


class ProxyMiddleware:
    """An ASGI middleware around Ray's proxy.

    It drops the headers by which a caller could set the proxy's deadline, or keep a request alive after
    hanging up. It sends 504 instead of Ray's 408: 408 blames the caller and makes clients resend immediately,
    but here the server was slow. If the process that had the request died, Ray's proxy sends no answer; this
    sends 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in _RAY_HEADERS]}

        started = False

        async def send_translated(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and message["status"] == 408:
                message = {**message, "status": 504}
            await send(message)

        try:
            await self._app(scope, receive, send_translated)
        except Exception:
            if started or scope["type"] != "http":
                raise
        if not started and scope["type"] == "http":
            await _NO_ANSWER(scope, receive, send)
