"""Middleware that answers HEAD wherever GET is answered: the same status and headers, and no body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Middleware for HEAD, which uptime monitors and ``curl -I`` send.

    The application sees a GET. The answer is complete as soon as its headers are sent; what would be a stream
    then sees its client leave.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        get = {**scope, "method": "GET"}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})

        try:
            await self._app(get, receive, send_head)
        finally:
            if "route" in get:
                scope["route"] = get["route"]  # for the metrics
