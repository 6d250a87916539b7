"""Authentication: the key of a request, or the anonymous caller of a server without keys."""

import asyncio
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from server.errors import ForbiddenError, UnauthorizedError
from server.service.caller import OPEN, Caller
from server.storage.keys import Keys


class Gate:
    """The check of every request's key.

    A key is required as soon as one exists. Until then only programs on the server's own machine are let in.
    """

    def __init__(
        self, keys: Keys, *, open_to_all: bool, public_url: str | None, origins: Collection[str] = ()
    ) -> None:
        self._keys = keys
        self._open_to_all = open_to_all  # --no-auth
        self._public_host = _hostname(public_url or "")
        self._origins = origins  # of the pages that the operator allows
        self._locked = False

    async def admit(self, connection: HTTPConnection) -> Caller:
        """Return the caller of a request.

        Raises:
            UnauthorizedError: there is no key, or an invalid one.
            ForbiddenError: the server has no keys, and the request comes under another host's name or from
                another host's page.
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
        """Refuse other sites' pages, whose browser on this machine could use the server for them."""
        # Not Starlette's request.url, which replaces a Host that it cannot parse by the server's own address.
        host = _hostname(f"//{connection.headers.get('host', '')}")
        origin = connection.headers.get("origin")
        own_name = host is not None and (_is_loopback(host) or host == self._public_host)
        own_page = origin is None or origin in self._origins or _hostname(origin) == host
        if not own_name or not own_page:
            raise ForbiddenError(
                "this server has no API keys yet, so it answers only programs on its own machine; "
                "create a key with `inpaint keys create`"
            )


def _token(connection: HTTPConnection) -> str | None:
    """Return the key from ``x-api-key`` or ``Authorization: Bearer``.

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
    except ValueError:  # misplaced brackets
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
