"""The books of a server after a bench: whether they add up, and what was written for each request."""

from collections import Counter
from dataclasses import dataclass
from typing import Self

from server.storage.database import Database
from server.storage.ledger import Ledger

PAID_ONCE = {"reserve": 1, "settle": 1}


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger: ``kinds`` of entries by request id, and ``drift``, a sentence for each wrong key."""

    drift: list[str]
    kinds: dict[str, Counter[str]]

    @classmethod
    def read(cls, database_url: str, key_id: str) -> Self:
        """Read them from a server's database."""
        kinds: dict[str, Counter[str]] = {}
        with Database(database_url) as database:
            ledger = Ledger(database)
            for entry in ledger.entries(key_id):
                if entry.request_id:
                    kinds.setdefault(entry.request_id, Counter())[entry.kind] += 1
            return cls(ledger.check(), kinds)
