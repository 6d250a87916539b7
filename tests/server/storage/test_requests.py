"""The records of requests: paid once, ended once, visible to their owners only; on SQLite and on Postgres."""

import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError

from server.errors import CreditsError, IdempotencyError, NotFoundError, RateError
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import Ledger
from server.storage.requests import Record, Store
from server.storage.tables import ledger as ledger_table
from server.storage.tables import requests as requests_table
from tests.support.store_loop import accept_and_end

pytest_plugins = ["tests.support.postgres"]

HOUR, WEEK = 3600.0, 7 * 86400.0


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> Store:
    return Store(database, clock)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def key_id(database: Database, ledger: Ledger) -> str:
    """Return a key with 100 micro-credits."""
    key_id = Keys(database).create("anna")[0].id
    ledger.add(key_id, 100)
    return key_id


def new(name: str, key_id: str = "", cost_micro: int = 0, mode: str = "v2", **fields: object) -> Record:
    return Record.new(id=name, key_id=key_id, mode=mode, fields=fields, seeds=[7], cost_micro=cost_micro)


def kinds(ledger: Ledger, key_id: str) -> list[str]:
    return [entry.kind for entry in ledger.entries(key_id)[1:]]


def together(threads: int, work: Callable[[int], object]) -> list[object]:
    """Call ``work`` from several threads simultaneously; return the results, or the errors."""
    start, results = threading.Barrier(threads), list[object]()

    def run(number: int) -> None:
        start.wait()
        try:
            results.append(work(number))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return results


def test_a_request_goes_through_its_life(store: Store, ledger: Ledger, key_id: str, clock: Clock) -> None:
    """A request is accepted, begun, finished and paid, and every field can be read back."""
    record = new("r", key_id, 30, prompt="a \0 \ud800 red circle")
    assert store.accept(record) == store.get("r", key_id) == record
    assert ledger.balance(key_id) == 70
    begun = store.begin("r")
    assert begun is not None
    assert (begun.state, begun.attempts, begun.started_at) == ("PROCESSING", 1, 1000.0)
    clock.now = 1010.0
    assert store.finish("r", outputs=[{"file_name": "0.png"}], inference_s=2.5)
    done = store.get("r", key_id)
    assert (done.state, done.ended_at, done.inference_s) == ("COMPLETED", 1010.0, 2.5)
    assert (done.outputs, done.fields, done.seeds) == ([{"file_name": "0.png"}], record.fields, [7])
    assert kinds(ledger, key_id) == ["reserve", "settle"]
    assert ledger.balance(key_id) == 70


def test_a_request_that_cannot_be_paid_is_not_written_down(store: Store, ledger: Ledger, key_id: str) -> None:
    """Without credits there is no request and no entry; the text says credits, as clients expect."""
    with pytest.raises(
        CreditsError, match=r"insufficient credits: the request costs 0\.000101 credits, 0\.0001 are left"
    ):
        store.accept(new("r", key_id, 101))
    with pytest.raises(NotFoundError):
        store.get("r", key_id)
    assert (ledger.balance(key_id), kinds(ledger, key_id)) == (100, [])


def test_what_costs_nothing_leaves_no_entry(store: Store, ledger: Ledger, key_id: str) -> None:
    """The ledger stays empty if metering is off, and on an open server, which has no keys."""
    for name, owner in (("r", key_id), ("s", "")):
        store.accept(new(name, owner))
        assert store.begin(name)
    assert store.finish("r", outputs=[], inference_s=1.0)
    assert store.fail("s", error="no memory", status=503)
    assert kinds(ledger, key_id) == []


def test_a_failure_is_refunded_once(store: Store, ledger: Ledger, key_id: str) -> None:
    """The price is refunded once, even if eight threads report the failure."""
    store.accept(new("r", key_id, 30))
    store.begin("r")
    answers = together(8, lambda _: store.fail("r", error="no \0 memory \ud800", status=503))
    assert sorted(map(str, answers)) == ["False"] * 7 + ["True"]
    assert ledger.balance(key_id) == 100
    assert kinds(ledger, key_id) == ["reserve", "refund"]
    failed = store.get("r", key_id)
    assert (failed.state, failed.error, failed.error_status) == ("FAILED", "no \0 memory \ud800", 503)


def test_finishing_and_cancelling_together_end_one_way(store: Store, ledger: Ledger, key_id: str) -> None:
    """A cancellation that arrives with the last step refunds the price or does not, and the state agrees."""
    for name in map(str, range(5)):
        store.accept(new(name, key_id, 10))
        store.begin(name)
        finish = lambda name=name: store.finish(name, outputs=[], inference_s=1.0)  # noqa: E731
        cancel = lambda name=name: store.fail(name, error="e", status=422, state="CANCELLED")  # noqa: E731
        answers = together(2, lambda n, finish=finish, cancel=cancel: finish() if n else cancel())
        assert sorted(map(str, answers)) == ["False", "True"]
    ends = Counter(store.get(name, key_id).state for name in map(str, range(5)))
    assert ledger.balance(key_id) == 100 - 10 * ends["COMPLETED"]
    assert ledger.check() == []


def test_a_request_cancelled_late_is_paid(store: Store, ledger: Ledger, key_id: str) -> None:
    """A client that disconnects after the GPU started is charged."""
    store.accept(new("r", key_id, 30))
    store.begin("r")
    assert store.fail("r", error="gone", status=422, state="CANCELLED", refund=False)
    assert ledger.balance(key_id) == 70
    assert kinds(ledger, key_id) == ["reserve", "settle"]


def test_what_has_ended_stays_as_it_is(store: Store, ledger: Ledger, key_id: str) -> None:
    """A worker that was given up and answers late changes nothing."""
    store.accept(new("r", key_id, 30))
    store.begin("r")
    store.fail("r", error="e", status=500)
    ended = store.get("r", key_id)
    assert store.begin("r") is None
    store.requeue("r")
    assert not store.finish("r", outputs=[{"late": 1}], inference_s=1.0)
    assert store.get("r", key_id) == ended
    assert ledger.balance(key_id) == 100


def test_one_attempt_is_begun_once(store: Store) -> None:
    """Two workers never paint the same request; a request that was put back does not count as tried."""
    store.accept(new("r"))
    assert sum(begun is not None for begun in together(8, lambda _: store.begin("r"))) == 1
    store.requeue("r")
    assert store.get("r", "").started_at is None
    begun = store.begin("r")
    assert begun is not None
    assert begun.attempts == 1
    assert store.begin("unknown") is None


def test_an_idempotency_key_charges_once(store: Store, ledger: Ledger, key_id: str) -> None:
    """A client that never got the answer may retry and gets the same request."""
    first = store.accept(new("r1", key_id, 60), idempotency_key="k", body_digest="d")
    again = store.accept(new("r2", key_id, 60), idempotency_key="k", body_digest="d")  # 40 are left
    assert again == first == store.find(key_id, "k", "d")
    assert ledger.balance(key_id) == 40
    with pytest.raises(NotFoundError):
        store.get("r2", key_id)


def test_an_idempotency_key_with_another_body_is_refused(store: Store, ledger: Ledger, key_id: str) -> None:
    """A client that mixes up its keys must not get the wrong picture."""
    store.accept(new("r1", key_id, 10), idempotency_key="k", body_digest="d")
    with pytest.raises(IdempotencyError, match="used with another body"):
        store.accept(new("r2", key_id, 10), idempotency_key="k", body_digest="other")
    with pytest.raises(IdempotencyError, match="used with another body"):
        store.find(key_id, "k", "other")
    assert ledger.balance(key_id) == 90


def test_idempotency_keys_of_two_callers_are_two(store: Store, database: Database, key_id: str) -> None:
    """A caller cannot reach another's request by guessing its idempotency key."""
    other = Keys(database).create("bob")[0].id
    for name, owner in (("r1", key_id), ("r2", other), ("r3", "")):
        assert store.accept(new(name, owner), idempotency_key="1\0\ud800", body_digest="d").id == name
    assert store.find(key_id, "2", "d") is None


def test_a_refused_request_does_not_use_up_its_idempotency_key(
    store: Store, ledger: Ledger, key_id: str
) -> None:
    """A request that was refused for lack of credits is accepted after a top-up."""
    with pytest.raises(CreditsError):
        store.accept(new("r1", key_id, 101), idempotency_key="k", body_digest="d")
    ledger.add(key_id, 1)
    assert store.accept(new("r2", key_id, 101), idempotency_key="k", body_digest="d").id == "r2"


def test_the_same_request_sent_16_times_simultaneously_is_one(
    store: Store, ledger: Ledger, key_id: str
) -> None:
    """Retries that race make one record and one charge, and all get that record's id."""

    def send(number: int) -> str:
        record = new(f"r{number}", key_id, 10)
        return store.accept(record, idempotency_key="k", body_digest="d").id

    answers = together(16, send)
    assert len(set(answers)) == 1, answers
    assert ledger.balance(key_id) == 90
    assert kinds(ledger, key_id) == ["reserve"]


def test_an_id_that_is_taken_is_a_bug_and_not_a_repeat(store: Store) -> None:
    """Only an idempotency key makes two requests one."""
    store.accept(new("r"))
    with pytest.raises(IntegrityError):
        store.accept(new("r"), idempotency_key="k")


def test_another_key_cannot_see_a_request(store: Store, database: Database, key_id: str) -> None:
    """A caller with another key, or without one, gets 404 even if it knows the id."""
    other = Keys(database).create("bob")[0].id
    store.accept(new("r", key_id))
    assert store.get("r", key_id).id == "r"
    for stranger in (other, "", "unknown"):
        with pytest.raises(NotFoundError, match="there is no such request, or it has expired"):
            store.get("r", stranger)


@pytest.mark.parametrize("name", ["", "unknown", "\0", "\ud800", "r\0", "../r", "x" * 10_000])
def test_an_id_of_any_kind_is_answered_with_404(store: Store, name: str) -> None:
    """No text in a URL may cause a 500."""
    with pytest.raises(NotFoundError):
        store.get(name, "")
    with pytest.raises(NotFoundError):
        store.get_by_token(name, "t")


def test_pictures_open_with_their_own_token_only(store: Store) -> None:
    """A picture's URL works in a browser, and gives access to no other picture."""
    store.accept(new("r1", token="t1"))
    store.accept(new("r2", token="t2"))
    store.accept(new("r3"))
    assert store.get_by_token("r1", "t1").id == "r1"
    for name, token in (
        ("r1", "t2"),
        ("r1", ""),
        ("r1", "t1é"),
        ("r1", "\ud800"),
        ("r3", ""),
        ("r3", "None"),
    ):
        with pytest.raises(NotFoundError):
            store.get_by_token(name, token)


def test_a_restart_recovers_the_requests_under_way(store: Store, ledger: Ledger, key_id: str) -> None:
    """v1 callers are gone and get their money back; v2 requests are painted, oldest first."""
    for name, mode in (("v1-waiting", "v1"), ("v1-running", "v1"), ("b", "v2"), ("a", "v2"), ("done", "v2")):
        store.accept(new(name, key_id, 10, mode), idempotency_key=name, body_digest="d")
    for name in ("v1-running", "a", "done"):
        store.begin(name)
    store.finish("done", outputs=[], inference_s=1.0)
    waiting = store.recover()
    assert [(record.id, record.state, record.attempts) for record in waiting] == [
        ("b", "QUEUED", 0),
        ("a", "QUEUED", 1),
    ]
    for name in ("v1-waiting", "v1-running"):
        failed = store.get(name, key_id)
        assert (failed.state, failed.error_status) == ("FAILED", 503)
        assert store.find(key_id, name, "d") is None, "a retry must be painted"
    assert ledger.balance(key_id) == 100 - 3 * 10
    assert Counter(kinds(ledger, key_id)) == {"reserve": 5, "settle": 1, "refund": 2}
    assert store.recover() == waiting


def test_expired_requests_and_then_their_pictures_go(
    store: Store, database: Database, ledger: Ledger, key_id: str, clock: Clock
) -> None:
    """Records last an hour and pictures a week; the ledger stays, and a waiting request is never swept."""
    store.accept(new("r", key_id, 10, token="t", prompt="secret wish"), idempotency_key="k", body_digest="d")
    store.accept(new("waiting", key_id, 10))
    store.finish("r", outputs=[{"file_name": "0.png"}], inference_s=1.0)
    assert store.sweep(clock.now + HOUR - 1, HOUR, WEEK) == []
    assert store.get("r", key_id).state == "COMPLETED"
    assert store.sweep(clock.now + HOUR, HOUR, WEEK) == []
    with pytest.raises(NotFoundError):
        store.get("r", key_id)
    assert store.find(key_id, "k", "d") is None
    expired = store.get_by_token("r", "t")
    assert (expired.outputs, expired.fields) == ([{"file_name": "0.png"}], {})
    assert store.sweep(clock.now + WEEK, HOUR, WEEK) == ["r"]
    assert store.sweep(clock.now + WEEK, HOUR, WEEK) == ["r"], "returned until they are deleted"
    store.pictures_deleted(["r"])
    with pytest.raises(NotFoundError):
        store.get_by_token("r", "t")
    assert store.sweep(clock.now + WEEK, HOUR, WEEK) == []
    with database.read() as connection:
        assert connection.scalars(select(requests_table.c.id)).all() == ["waiting"]
    assert kinds(ledger, key_id) == ["reserve", "reserve", "settle"]


def test_pictures_may_be_kept_shorter_than_records(store: Store, clock: Clock) -> None:
    """An operator may keep pictures for a minute and let clients ask for an hour how a request ended."""
    store.accept(new("r", token="t"))
    store.finish("r", outputs=[], inference_s=1.0)
    assert store.sweep(clock.now + 60, HOUR, 60.0) == ["r"]
    store.pictures_deleted(["r"])
    assert store.sweep(clock.now + 60, HOUR, 60.0) == []
    assert store.get("r", "").state == "COMPLETED"


@pytest.mark.parametrize("table", ["requests", "keys", "ledger"])
def test_a_crash_inside_a_transaction_leaves_both_sides_as_they_were(
    store: Store, database: Database, ledger: Ledger, key_id: str, table: str
) -> None:
    """No crash can separate the debit, its entry and the request itself."""
    store.accept(new("r", key_id, 10))

    def crash(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith((f"INSERT INTO {table}", f"UPDATE {table}")):
            raise ZeroDivisionError

    event.listen(database.engine, "after_cursor_execute", crash)
    for change in (
        lambda: store.accept(new("s", key_id, 10)),
        lambda: store.fail("r", error="e", status=500),
    ):
        with pytest.raises(ZeroDivisionError):
            change()
    event.remove(database.engine, "after_cursor_execute", crash)
    assert (ledger.balance(key_id), kinds(ledger, key_id), ledger.check()) == (90, ["reserve"], [])
    assert [record.id for record in store.recover()] == ["r"]


@pytest.mark.slow
def test_killed_ten_times_at_random_nothing_is_lost_or_paid_twice(
    database: Database, ledger: Ledger, store: Store, key_id: str, tmp_path: Path
) -> None:
    """A server may be killed under load: the ledger sums, v2 requests end once, and v1 is refunded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.store_loop"])
    ledger.add(key_id, 10**9)
    url = database.engine.url.render_as_string(hide_password=False)
    log, choice = tmp_path / "log", random.Random()
    accepted: dict[str, str] = {}
    for seed in range(10):
        log.write_bytes(b"")
        process = context.Process(target=accept_and_end, args=(url, key_id, log, seed))
        process.start()
        wait_for_lines(log, choice.randint(1, 8))
        process.join(choice.random() / 30)
        process.kill()
        process.join()
        assert process.exitcode == -9
        accepted |= dict(line.split() for line in log.read_text().splitlines())
        for record in store.recover():
            assert ledger.check() == []
            assert store.begin(record.id) is not None
            assert store.finish(record.id, outputs=[], inference_s=1.0)
    with database.read() as connection:
        rows = {row.id: row for row in connection.execute(select(requests_table))}
        entries = Counter[tuple[str | None, str]]()
        for request_id, kind in connection.execute(select(ledger_table.c.request_id, ledger_table.c.kind)):
            entries[request_id, kind] += 1
    assert accepted.keys() <= rows.keys()
    for name, row in rows.items():
        assert row.state in ("COMPLETED", "FAILED", "CANCELLED")
        refunds, settles = entries[name, "refund"], entries[name, "settle"]
        assert refunds == (row.cost_micro > 0 and row.state == "FAILED")
        assert settles == (row.cost_micro > 0 and row.state != "FAILED")
        assert entries[name, "reserve"] == (row.cost_micro > 0)
    assert ledger.check() == []


def stored(name: str, key_id: str, size_bytes: int) -> Record:
    return replace(new(name, key_id), stored_bytes=size_bytes)


def test_a_key_stores_no_more_pictures_than_it_may(store: Store, clock: Clock, key_id: str) -> None:
    """One key could fill the disk within the week that pictures are kept; the others are not affected."""
    store.accept(stored("a", key_id, 60), max_stored_bytes=100)
    with pytest.raises(RateError, match=r"INPAINT_MAX_STORED_BYTES_PER_KEY.*wait until.*or use v1") as caught:
        store.accept(stored("b", key_id, 41), max_stored_bytes=100)
    assert caught.value.retry_after_s > 0
    store.accept(stored("c", key_id, 40), max_stored_bytes=100)
    store.accept(stored("d", "", 100), max_stored_bytes=100)
    store.accept(new("e", key_id, mode="v1"), max_stored_bytes=100)  # stores nothing
    with pytest.raises(NotFoundError):
        store.get("b", key_id)


def test_painted_and_converted_pictures_count_until_they_are_deleted(
    store: Store, clock: Clock, key_id: str
) -> None:
    """What a request paints takes more room than what was sent."""
    store.accept(stored("a", key_id, 10), max_stored_bytes=100)
    store.begin("a")
    assert store.finish("a", outputs=[{"file_size": 30}, {"file_size": 30}], inference_s=0)
    assert store.get("a", key_id).stored_bytes == 70
    assert store.add_stored("a", key_id, 20, 100)
    assert not store.add_stored("a", key_id, 11, 100)
    assert store.get("a", key_id).stored_bytes == 90
    with pytest.raises(RateError):
        store.accept(stored("b", key_id, 11), max_stored_bytes=100)
    clock.now += WEEK
    assert store.sweep(clock.now, HOUR, WEEK) == ["a"]
    store.pictures_deleted(["a"])
    assert not store.add_stored("a", key_id, 5, 100), "its folder is gone"
    store.accept(stored("b", key_id, 100), max_stored_bytes=100)


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.002)
