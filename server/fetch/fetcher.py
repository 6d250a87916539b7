"""The one place that opens a caller's URL.

The URL is parsed once and its name resolved once; every address found must be public, the connection goes to
one of them, and its peer is compared with that address before the first byte is sent. So the address that is
checked is the one that is dialled. The name stays in ``Host`` and in the TLS handshake. Built on httpcore2's
single connections rather than on httpx2's client, so there are no cookies, proxies, pools, decoders or
redirects to switch off.
"""

import asyncio
import logging
import re
import ssl
from contextlib import aclosing
from urllib.parse import urljoin

import httpcore2
import httpx2

from server.errors import BadGatewayError, TooLargeError, UrlError
from server.fetch.addresses import Address, Lookups, Resolver, ask_system
from server.fetch.policy import MALFORMED, Policy, Target, literal
from server.fetch.transport import Dialler, Meter

__all__ = ["UNFETCHED", "Fetcher", "Policy"]

# One text for blocked, unknown, silent and closed, so that callers learn nothing about names and ports.
UNFETCHED = "the URL could not be fetched: it must lead to a public host that answers in time"

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_HEADERS = 100

# Stores that do not know content types send octet-stream, or none.
_PICTURES = re.compile(r"|image/.*|(application|binary)/octet-stream")
_FAILURES = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, OSError)

logger = logging.getLogger(__name__)


class Fetcher:
    """A client that fetches pictures by URL under one policy, for one event loop; it keeps no state."""

    def __init__(
        self,
        policy: Policy,
        *,
        resolver: Resolver = ask_system,
        network: httpcore2.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._lookups = Lookups(resolver)
        self._network = network or httpcore2.AnyIOBackend()
        self._ssl_context = ssl_context or httpx2.create_ssl_context()

    async def fetch(self, url: str, *, max_bytes: int | None = None) -> bytes:
        """GET ``url`` and return the body, of at most ``max_bytes`` (or the policy's cap, if that is less).

        Raises:
            UrlError: the URL may not or could not be fetched; the text is the same for every reason.
            BadGatewayError: the host answered, but not with a picture.
            TooLargeError: the body is over the cap.
        """
        cap = self._policy.max_bytes if max_bytes is None else min(max_bytes, self._policy.max_bytes)
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                return await self._follow(Target.parse(url), cap)
        except TimeoutError as error:
            raise _unfetched("it took longer than the deadline") from error

    async def aclose(self) -> None:
        """Do nothing, because every fetch closes its own connection."""

    async def _follow(self, target: Target, cap: int) -> bytes:
        redirects_left = self._policy.redirects
        while True:
            answer = await self._get(target, cap)
            if isinstance(answer, bytes):
                return answer
            if not redirects_left:
                raise UrlError("the URL redirects; send the URL of the picture itself")
            redirects_left -= 1
            target = _redirected(target, answer)

    async def _get(self, target: Target, cap: int) -> bytes | str:
        """Return the body, or the location that the host redirects to."""
        addresses = await self._addresses(target)
        meter = Meter()
        dialler = Dialler(self._network, addresses, self._policy.timeout_s, meter)
        connection = httpcore2.AsyncHTTPConnection(
            origin=httpcore2.Origin(target.url.raw_scheme, target.url.raw_host, target.port),
            ssl_context=self._ssl_context,
            network_backend=dialler,
        )
        try:
            try:
                response = await connection.handle_async_request(_request(target))
            except _FAILURES as error:
                raise _unfetched(f"{type(error).__name__}: {error}", target.host) from error
            location = _check_head(response, cap)
            return await _read(response, cap, meter) if location is None else location
        finally:
            await dialler.aclose()

    async def _addresses(self, target: Target) -> tuple[Address, ...]:
        """Return all addresses of ``target``, which may be dialled.

        Raises:
            UrlError: its host, its port or one of its addresses is not allowed, or its name is unknown.
        """
        if not self._policy.allows_host(target.host, target.port):
            raise _unfetched("this host or port is not allowed", target.host)
        address = literal(target.host)
        try:
            found = (address,) if address else await self._lookups.find(target.host, target.port)
        except ValueError as error:
            raise _unfetched("the resolver's answer is not an address", target.host) from error
        if not found or not all(map(self._policy.allows_address, found)):
            raise _unfetched("the name is unknown, or an address of it is not public", target.host)
        return found


def _unfetched(reason: str, host: str = "") -> UrlError:
    """Return the error for the caller, and write the reason to the operator's log only."""
    logger.info("not fetched from %r: %s", host, reason)
    return UrlError(UNFETCHED)


def _redirected(target: Target, location: str) -> Target:
    """Return the URL that a redirect leads to; ``_get`` checks it like the first one."""
    if not location.isprintable():  # urljoin would silently drop a tab or line break
        raise UrlError(MALFORMED)
    try:
        next_target = Target.parse(urljoin(str(target.url), location))
    except ValueError as error:  # urljoin's, about brackets
        raise UrlError(MALFORMED) from error
    if (target.url.scheme, next_target.url.scheme) == ("https", "http"):
        raise _unfetched("a redirect from https to http", target.host)
    return next_target


def _request(target: Target) -> httpcore2.Request:
    headers = [
        (b"Host", target.url.netloc),
        (b"User-Agent", b"sdxl-inpaint"),
        (b"Accept", b"image/*"),
        (b"Accept-Encoding", b"identity"),
        (b"Connection", b"close"),
    ]
    url = httpcore2.URL(
        scheme=target.url.raw_scheme, host=target.url.raw_host, port=target.port, target=target.url.raw_path
    )
    return httpcore2.Request(b"GET", url, headers=headers)


def _check_head(response: httpcore2.Response, cap: int) -> str | None:
    """Return the location of a redirect, or None if a picture of acceptable length follows."""
    headers: dict[str, str] = {}
    for name, value in response.headers:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    if len(response.headers) > _MAX_HEADERS:
        raise BadGatewayError("the picture's host answered with too many headers")
    if response.status in _REDIRECTS:
        return headers.get("location", "")
    if response.status != 200:
        raise BadGatewayError(f"the picture's host answered with status {response.status}, not a picture")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise BadGatewayError("the picture's host compressed its answer, which this server does not accept")
    if not _PICTURES.fullmatch(headers.get("content-type", "").partition(";")[0].strip().lower()):
        raise BadGatewayError(
            "the picture's host answered with something other than a picture: its Content-Type is not image/*"
        )
    if int(headers.get("content-length", "0")) > cap:
        raise _too_large(cap)
    return None


async def _read(response: httpcore2.Response, cap: int, meter: Meter) -> bytes:
    """Read the whole body; stop at the first byte over ``cap``."""
    body = bytearray()
    try:
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > cap:
                    raise _too_large(cap)
                meter.body = len(body)
    except _FAILURES as error:
        raise BadGatewayError("the picture's host broke off in the middle of its answer") from error
    return bytes(body)


def _too_large(cap: int) -> TooLargeError:
    return TooLargeError(f"the picture behind the URL is larger than {cap:,} bytes")
