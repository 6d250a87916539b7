"""The ledger of credits: exact, append-only and never negative, on SQLite and on Postgres."""

import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from inpaint.errors import RequestError
from server.errors import CreditsError, NotFoundError
from server.storage import ledger as accounts
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import MICRO, Ledger, format_credits, parse_credits
from server.storage.requests import Record, Store
from server.storage.tables import keys
from tests.support.examples import examples

pytest_plugins = ["tests.support.postgres"]


def new_record(name: str, key_id: str, cost_micro: int, mode: str = "v2") -> Record:
    return Record.new(id=name, key_id=key_id, mode=mode, fields={}, seeds=[], cost_micro=cost_micro)


@pytest.fixture
def key_id(database: Database) -> str:
    return Keys(database).create("anna")[0].id


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def test_credits_given_can_be_seen_and_spent(ledger: Ledger, key_id: str) -> None:
    """An operator finds the credits that were given, each with its note."""
    assert ledger.add(key_id, 12 * MICRO, "invoice 7") == 12 * MICRO
    assert ledger.add(key_id, -2 * MICRO) == ledger.balance(key_id) == 10 * MICRO
    kinds = [(entry.kind, entry.amount_micro, entry.note) for entry in ledger.entries(key_id)]
    assert kinds == [("add", 12 * MICRO, "invoice 7"), ("add", -2 * MICRO, "")]
    assert ledger.check() == []


def test_more_than_there_is_cannot_be_taken_back(ledger: Ledger, key_id: str) -> None:
    """A correction cannot make a balance negative."""
    ledger.add(key_id, 5)
    with pytest.raises(CreditsError, match=r"the balance of 0\.000005 credits does not cover that"):
        ledger.add(key_id, -6)
    assert (ledger.balance(key_id), len(ledger.entries(key_id))) == (5, 1)


def test_a_balance_stays_where_sums_are_exact(ledger: Ledger, key_id: str) -> None:
    """64 bits overflow into floats or errors; the operator gets an error long before that."""
    ledger.add(key_id, 10**18)
    with pytest.raises(RequestError, match="a balance is at most 1000000000000 credits"):
        ledger.add(key_id, 1)
    for much in (0, 10**19, -(10**30)):
        with pytest.raises(RequestError, match="credits: must be a number other than 0"):
            ledger.add(key_id, much)


@pytest.mark.parametrize("note", ["\0", "a\nb", "\ud800", "x" * 501])
def test_a_note_is_one_line(ledger: Ledger, key_id: str, note: str) -> None:
    """Notes are listed one per line, and Postgres refuses NUL."""
    with pytest.raises(RequestError, match="note: must be at most 500 printable characters"):
        ledger.add(key_id, 1, note)


def test_an_unknown_key_has_no_credits(ledger: Ledger) -> None:
    """A typo in the id is not answered with 0."""
    with pytest.raises(NotFoundError):
        ledger.balance("000000000000")
    with pytest.raises(NotFoundError):
        ledger.add("000000000000", 5)


@pytest.mark.parametrize(
    ("given", "micro", "shown"),
    [("12.5", 12_500_000, "12.5"), ("-0.000001", -1, "-0.000001"), ("1e3", 10**9, "1000"), ("0", 0, "0")],
)
def test_credits_are_read_and_shown_exactly(given: str, micro: int, shown: str) -> None:
    """Credits are decimal: 0.1 + 0.2 is 0.3."""
    assert parse_credits(given) == micro
    assert format_credits(micro) == shown


@pytest.mark.parametrize(
    "given", ["", "ten", "0.0000001", "nan", "inf", "1e400", "1e-400", "1e999999999", "1." + "0" * 40 + "1"]
)
def test_a_number_that_cannot_be_kept_is_refused(given: str) -> None:
    """A number must not be rounded without the operator's knowledge."""
    with pytest.raises(RequestError, match="credits: must be a number with at most 6 decimals"):
        parse_credits(given)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE ledger SET amount_micro = 0", "DELETE FROM ledger", "DELETE FROM ledger WHERE id = 1"],
)
def test_the_ledger_is_append_only(database: Database, ledger: Ledger, key_id: str, statement: str) -> None:
    """Neither a mistake of ours nor an operator with a database shell can change an entry."""
    ledger.add(key_id, 5)
    with pytest.raises(DBAPIError, match="the ledger is append-only"), database.write() as connection:
        connection.execute(text(statement))
    assert [entry.amount_micro for entry in ledger.entries(key_id)] == [5]


def test_a_request_is_charged_and_ended_once(database: Database, ledger: Ledger, key_id: str) -> None:
    """The database itself allows a request one reserve, and one settle or one refund."""
    ledger.add(key_id, 100)
    with database.write() as connection:
        accounts.reserve(connection, key_id, "r", 10, 0.0)
        accounts.refund(connection, key_id, "r", 10, 0.0)
    for again in (accounts.reserve, accounts.refund, accounts.settle):
        with pytest.raises(IntegrityError), database.write() as connection:
            again(connection, key_id, "r", 10, 0.0)
    assert ledger.balance(key_id) == 100
    assert ledger.check() == []


def test_the_database_itself_refuses_a_negative_balance(database: Database, key_id: str) -> None:
    """A second safeguard catches a debit that lacks its condition."""
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(update(keys).values(balance_micro=-1))


def test_a_balance_that_does_not_sum_is_reported(database: Database, ledger: Ledger, key_id: str) -> None:
    """A balance that was edited by hand is found."""
    ledger.add(key_id, 3 * MICRO)
    with database.write() as connection:
        connection.execute(update(keys).values(balance_micro=5 * MICRO))
    report = [f"key {key_id} has 5 credits, its entries sum to 3"]
    assert ledger.check() == ledger.check(key_id) == report
    assert ledger.check("000000000000") == []


def test_a_race_for_the_last_credits_grants_exactly_those(
    database: Database, ledger: Ledger, key_id: str
) -> None:
    """Of 16 threads × 20 debits on a balance of 50, 50 are granted, 270 refused, and none fails otherwise."""
    ledger.add(key_id, 50)
    store, start = Store(database), threading.Barrier(16)
    granted: list[str] = []
    refused: list[str] = []

    def spend(thread: int) -> None:
        start.wait()
        for number in range(20):
            try:
                granted.append(store.accept(new_record(f"{thread}-{number}", key_id, 1)).id)
            except CreditsError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=spend, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), len(refused)) == (50, 270)
    assert ledger.balance(key_id) == 0
    assert ledger.check() == []
    assert "credits" in refused[0]
    assert sorted(r.id for r in store.recover()) == sorted(granted)


def test_credits_given_simultaneously_are_all_there(ledger: Ledger, key_id: str) -> None:
    """Check and change are one transaction that starts as a writer, so that none fails and none is lost."""
    start = threading.Barrier(8)
    failed: list[Exception] = []

    def give() -> None:
        start.wait()
        for _ in range(10):
            try:
                ledger.add(key_id, 1)
            except Exception as error:  # noqa: BLE001 - the test reports it
                failed.append(error)

    threads = [threading.Thread(target=give) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert ledger.balance(key_id) == 80
    assert ledger.check() == []


@dataclass
class Known:
    """A request as the model below expects it."""

    name: str
    cost: int
    mode: str
    state: str = "QUEUED"

    @property
    def unfinished(self) -> bool:
        return self.state in ("QUEUED", "PROCESSING")


class Accounts(RuleBasedStateMachine):
    """Any order of adding, accepting, beginning, ending and restarting, compared with a model in memory."""

    requests = Bundle("requests")
    template: ClassVar[Path]

    @initialize(given=st.integers(1, 20))
    def start(self, given: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(self.template, self.folder / "inpaint.db")
        self.database = Database(f"sqlite:///{self.folder / 'inpaint.db'}")
        self.ledger, self.store = Ledger(self.database), Store(self.database)
        self.key_id = Keys(self.database).create("anna")[0].id
        self.balance, self.known = given, list[Known]()
        self.ledger.add(self.key_id, given)

    @rule(amount=st.integers(-5, 5).filter(bool))
    def add(self, amount: int) -> None:
        try:
            self.ledger.add(self.key_id, amount)
        except CreditsError:
            assert self.balance + amount < 0
        else:
            self.balance += amount

    @rule(target=requests, cost=st.integers(0, 9), mode=st.sampled_from(["v1", "v2"]))
    def accept(self, cost: int, mode: str) -> Known:
        known = Known(f"r{len(self.known)}", cost, mode)
        self.known.append(known)
        record = new_record(known.name, self.key_id, cost, mode)
        try:
            self.store.accept(record)
        except CreditsError:
            assert cost > self.balance
            known.state = "REFUSED"
        else:
            self.balance -= cost
        return known

    @rule(known=requests)
    def begin(self, known: Known) -> None:
        begun = self.store.begin(known.name) is not None
        assert begun == (known.state == "QUEUED")
        if begun:
            known.state = "PROCESSING"

    @rule(known=requests)
    def finish(self, known: Known) -> None:
        assert self.store.finish(known.name, outputs=[], inference_s=1.0) == known.unfinished
        if known.unfinished:
            known.state = "COMPLETED"

    @rule(known=requests, state=st.sampled_from(["FAILED", "CANCELLED"]), refund=st.booleans())
    def fail(self, known: Known, state: str, refund: bool) -> None:
        ended = self.store.fail(known.name, error="e", status=500, state=state, refund=refund)
        assert ended == known.unfinished
        if ended:
            known.state = state
            self.balance += known.cost * refund

    @rule()
    def restart(self) -> None:
        waiting = {record.id for record in self.store.recover()}
        for known in self.known:
            if known.unfinished:
                known.state = "QUEUED" if known.mode == "v2" else "FAILED"
                self.balance += known.cost * (known.mode == "v1")
        assert waiting == {known.name for known in self.known if known.state == "QUEUED"}

    @invariant()
    def the_balance_is_right(self) -> None:
        assert self.ledger.balance(self.key_id) == self.balance >= 0
        assert self.ledger.check() == []

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)


def test_no_order_of_events_loses_or_invents_credits(tmp_path: Path) -> None:
    """Hypothesis looks for a sequence after which the balance, the ledger and a simple model disagree."""
    Accounts.template = tmp_path / "inpaint.db"
    with Database(f"sqlite:///{Accounts.template}") as database:
        database.migrate()
    bounded = examples(15, stateful_step_count=20, database=None)
    run_state_machine_as_test(Accounts, settings=bounded)
