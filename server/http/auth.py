"""Who is calling: a key, or nobody in particular where the server is open."""

import asyncio
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from server.errors import ForbiddenError, UnauthorizedError
from server.service.caller import OPEN, Caller
from server.storage.keys import Keys


class Gate:
    """Asks for a key as soon as one exists; until then only this machine's own programs are let in."""

    def __init__(
        self, keys: Keys, *, open_to_all: bool, public_url: str | None, origins: Collection[str] = ()
    ) -> None:
        self._keys = keys
        self._open_to_all = open_to_all  # --no-auth
        self._public_host = _hostname(public_url or "")
        self._origins = origins  # of pages that the operator lets in
        self._locked = False

    async def admit(self, connection: HTTPConnection) -> Caller:
        """The caller of a request.

        Raises:
            UnauthorizedError: no key, or a bad one.
            ForbiddenError: the server is open, and a web page of another host tries to use it.
        """
        if not self._open_to_all and (self._locked or await self._lock()):
            key = await asyncio.to_thread(self._keys.authenticate, _token(connection))
            return Caller(key.id, key.scopes)
        if not self._open_to_all:
            self._refuse_pages_of_others(connection)
        return OPEN

    async def _lock(self) -> bool:
        self._locked = await asyncio.to_thread(self._keys.any_exist)
        return self._locked

    def _refuse_pages_of_others(self, connection: HTTPConnection) -> None:
        """A page in this machine's browser can send requests here, even under a host name of its own."""
        # Not Starlette's request.url: for a Host that it cannot read it says our own address instead.
        host = _hostname(f"//{connection.headers.get('host', '')}")
        origin = connection.headers.get("origin")
        ours = host is not None and (_is_loopback(host) or host == self._public_host)
        own_page = origin is None or origin in self._origins or _hostname(origin) == host
        if not ours or not own_page:
            raise ForbiddenError(
                "this server has no keys and answers programs on its own machine only; "
                "make a key with: inpaint keys create"
            )


def _token(connection: HTTPConnection) -> str | None:
    """The key from ``x-api-key`` or ``Authorization: Bearer``.

    Raises:
        UnauthorizedError: neither was sent.
    """
    if key := connection.headers.get("x-api-key"):
        return key
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    raise UnauthorizedError("Missing Authorization or x-api-key in header")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # a bracket out of place
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
