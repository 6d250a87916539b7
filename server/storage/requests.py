"""The records of requests: accepted and charged in one transaction, ended and settled in another.

::

    accept → QUEUED ⇄ PROCESSING → COMPLETED | FAILED | CANCELLED → expired → gone

Every change of state is one conditional UPDATE, so that of two that race one wins and the other learns that
it lost. Several servers may share a database. A request belongs to the server that accepted it, until that
server stops and another takes the request over (see :meth:`Store.recover`); a server cannot change a request
that no longer belongs to it.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf
from types import MappingProxyType
from typing import Self

from sqlalchemy import Connection, Update, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from inpaint.errors import BusyError
from server.errors import IdempotencyError, NotFoundError, RateError
from server.storage import ledger
from server.storage.database import Database
from server.storage.tables import requests, servers

_UNFINISHED = ("QUEUED", "PROCESSING")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STOPPED = "the server stopped before the picture was painted; nothing was charged, send it again"
_INTERRUPTED = {"state": "FAILED", "error": _STOPPED, "error_status": 503, "idempotency_sha256": None}
_CANCELLED = {"state": "CANCELLED", "error": "cancelled by the caller", "error_status": 422}
_STORES_TOO_MUCH = (
    "this key stores as many pictures as it may, {:g} GB (INPAINT_MAX_STORED_BYTES_PER_KEY); wait until"
    " older ones expire, or use v1, which stores none"
)
_STORED_RETRY_S = 3600.0  # pictures expire after days
_WAITING = {"state": "QUEUED", "started_at": None, "step": 0}
_MAX_SWEPT = 1000  # in one sweep, so that none holds the database for long


@dataclass(frozen=True, slots=True)
class Record:
    """The stored state of one request. Times are Unix seconds; ``key_id`` is "" on an open server.

    ``fields["token"]``, if present, gives access to the request's pictures (see :meth:`Store.get_by_token`).
    """

    id: str
    key_id: str
    mode: str  # v1 or v2
    state: str  # QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED
    fields: dict[str, object]  # JSON
    seeds: list[int]
    cost_micro: int
    attempts: int
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    error: str | None = None
    error_status: int | None = None
    outputs: list[dict[str, object]] = field(default_factory=list)  # JSON
    inference_s: float | None = None
    step: int = 0  # denoising steps so far; written once a second, for other servers
    stored_bytes: int = 0  # of its files in the picture store

    @classmethod
    def new(
        cls,
        *,
        id: str,  # noqa: A002 - the field's name
        key_id: str,
        mode: str,
        fields: dict[str, object],
        seeds: list[int],
        cost_micro: int,
    ) -> Self:
        """Return the record of a request that arrives now."""
        return cls(id, key_id, mode, "QUEUED", fields, seeds, cost_micro, attempts=0, created_at=time.time())


_RECORD = tuple(requests.c[column.name] for column in fields(Record))


class Store:
    """The requests of a database, of which one server changes only its own. Safe from any thread."""

    def __init__(
        self, database: Database, clock: Callable[[], float] = time.time, *, server_id: str = ""
    ) -> None:
        """Change nothing yet; ``server_id`` is "" for the only server of a database."""
        self._database, self._clock, self._server_id = database, clock, server_id
        # Outcomes that callers have received and that the database lacks, or may lack: changes, and whether
        # the price is refunded.
        self._pending_outcomes: dict[str, tuple[dict[str, object], bool]] = {}

    def accept(
        self,
        record: Record,
        *,
        idempotency_key: str | None = None,
        body_digest: str = "",
        max_stored_bytes: float = inf,
    ) -> Record:
        """Write a new request down and take its price, both or neither.

        Args:
            record: of the request, QUEUED.
            idempotency_key: as the caller sent it; stored as a hash.
            body_digest: of the request's body; the same key must come with the same body.
            max_stored_bytes: of all pictures of the key, with those of ``record``.

        Returns:
            The record; or, if this caller used the idempotency key before with the same body, the record of
            that request, without a charge.

        Raises:
            CreditsError: the balance does not cover the price.
            IdempotencyError: the idempotency key came with another body before.
            RateError: the key stores too much already.
            BusyError: the database is unreachable; if it took the request all the same, catch_up undoes that.
        """
        assert record.state == "QUEUED"
        assert record.key_id or not record.cost_micro, "there is no key to charge"
        self.catch_up()  # a caller that retries must not get a request that is about to be undone
        row = asdict(record) | {
            "idempotency_sha256": None if idempotency_key is None else _sha256(idempotency_key),
            "body_digest": body_digest,
            "picture_token": record.fields.get("token"),
            "expired": False,
            "has_pictures": True,
            "server_id": self._server_id,
        }
        try:
            with self._database.write() as connection:
                if not _may_store(connection, record.key_id, record.stored_bytes, max_stored_bytes):
                    raise RateError(_STORES_TOO_MUCH.format(max_stored_bytes / 1e9), _STORED_RETRY_S)
                connection.execute(insert(requests).values(row))
                ledger.reserve(connection, record.key_id, record.id, record.cost_micro, record.created_at)
        except IntegrityError:
            # Looked up only now: only the database notices two requests that arrive simultaneously.
            earlier = None
            if idempotency_key is not None:
                earlier = self.find(record.key_id, idempotency_key, body_digest)
            if earlier is None:
                raise
            return earlier
        except BusyError:
            self._pending_outcomes[record.id] = _INTERRUPTED, True
            raise
        return record

    def find(self, key_id: str, idempotency_key: str, body_digest: str) -> Record | None:
        """Return the request that this caller made with this idempotency key, if any.

        Raises:
            IdempotencyError: it was made with another body.
        """
        self.catch_up()
        used = (requests.c.key_id == key_id, requests.c.idempotency_sha256 == _sha256(idempotency_key))
        with self._database.read() as connection:
            row = connection.execute(select(requests.c.body_digest, *_RECORD).where(*used)).one_or_none()
        if row is None:
            return None
        if row[0] != body_digest:
            raise IdempotencyError("this Idempotency-Key was used with another body; use a new one")
        return Record(*row[1:])

    def begin(self, request_id: str) -> Record | None:
        """Change QUEUED to PROCESSING and count the attempt; None if not QUEUED or not this server's."""
        waiting = self._update_own(request_id).where(requests.c.state == "QUEUED")
        begun = waiting.values(
            state="PROCESSING", attempts=requests.c.attempts + 1, started_at=self._clock()
        ).returning(*_RECORD)
        with self._database.write() as connection:
            row = connection.execute(begun).one_or_none()
        return None if row is None else Record(*row)

    def begin_again(self, request_id: str) -> Record | None:
        """Begin a request after a try that raised BusyError, but may have changed the state."""
        self.requeue(request_id)
        return self.begin(request_id)

    def requeue(self, request_id: str) -> None:
        """Change PROCESSING back to QUEUED without the attempt: the server stops in order, nothing failed."""
        with self._database.write() as connection:
            undone = self._update_own(request_id).where(requests.c.state == "PROCESSING")
            connection.execute(undone.values(**_WAITING, attempts=requests.c.attempts - 1))

    def ask_cancel(self, request_id: str) -> None:
        """Ask the server that owns a request to cancel it, which it does at its next heartbeat."""
        unfinished = update(requests).where(requests.c.id == request_id, requests.c.state.in_(_UNFINISHED))
        with self._database.write() as connection:
            connection.execute(unfinished.values(cancel_asked=True))

    def _update_own(self, request_id: str) -> Update:
        return update(requests).where(requests.c.id == request_id, requests.c.server_id == self._server_id)

    def finish(self, request_id: str, *, outputs: list[dict[str, object]], inference_s: float) -> bool:
        """Change the state to COMPLETED and keep the price; False if the request had ended."""
        with self._database.write() as connection:
            stored = requests.c.stored_bytes + sum(map(_size_of, outputs))
            changes: dict[str, object] = {
                "state": "COMPLETED",
                "outputs": outputs,
                "inference_s": inference_s,
                "stored_bytes": stored,
            }
            return self._end(connection, request_id, changes, refund=False)

    def fail(
        self,
        request_id: str,
        *,
        error: str,
        status: int,
        state: str = "FAILED",
        refund: bool = True,
    ) -> bool:
        """Change the state to FAILED or CANCELLED, refund or keep the price; False if it had ended.

        The caller receives ``error``, with the HTTP status ``status``.

        Raises:
            BusyError: the database is unreachable; catch_up writes this outcome later.
        """
        assert state in ("FAILED", "CANCELLED")
        changes: dict[str, object] = {"state": state, "error": error, "error_status": status}
        try:
            with self._database.write() as connection:
                return self._end(connection, request_id, changes, refund=refund)
        except BusyError:
            self._pending_outcomes[request_id] = changes, refund
            raise

    def catch_up(self) -> None:
        """Write the outcomes that callers received while the database was unreachable.

        Raises:
            BusyError: it still is unreachable.
        """
        for request_id, (changes, refund) in list(self._pending_outcomes.items()):
            with self._database.write() as connection:
                self._end(connection, request_id, changes, refund=refund)
            self._pending_outcomes.pop(request_id, None)

    def _end(
        self, connection: Connection, request_id: str, changes: dict[str, object], *, refund: bool
    ) -> bool:
        now = self._clock()
        unfinished = self._update_own(request_id).where(requests.c.state.in_(_UNFINISHED))
        ended = connection.execute(
            unfinished.values(changes | {"ended_at": now}).returning(requests.c.key_id, requests.c.cost_micro)
        ).one_or_none()
        if ended is None:
            return False
        write_entry = ledger.refund if refund else ledger.settle
        write_entry(connection, ended.key_id, request_id, ended.cost_micro, now)
        return True

    def unfinished(self, before: float) -> list[Record]:
        """Return this server's requests that were accepted before ``before`` and have not ended."""
        own = (requests.c.server_id == self._server_id, requests.c.state.in_(_UNFINISHED))
        with self._database.read() as connection:
            rows = connection.execute(select(*_RECORD).where(*own, requests.c.created_at < before))
            return [Record(*row) for row in rows]

    def get(self, request_id: str, key_id: str) -> Record:
        """Return a request of this key.

        Raises:
            NotFoundError: unknown, expired or another key's; the message does not say which.
        """
        mine = (requests.c.id == _known(request_id), requests.c.key_id == key_id, ~requests.c.expired)
        with self._database.read() as connection:
            row = connection.execute(select(*_RECORD).where(*mine)).one_or_none()
        if row is None:
            raise _not_found()
        return Record(*row)

    def get_by_token(self, request_id: str, token: str) -> Record:
        """Return a request to a caller with the token of its pictures, as long as these are kept.

        The ``fields`` of an expired request are empty.

        Raises:
            NotFoundError: the request is unknown, its pictures are gone, or the token is another's.
        """
        kept = (requests.c.id == _known(request_id), requests.c.has_pictures)
        with self._database.read() as connection:
            row = connection.execute(select(requests.c.picture_token, *_RECORD).where(*kept)).one_or_none()
        given = token.encode("utf-8", "surrogatepass")
        if row is None or not row[0] or not hmac.compare_digest(given, row[0].encode()):
            raise _not_found()
        return Record(*row[1:])

    def recover(self, dead: Mapping[str, int] = MappingProxyType({})) -> list[Record]:
        """Take over the requests of servers that stopped, and return those that wait, oldest first.

        v1 requests have lost their callers: they fail and are refunded, and their idempotency keys become
        free. v2 requests that were being painted are QUEUED again; those with a pending cancellation are
        cancelled.

        Args:
            dead: servers without a heartbeat for too long, and the number of the last heartbeat of each; a
                server whose number has changed since is not dead.
        """
        gone = requests.c.server_id.not_in(select(servers.c.id)) & requests.c.state.in_(_UNFINISHED)
        with self._database.write() as connection:
            # Sorted, because servers that delete the same rows in different orders would deadlock.
            for server_id, beats in sorted(dead.items()):
                connection.execute(delete(servers).where(servers.c.id == server_id, servers.c.beats == beats))
            # Requests that another server is taking over at this moment are left to it.
            orphans = connection.scalars(select(requests.c.id).where(gone).with_for_update(skip_locked=True))
            taken = update(requests).where(requests.c.id.in_(orphans.all()))
            again = connection.execute(
                taken.values(server_id=self._server_id, **_WAITING).returning(
                    requests.c.cancel_asked, *_RECORD
                )
            )
            waiting: list[Record] = []
            for cancel_asked, *values in sorted(again, key=lambda row: (row.key_id, row.created_at, row.id)):
                record = Record(*values)
                if record.mode == "v1" or cancel_asked:
                    end = _INTERRUPTED if record.mode == "v1" else _CANCELLED
                    self._end(connection, record.id, end, refund=True)
                else:
                    waiting.append(record)
        return sorted(waiting, key=lambda record: (record.created_at, record.id))

    def sweep(self, now: float, requests_ttl_s: float, pictures_ttl_s: float) -> list[str]:
        """Drop the records of requests that ended more than ``requests_ttl_s`` ago; the ledger stays.

        ``now`` is Unix seconds; the ttls are seconds after a request's end.

        Returns:
            The ids of requests whose pictures are to be deleted, at most a thousand. Every sweep returns them
            until :meth:`pictures_deleted` is called, so that a crash between the two leaves none behind.
        """
        old = requests.c.ended_at <= now - requests_ttl_s
        # The row stays, as the owner of the pictures; nothing that the caller wrote stays in it.
        empty = {"expired": True, "fields": {}, "error": None, "idempotency_sha256": None}
        due = select(requests.c.id).where(
            requests.c.has_pictures, requests.c.ended_at <= now - pictures_ttl_s
        )
        with self._database.write() as connection:
            connection.execute(update(requests).where(old, ~requests.c.expired).values(empty))
            connection.execute(delete(requests).where(requests.c.expired, ~requests.c.has_pictures))
            return list(connection.scalars(due.order_by(requests.c.ended_at).limit(_MAX_SWEPT)))

    def add_stored(self, request_id: str, key_id: str, size_bytes: int, max_stored_bytes: float) -> bool:
        """Count one more file of a request; False, and no change, if its key would then store too much."""
        with self._database.write() as connection:
            if not _may_store(connection, key_id, size_bytes, max_stored_bytes):
                return False
            more = requests.c.stored_bytes + size_bytes
            kept = update(requests).where(requests.c.id == request_id, requests.c.has_pictures)
            return connection.execute(kept.values(stored_bytes=more)).rowcount == 1

    def pictures_deleted(self, ids: Collection[str]) -> None:
        """Note that the pictures of these requests were deleted; the next sweep deletes their rows too."""
        with self._database.write() as connection:
            deleted = update(requests).where(requests.c.id.in_(ids))
            connection.execute(deleted.values(has_pictures=False, stored_bytes=0))


def _size_of(output: dict[str, object]) -> int:
    """Return the bytes that are stored of one painted picture: its whole file, or its painted box."""
    return int(str(output.get("file_size", output.get("patch_size", 0))))


def _may_store(connection: Connection, key_id: str, size_bytes: int, max_stored_bytes: float) -> bool:
    """Return whether a key may store this many bytes more; none are always allowed."""
    if not size_bytes:
        return True
    own = (requests.c.key_id == key_id, requests.c.stored_bytes > 0)
    stored = connection.scalar(select(func.sum(requests.c.stored_bytes)).where(*own))
    return int(stored or 0) + size_bytes <= max_stored_bytes


def _not_found() -> NotFoundError:
    return NotFoundError("there is no such request, or it has expired")


def _known(request_id: str) -> str:
    """Return the id, or "", which no request has: a database does not accept every character."""
    return request_id if _ID.fullmatch(request_id) else ""


def _sha256(idempotency_key: str) -> str:
    return hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()
