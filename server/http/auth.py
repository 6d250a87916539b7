"""Authentication: the key of a request, or the anonymous caller of a server without keys."""

import asyncio
import base64
import binascii

from starlette.requests import HTTPConnection

from server.errors import UnauthorizedError
from server.http.origin import OriginCheck
from server.service.caller import OPEN, Caller
from server.storage.keys import Keys


class Gate:
    """The check of every request's key.

    A key is required as soon as one exists. Until then only programs on the server's own machine are let in.
    With ``--no-auth`` everybody is who can reach the address, but no web page of another site.
    """

    def __init__(self, keys: Keys, origin: OriginCheck, *, open_to_all: bool) -> None:
        self._keys, self._origin = keys, origin
        self._open_to_all = open_to_all  # --no-auth
        self._locked = False

    async def admit(self, connection: HTTPConnection) -> Caller:
        """Return the caller of a request.

        Raises:
            UnauthorizedError: there is no key, or an invalid one.
            ForbiddenError: the server asks for no key, and the request comes from another machine, under
                another host's name, or from another site's page.
        """
        if not self._open_to_all and (self._locked or await self._lock()):
            key = await asyncio.to_thread(self._keys.authenticate, _token(connection))
            return Caller(key.id, key.scopes)
        if self._open_to_all:
            self._origin.refuse_other_names(connection)
        else:
            self._origin.refuse_other_machines(connection)
        self._origin.refuse_other_pages(connection)
        return OPEN

    async def _lock(self) -> bool:
        self._locked = await asyncio.to_thread(self._keys.any_exist)
        return self._locked


def _token(connection: HTTPConnection) -> str | None:
    """Return the key from ``x-api-key``, ``api-key`` (as for Azure), or ``Authorization``: Bearer or Basic.

    Raises:
        UnauthorizedError: none of them was sent.
    """
    if key := connection.headers.get("x-api-key") or connection.headers.get("api-key"):
        return key
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        key = _of_basic(key)
    elif scheme.lower() != "bearer":
        key = ""
    if key.strip():
        return key.strip()
    raise UnauthorizedError("Missing Authorization or x-api-key in header")


def _of_basic(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), or the user's name if there is no password."""
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    user, _, password = text.partition(":")
    return password or user
