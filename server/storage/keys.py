"""API keys: tokens of the form ``inp_<id>_<secret>``, shown once and stored as a hash.

The secret is 192 random bits, which no dictionary can guess, so a plain SHA-256 is enough. A key is never
deleted, only revoked, because the ledger refers to it.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sqlalchemy import Row, func, insert, select, update

from inpaint.errors import RequestError
from server.errors import NotFoundError, UnauthorizedError
from server.storage.database import Database
from server.storage.tables import keys

DEFAULT_SCOPES = frozenset({"sdxl-inpaint"})
NO_KEY = "Missing Authorization or x-api-key in header"
BAD_KEY = "Unauthorized. API key is invalid or may have expired."

_ID = re.compile(r"[0-9a-f]{12}")
_TOKEN = re.compile(r"inp_([0-9a-f]{12})_([0-9a-f]{48})")
_SCOPE = re.compile(r"[a-z0-9][a-z0-9._:-]{0,63}")
_NO_SECRET = hashlib.sha256(b"").hexdigest()  # matches no token, since every token has a secret


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. Times are Unix seconds; None is never."""

    id: str
    name: str
    scopes: frozenset[str]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    balance_micro: int

    def usable(self, now: float) -> bool:
        """Return whether the key is valid at ``now`` (Unix seconds)."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Keys:
    """The API keys of a database. Safe from any thread."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def create(
        self, name: str, *, scopes: Collection[str] = DEFAULT_SCOPES, expires_at: float | None = None
    ) -> tuple[Key, str]:
        """Create a key without credits; return it and its token, which cannot be shown again.

        Args:
            name: 1 to 100 printable characters.
            scopes: the models and endpoints that the key may use.
            expires_at: Unix seconds; None is never.

        Raises:
            RequestError: the name or a scope cannot be used.
        """
        if not (0 < len(name) <= 100 and name.isprintable() and name.strip()):
            raise RequestError("name", f"must be 1 to 100 printable characters, not {name[:100]!r}")
        for scope in scopes or [""]:
            if not _SCOPE.fullmatch(scope):
                raise RequestError("scope", f"must be a word such as sdxl-inpaint, not {scope!r}")
        secret = secrets.token_hex(24)
        key = Key(
            id=secrets.token_hex(6),
            name=name,
            scopes=frozenset(scopes),
            created_at=self._clock(),
            expires_at=expires_at,
            revoked_at=None,
            balance_micro=0,
        )
        with self._database.write() as connection:
            connection.execute(
                insert(keys).values(
                    id=key.id,
                    name=key.name,
                    secret_sha256=_sha256(secret),
                    scopes=sorted(key.scopes),
                    created_at=key.created_at,
                    expires_at=key.expires_at,
                    balance_micro=0,
                )
            )
        return key, f"inp_{key.id}_{secret}"

    def revoke(self, key_id: str) -> None:
        """Revoke a key for good; a second time changes nothing.

        Raises:
            NotFoundError: there is no such key.
        """
        now = func.coalesce(keys.c.revoked_at, self._clock())
        with self._database.write() as connection:
            done = connection.execute(update(keys).where(keys.c.id == _known(key_id)).values(revoked_at=now))
            if done.rowcount != 1:
                raise unknown_key(key_id)

    def authenticate(self, token: str | None) -> Key:
        """Return the key of a token.

        Raises:
            UnauthorizedError: no token, or one that is malformed, unknown, wrong, revoked or expired; the
                message does not say which.
        """
        if not token:
            raise UnauthorizedError(NO_KEY)
        parts = _TOKEN.fullmatch(token)  # before the query: a database does not accept every character
        if parts is None:
            raise UnauthorizedError(BAD_KEY)
        with self._database.read() as connection:
            row = connection.execute(select(keys).where(keys.c.id == parts[1])).one_or_none()
        # An unknown id is compared too, so that the time taken does not reveal which ids exist.
        right = hmac.compare_digest(_sha256(parts[2]), _NO_SECRET if row is None else row.secret_sha256)
        key = None if row is None else _key(row)
        if key is None or not right or not key.usable(self._clock()):
            raise UnauthorizedError(BAD_KEY)
        return key

    def any_exist(self) -> bool:
        """Return whether a key was ever created.

        Revoked keys count: revoking the last one must not open the server.
        """
        with self._database.read() as connection:
            return connection.execute(select(keys.c.id).limit(1)).first() is not None

    def active(self, key_id: str) -> bool:
        """Return whether this key is known, not revoked and not expired; False for "", which is no key."""
        with self._database.read() as connection:
            row = connection.execute(select(keys).where(keys.c.id == _known(key_id))).one_or_none()
        return row is not None and _key(row).usable(self._clock())

    def list(self) -> list[Key]:
        """Return every key, oldest first."""
        with self._database.read() as connection:
            return [
                _key(row) for row in connection.execute(select(keys).order_by(keys.c.created_at, keys.c.id))
            ]


def unknown_key(key_id: str) -> NotFoundError:
    """Return the error for a key that does not exist."""
    return NotFoundError(f"there is no key {key_id!r}; `inpaint keys list` shows the ids")


def _key(row: Row[*tuple[object, ...]]) -> Key:
    values = row._mapping  # noqa: SLF001 - the public name of a row as a mapping
    return Key(
        id=values["id"],
        name=values["name"],
        scopes=frozenset(values["scopes"]),
        created_at=values["created_at"],
        expires_at=values["expires_at"],
        revoked_at=values["revoked_at"],
        balance_micro=values["balance_micro"],
    )


def _known(key_id: str) -> str:
    """Return the id, or "", which no key has: a database does not accept every character."""
    return key_id if _ID.fullmatch(key_id) else ""


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
