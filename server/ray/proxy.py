"""Around Ray's HTTP proxy: its answers become this API's.

Ray finds it by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=server.ray.proxy:middlewares``: ``inpaint serve
--cluster local`` sets it, and the hosts of a cluster have it in their environment at ``ray start``.
"""

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PATH = "server.ray.proxy:middlewares"
_DIED = JSONResponse(
    {"error": "the server that had this request is gone; send it again"}, 503, {"Retry-After": "5"}
)
_RAYS_OWN = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")


def middlewares() -> list[Middleware]:
    """For Ray Serve's proxies."""
    return [Middleware(Proxied)]


class Proxied:
    """No caller sets the proxy's own deadline or keeps a request alive after hanging up; 408 means 504.

    408 blames the caller and makes clients send the same again at once, here it is the server that was slow.
    Where the process that had the request died, Ray's proxy has no answer; ours is to come again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] == "http":
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in _RAYS_OWN]}

        started = False

        async def translated(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and message["status"] == 408:
                message = {**message, "status": 504}
            await send(message)

        try:
            await self._app(scope, receive, translated)
        except Exception:
            if started or scope["type"] != "http":
                raise
        if not started and scope["type"] == "http":
            await _DIED(scope, receive, send)
