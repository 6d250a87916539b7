"""For tests of fetching: servers that misbehave, a canary, a switchboard, and fetchers that may use them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import httpcore2
import pytest

from inpaint.errors import InpaintError
from server.fetch.addresses import Resolver
from server.fetch.fetcher import Fetcher, Policy
from tests.support.hostile_urls import OWN, answer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LOOPBACK = (ip_network("127.0.0.1/32"),)
PICTURE = b"\x89PNG" + bytes(range(256)) * 40  # fetching does not look inside


def ok(
    body: bytes = PICTURE, *headers: str, status: str = "200 OK", content_type: str = "image/png"
) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    """A whole HTTP answer that leads elsewhere."""
    return ok(b"", f"Location: {location}", status=f"{status} Elsewhere")


def says(*answers: bytes, heads: list[str] | None = None) -> Handler:
    """A handler with one answer a connection, the last for all that follow; ``heads`` gets the requests."""
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head.decode())
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return handle


def pours(head: bytes, drops: Iterable[bytes], *, pause_s: float | None = None) -> Handler:
    """A handler that sends ``head``, then ``drops`` until they end or the client hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        for drop in drops:
            writer.write(drop)
            await writer.drain()
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        await writer.drain()

    return handle


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handler that never answers; it returns when the client has hung up."""
    await reader.read()


@asynccontextmanager
async def serve(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on 127.0.0.1; yields its port. Leaving waits for every client to hang up."""
    running: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*running)


class Canary:
    """A listener on 127.0.0.1 that no client may connect to. The kernel accepts; no thread runs."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def received(self) -> list[bytes]:
        """Return what every connection since the last call has sent."""
        received = []
        with suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.setblocking(False)
                    try:
                        received.append(connection.recv(65536))
                    except BlockingIOError:
                        received.append(b"")
        return received

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


class Switchboard(httpcore2.AsyncNetworkBackend):
    """A network in which every address leads to a loopback port: ``routes``, else ``otherwise``.

    Its connections claim to be with the address that was dialled, as real ones are; ``honest`` ones admit to
    127.0.0.1. An address routed to 0 is dead. ``dialled`` is the log.
    """

    def __init__(
        self, otherwise: int, routes: Mapping[str, int] | None = None, *, honest: bool = False
    ) -> None:
        self._otherwise = otherwise
        self._routes = routes or {}
        self._honest = honest
        self.dialled: list[str] = []

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any
    ) -> httpcore2.AsyncNetworkStream:
        self.dialled.append(host)
        to = self._routes.get(host, self._otherwise)
        if not to:
            raise httpcore2.ConnectError(f"no route to {host}")
        stream = await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", to, timeout)
        return stream if self._honest else _Posing(stream, (host, port))


class _Posing(httpcore2.AsyncNetworkStream):
    """A stream that gives another address for its peer's."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, peer: tuple[str, int]) -> None:
        self._peer = peer
        self.read = stream.read  # type: ignore[method-assign]
        self.write = stream.write  # type: ignore[method-assign]
        self.aclose = stream.aclose  # type: ignore[method-assign]
        self.start_tls = stream.start_tls  # type: ignore[method-assign]
        self._info = stream.get_extra_info

    def get_extra_info(self, info: str) -> Any:
        return self._peer if info == "server_addr" else self._info(info)


def policy(*ports: int, **changes: Any) -> Policy:
    """What the tests allow themselves: 127.0.0.1 and the ports named, nothing else."""
    base = Policy(
        timeout_s=5,
        max_bytes=1_000_000,
        redirects=0,
        ports=ports,
        hosts=(),
        denied_networks=(),
        allowed_networks=LOOPBACK,
    )
    return replace(base, **changes)


def public(*ports: int, **changes: Any) -> Policy:
    """An operator's policy: no loopback."""
    return policy(80, 443, *ports, allowed_networks=(), denied_hosts=(OWN,), **changes)


def fetcher(
    rules: Policy, network: Switchboard | None = None, resolver: Resolver = answer, **parts: Any
) -> Fetcher:
    """A fetcher without the system's certificates, which take longer to load than a test."""
    parts.setdefault("ssl_context", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return Fetcher(rules, resolver=resolver, network=network, **parts)


def broken(handler: Any, error: type[InpaintError], **changes: Any) -> str:
    """Fetch from a loopback server and expect an error; returns its text. The server sees us hang up."""

    async def scenario() -> str:
        async with serve(handler) as port:
            with pytest.raises(error) as caught:
                await fetcher(policy(port, **changes)).fetch(f"http://127.0.0.1:{port}/a.png")
            return str(caught.value)

    return asyncio.run(scenario())
