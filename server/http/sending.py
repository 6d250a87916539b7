"""Middleware that sends answers in pieces, and bounds the large ones that are held for slow readers."""

from collections import Counter

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PIECE_BYTES = 65_536  # asyncio's high-water mark: the next piece waits until the last ones are read
LARGE_BYTES = 1_000_000  # a shorter answer is not counted
MAX_LARGE_PER_PATH = 8
MAX_LARGE_BYTES = 512_000_000
_TOO_MANY = JSONResponse(
    {"error": "too many clients are downloading pictures; try again"}, 503, {"Retry-After": "2"}
)


class SendingMiddleware:
    """Middleware for the bodies of answers; it changes neither their headers nor their bytes.

    A body in one message is copied into the connection's buffer, however slowly its client reads. The
    application holds the whole body until it is sent, so large ones are counted: each until its client has
    read it or was cut off. Beyond the limit a GET gets 503. The answer to a POST was paid for, so it is sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._paths: Counter[str] = Counter()  # of the large answers that are being sent
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, length, refused = scope["path"], 0, False

        async def send_pieces(message: Message) -> None:
            nonlocal length, refused
            if message["type"] == "http.response.start" and (declared := _large(message)):
                if scope["method"] == "GET" and not self._has_room(path, declared):
                    refused = True
                    await _TOO_MANY(scope, receive, send)
                else:
                    length = declared
                    self._hold(path, length)
            if not refused:
                await _send_in_pieces(send, message)

        try:
            await self._app(scope, receive, send_pieces)
        finally:
            if length:
                self._release(path, length)

    def _has_room(self, path: str, length: int) -> bool:
        return self._paths[path] < MAX_LARGE_PER_PATH and self._held_bytes + length <= MAX_LARGE_BYTES

    def _hold(self, path: str, length: int) -> None:
        self._paths[path] += 1
        self._held_bytes += length

    def _release(self, path: str, length: int) -> None:
        self._paths[path] -= 1
        self._held_bytes -= length
        self._paths += Counter()  # drops the zeros, else every path that was ever read would stay here


def _large(start: Message) -> int:
    """Return the length that an answer declares if it is large, else 0."""
    for name, value in start["headers"]:
        if name.lower() == b"content-length" and int(value) > LARGE_BYTES:
            return int(value)
    return 0


async def _send_in_pieces(send: Send, message: Message) -> None:
    body = memoryview(message.get("body", b""))
    if len(body) <= PIECE_BYTES:
        await send(message)
        return
    for start in range(0, len(body), PIECE_BYTES):
        end = start + PIECE_BYTES
        more = message.get("more_body", False) or end < len(body)
        await send({**message, "body": bytes(body[start:end]), "more_body": more})
