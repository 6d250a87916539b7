"""What the database says at one moment, and what must be true of it at every moment."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, text

from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import Ledger
from server.storage.requests import _INTERRUPTED
from server.storage.tables import keys, ledger, metadata, requests

UNFINISHED = ("QUEUED", "PROCESSING")
_ENDS = {"COMPLETED": [["settle"]], "FAILED": [["refund"], ["settle"]], "CANCELLED": [["refund"], ["settle"]]}

_ENTRIES = select(ledger.c.key_id, ledger.c.request_id, ledger.c.kind, ledger.c.amount_micro).order_by(
    ledger.c.id
)
_BALANCES = select(keys.c.id, keys.c.balance_micro)
_HIDDEN = ("fields", "seeds", "outputs", "picture_token", "step")
_REQUESTS = select(*(column for column in requests.c if column.name not in _HIDDEN), requests.c.step)


@dataclass(frozen=True)
class Books:
    """One snapshot of every table."""

    requests: dict[str, Row[*tuple[Any, ...]]]
    entries: dict[str, list[tuple[str, int]]]  # of each request: kind and amount
    balances: dict[str, int]
    sums: dict[str, int]  # of all entries of each key

    def unfinished(self, server: str) -> set[str]:
        """What this server has to end."""
        rows = self.requests.values()
        return {row.id for row in rows if row.server_id == server and row.state in UNFINISHED}


def emptied(database: Database, count: int, balance: int) -> list[str]:
    """Forget everything, and return the ids of ``count`` new keys with ``balance`` micro-credits each."""
    with database.write() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # without triggers
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    found = [Keys(database).create(f"key {number}")[0].id for number in range(count)]
    for key_id in found:
        Ledger(database).add(key_id, balance)
    return found


def read(database: Database) -> Books:
    """The books now."""
    entries: dict[str, list[tuple[str, int]]] = defaultdict(list)
    sums: dict[str, int] = defaultdict(int)
    with database.engine.execution_options(isolation_level="REPEATABLE READ").begin() as connection:
        for row in connection.execute(_ENTRIES):
            sums[row.key_id] += row.amount_micro
            if row.request_id is not None:
                entries[row.request_id].append((row.kind, row.amount_micro))
        return Books(
            requests={row.id: row for row in connection.execute(_REQUESTS)},
            entries=entries,
            balances={row.id: row.balance_micro for row in connection.execute(_BALANCES)},
            sums=sums,
        )


def check(books: Books) -> None:
    """Balances, entries and states agree."""
    for key_id, balance in books.balances.items():
        assert balance >= 0
        assert balance == books.sums[key_id], key_id
    assert books.entries.keys() <= books.requests.keys(), "paid for and not written down"
    for request_id, row in books.requests.items():
        _check_request(row, books.entries.get(request_id, []))


def _check_request(row: Any, entries: list[tuple[str, int]]) -> None:
    assert row.attempts >= 0
    if row.cost_micro:
        assert entries[0] == ("reserve", -row.cost_micro), row
        assert all(amount == (row.cost_micro if kind == "refund" else 0) for kind, amount in entries[1:]), row
        kinds = [kind for kind, _ in entries[1:]]
        assert kinds in _ENDS.get(row.state, [[]]), (row, entries)
    else:
        assert entries == [], row
    if row.error == _INTERRUPTED["error"]:
        assert row.idempotency_sha256 is None, "the caller shall send it again"


def check_change(before: Books, after: Books) -> None:
    """Nothing is forgotten, and what has ended stays as it is."""
    assert before.requests.keys() <= after.requests.keys()
    for request_id, row in before.requests.items():
        now = after.requests[request_id]
        if row.state not in UNFINISHED:
            # but for its last column: a heartbeat may have been on its way
            assert now[:-1] == row[:-1], "it had ended"
        assert now.state != "QUEUED" or now.started_at is None, now
        assert (now.cost_micro, now.mode, now.key_id) == (row.cost_micro, row.mode, row.key_id)
