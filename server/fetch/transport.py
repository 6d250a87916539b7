"""Connections to checked addresses only, with a count of the bytes that arrive; used only by ``fetcher``."""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import httpcore2

from server.errors import BadGatewayError
from server.fetch.addresses import Address, unmapped

_MAX_DIALS = 4  # addresses of one name that are tried
_READ_BYTES = 16 * 1024  # per read, since each read is parsed in one go on the event loop
_MAX_OVERHEAD_BYTES = 32 * 1024  # headers, 1xx answers and chunk framing
_OVERHEAD_PER_BODY = 16  # one more byte of overhead per 16 of the body, enough for sensible chunks


@dataclass(slots=True)
class Meter:
    """The bytes of one answer: all that arrived, and those of the body."""

    received: int = 0
    body: int = 0

    def check(self) -> None:
        """Refuse an answer that consists mostly of headers and framing.

        Endless headers, endless 1xx answers and chunks of one byte cost the event loop far more than
        their sender, and never reach the cap on the body.

        Raises:
            BadGatewayError: headers and framing exceed 32 KiB plus a sixteenth of the body.
        """
        if self.received - self.body > _MAX_OVERHEAD_BYTES + self.body // _OVERHEAD_PER_BODY:
            raise BadGatewayError("the picture's host sent too many headers, or a body in too small chunks")


class Dialler(httpcore2.AsyncNetworkBackend):
    """A network backend that dials ``addresses`` in turn, whichever host it is asked for."""

    def __init__(
        self,
        network: httpcore2.AsyncNetworkBackend,
        addresses: tuple[Address, ...],
        timeout_s: float,
        meter: Meter,
    ) -> None:
        self._network = network
        self._addresses = addresses[:_MAX_DIALS]
        self._timeout_s = timeout_s
        self._meter = meter
        self._stream: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers; ``host`` is ignored.

        Raises:
            httpcore2.ConnectError: no address answered, or the peer is not the address that was checked.
        """
        share = self._timeout_s / len(self._addresses)  # a dead address must not use up the others' time
        for address in self._addresses:
            try:
                self._stream = await self._network.connect_tcp(str(address), port, timeout=share)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
            if _peer(self._stream) != address:
                raise httpcore2.ConnectError("connected to another address than the one that was checked")
            return _Metered(self._stream, self._meter)
        raise httpcore2.ConnectError("none of the addresses answered")

    async def aclose(self) -> None:
        """Close the connection, even in the middle of a TLS handshake."""
        if self._stream is not None:
            await self._stream.aclose()


def _peer(stream: httpcore2.AsyncNetworkStream) -> Address | None:
    """Return the peer's address as the kernel knows it."""
    name = stream.get_extra_info("server_addr")
    return unmapped(ip_address(name[0])) if name else None


class _Metered(httpcore2.AsyncNetworkStream):
    """A stream, or the TLS on top of it, whose received bytes are counted."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._meter.check()
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._meter.received += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Metered(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._meter)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
