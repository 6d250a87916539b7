"""Credits: each key's balance, and the append-only ledger of the entries that sum to it.

Money is whole micro-credits, so that sums are exact. A request reserves its price when it is accepted, and is
then settled (an entry of 0) or refunded (an entry of the price), once. ``reserve``, ``settle`` and ``refund``
write in the transaction that changes the request itself, so that a crash cannot separate the two.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, func, insert, select, update

from inpaint.errors import RequestError
from server.errors import CreditsError
from server.storage.database import Database
from server.storage.keys import unknown_key
from server.storage.tables import keys, ledger

MICRO = 1_000_000  # micro-credits in a credit
_MAX_MICRO = 10**18  # the largest balance; 64 bits hold nine times as much


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry of the ledger. ``kind`` is add, reserve, settle or refund; ``created_at`` is Unix seconds."""

    id: int
    key_id: str
    request_id: str | None
    kind: str
    amount_micro: int
    note: str
    created_at: float


def parse_credits(text: str) -> int:
    """Convert a decimal number of credits to micro-credits.

    Raises:
        RequestError: not a number, finer than a micro-credit, or larger than 10^12 credits.
    """
    try:
        micro = Decimal(text) * MICRO if len(text) <= 20 else Decimal("NaN")  # Decimal is exact to 28 digits
    except ArithmeticError:  # not a number, or outside Decimal's range
        micro = Decimal("NaN")
    if not micro.is_finite() or micro != micro.to_integral_value() or abs(micro) > _MAX_MICRO:
        raise RequestError("credits", f"must be a number with at most 6 decimals, not {text!r}")
    return int(micro)


def format_credits(micro: int) -> str:
    """Convert micro-credits to a decimal number of credits: 12500000 is 12.5."""
    return f"{(Decimal(micro) / MICRO).normalize():f}"


class Ledger:
    """The balances and ledger entries of every key. Safe from any thread."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def add(self, key_id: str, credits_micro: int, note: str = "") -> int:
        """Give a key credits, or take some back with a negative number, and return the new balance.

        Args:
            key_id: the key.
            credits_micro: micro-credits to add; not 0.
            note: at most 500 printable characters, kept with the entry.

        Raises:
            NotFoundError: there is no such key.
            CreditsError: the balance does not cover what is taken back.
            RequestError: the number is 0, the balance would exceed 10^12 credits, or the note is refused.
        """
        if not 0 < abs(credits_micro) <= _MAX_MICRO:
            raise RequestError("credits", "must be a number other than 0")
        if len(note) > 500 or not note.isprintable():
            raise RequestError("note", "must be at most 500 printable characters")
        after = keys.c.balance_micro + credits_micro
        with self._database.write() as connection:
            before = self._balance(connection, key_id)
            changed = connection.execute(
                update(keys)
                .where(keys.c.id == key_id, after.between(0, _MAX_MICRO))
                .values(balance_micro=after)
            )
            if changed.rowcount != 1 and credits_micro < 0:
                raise CreditsError(f"the balance of {format_credits(before)} credits does not cover that")
            if changed.rowcount != 1:
                raise RequestError("credits", f"a balance is at most {format_credits(_MAX_MICRO)} credits")
            _write(connection, key_id, None, "add", credits_micro, self._clock(), note)
            return self._balance(connection, key_id)

    def balance(self, key_id: str) -> int:
        """Return the micro-credits that a key has left.

        Raises:
            NotFoundError: there is no such key.
        """
        with self._database.read() as connection:
            return self._balance(connection, key_id)

    def entries(self, key_id: str) -> list[LedgerEntry]:
        """Return every entry of a key, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(ledger).where(ledger.c.key_id == key_id).order_by(ledger.c.id))
            return [LedgerEntry(**row._mapping) for row in rows]  # noqa: SLF001 - the public name of a row as a mapping

    def check(self, key_id: str | None = None) -> list[str]:
        """Return one sentence for each key (of all, if None) whose entries do not sum to its balance."""
        total = func.coalesce(func.sum(ledger.c.amount_micro), 0)
        sums = (
            select(keys.c.id, keys.c.balance_micro, total)
            .outerjoin(ledger, ledger.c.key_id == keys.c.id)
            .group_by(keys.c.id, keys.c.balance_micro)
            .having(total != keys.c.balance_micro)
        )
        if key_id is not None:
            sums = sums.where(keys.c.id == key_id)
        with self._database.read() as connection:
            return [
                f"key {key} has {format_credits(balance)} credits, its entries sum to"
                f" {format_credits(int(summed))}"
                for key, balance, summed in connection.execute(sums)
            ]

    def _balance(self, connection: Connection, key_id: str) -> int:
        balance = _balance_or_none(connection, key_id)
        if balance is None:
            raise unknown_key(key_id)
        return balance


def reserve(connection: Connection, key_id: str, request_id: str, cost_micro: int, now: float) -> None:
    """Take a request's price from its key; a request that costs nothing leaves no entry.

    Raises:
        CreditsError: the balance does not cover the price.
    """
    assert cost_micro >= 0
    if cost_micro == 0:
        return
    # One statement, so that no other debit can come between the check and the change.
    taken = connection.execute(
        update(keys)
        .where(keys.c.id == key_id, keys.c.balance_micro >= cost_micro)
        .values(balance_micro=keys.c.balance_micro - cost_micro)
    )
    if taken.rowcount != 1:
        left = format_credits(_balance_or_none(connection, key_id) or 0)
        cost = format_credits(cost_micro)
        raise CreditsError(f"insufficient credits: the request costs {cost} credits, {left} are left")
    _write(connection, key_id, request_id, "reserve", -cost_micro, now)


def settle(connection: Connection, key_id: str, request_id: str, cost_micro: int, now: float) -> None:
    """Keep the reserved price: the request was painted, or cancelled after its first step."""
    if cost_micro:
        _write(connection, key_id, request_id, "settle", 0, now)


def refund(connection: Connection, key_id: str, request_id: str, cost_micro: int, now: float) -> None:
    """Give the reserved price back. The entry is written first: a second one for the request is refused."""
    if cost_micro:
        _write(connection, key_id, request_id, "refund", cost_micro, now)
        connection.execute(
            update(keys).where(keys.c.id == key_id).values(balance_micro=keys.c.balance_micro + cost_micro)
        )


def _balance_or_none(connection: Connection, key_id: str) -> int | None:
    return connection.execute(select(keys.c.balance_micro).where(keys.c.id == key_id)).scalar_one_or_none()


def _write(
    connection: Connection,
    key_id: str,
    request_id: str | None,
    kind: str,
    amount_micro: int,
    now: float,
    note: str = "",
) -> None:
    connection.execute(
        insert(ledger).values(
            key_id=key_id,
            request_id=request_id,
            kind=kind,
            amount_micro=amount_micro,
            note=note,
            created_at=now,
        )
    )
