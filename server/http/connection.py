"""One HTTP connection: uvicorn's, with a deadline for every wait and the API's shape for its own refusals.

uvicorn waits for ever for the first request (Kludex/uvicorn#1192), for the rest of a body that was refused,
and for a client that does not read its answer.
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

import h11
import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.http.lingering import LingeringTransport

_STALLED_S = 1.0  # a client that reads is paused for milliseconds
_PROBES = ("/livez", "/readyz")
_CLOSE = {"Connection": "close"}
_FULL = JSONResponse(
    {"error": "the server has too many connections; try again"}, 503, {"Retry-After": "5", **_CLOSE}
)
_TWO_LENGTHS = JSONResponse(
    {"error": "Transfer-Encoding: must not come with Content-Length, because one proxy reads the other one"},
    400,
    _CLOSE,
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections: their number, and the time that each may wait."""

    connections: int = 1024
    head_s: float = 15.0  # from the connection, or the last answer, to a complete head
    rest_s: float = 15.0  # for the rest of a body after its answer
    rest_bytes: int = 60_000_000
    write_s: float = 30.0  # for a client to read what is buffered for it, about 128 kB


@dataclass(slots=True, eq=False)
class Connections:
    """The connections of one server that may be closed for others, those that wait for longest first."""

    limits: ConnectionLimits = ConnectionLimits()
    idle: dict["GuardedProtocol", None] = field(default_factory=dict)  # no request under way
    unread: dict["GuardedProtocol", float] = field(
        default_factory=dict
    )  # the client does not read; since when

    def make_room(self, held: Collection[object], newest: "GuardedProtocol") -> bool:
        """Drop one connection if there are too many: an idle one, else one whose client does not read.

        Returns:
            False if there are too many, and all of them are used.
        """
        if len(held) <= self.limits.connections:
            return True
        oldest = next((other for other in self.idle if other is not newest), None) or self._stalled()
        if oldest is not None:
            oldest.abort()
        return oldest is not None

    def _stalled(self) -> "GuardedProtocol | None":
        now = time.monotonic()
        return next((one for one, since in self.unread.items() if now - since > _STALLED_S), None)


class GuardedProtocol(H11Protocol):
    """The protocol of one connection. At any time it has a request under way, is idle, or lingers."""

    def __init__(self, *arguments: Any, shared: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared, self._limits = shared, shared.limits
        self._application: ASGIApp = cast("ASGIApp", self.app)
        self.app = cast("Any", self._answer)
        self._busy = False
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head, in the place of the longest idle connection if there are too many."""
        self._lingering = LingeringTransport(transport, self._is_unread)
        super().connection_made(cast("asyncio.Transport", self._lingering))
        self._shared.make_room(self.connections, self)
        self._be_idle(self._limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_reading_timer()
        self._stop_writing_timer()
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a request; drop what comes after a refusal."""
        if self._lingering.lingering:
            self._lingering.dropped_bytes += len(data)
            if self._lingering.dropped_bytes > self._limits.rest_bytes:
                self.abort()
            return
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        """Give the client some time to read."""
        super().pause_writing()
        self._shared.unread[self] = time.monotonic()
        self._await_reader()

    def resume_writing(self) -> None:
        """Start anew, since the client has read."""
        super().resume_writing()
        self._shared.unread.pop(self, None)
        self._stop_writing_timer()
        if self.transport.is_closing():
            self._await_reader()

    # What uvicorn calls.

    def on_response_complete(self) -> None:
        """Wait for the next request, if the connection is kept."""
        super().on_response_complete()
        self._watch()

    def shutdown(self) -> None:
        """End the connection with the server: immediately if its client was answered and still sends."""
        if self._lingering.lingering:
            self.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:  # its body is what cannot be parsed
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = JSONResponse({"error": msg}, 400, _CLOSE)
            body = bytes(answer.body)
            start = h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request")
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()
        self._watch()

    # Our own.

    def abort(self) -> None:
        """Close the connection immediately, whatever is left to read or to write."""
        self._forget()
        self.connections.discard(self)
        self.transport.abort()

    def _forget(self) -> None:
        self._shared.idle.pop(self, None)
        self._shared.unread.pop(self, None)

    def _is_unread(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _watch(self) -> None:
        """Follow the change from idle to busy and back."""
        if self.transport.is_closing():
            self._be_idle(self._limits.rest_s)
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and not self._busy:
            self._stop_reading_timer()
            self._shared.idle.pop(self, None)
        elif self._busy and not busy:
            self._be_idle(self._limits.head_s)
        self._busy = busy

    def _be_idle(self, seconds: float) -> None:
        """Let the connection be dropped after ``seconds``, or earlier if the server is full."""
        if self not in self._shared.idle:
            self._shared.idle[self] = None
            self._stop_reading_timer()
            self._read_timer = self.loop.call_later(seconds, self._end_idleness)

    def _end_idleness(self) -> None:
        if self.transport.get_write_buffer_size() and not self._lingering.lingering:
            self.transport.close()  # the client still reads its last answer
            self._await_reader()
        else:
            self.abort()

    def _await_reader(self) -> None:
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._write_timer = self.loop.call_later(self._limits.write_s, self.abort)

    def _stop_reading_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_writing_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, unless the connection itself is a reason to refuse it."""

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_unread():
                kept = [header for header in message["headers"] if header[0].lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        await (self._refusal(scope) or self._application)(scope, receive, send_closing)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:
            return _TWO_LENGTHS
        if scope["path"] not in _PROBES and not self._shared.make_room(self.connections, self):
            log.warning("too many connections", connections=len(self.connections))
            return _FULL
        return None
