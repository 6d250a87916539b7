"""Heartbeats, leases and takeovers: several servers as their database sees them."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inpaint.errors import BusyError
from server.storage.database import Database
from server.storage.ledger import Ledger
from server.storage.peers import ONLY_SERVER, HeartbeatReply, Peers
from server.storage.requests import Record, Store
from tests.support.database_snapshot import check, emptied, read
from tests.support.fleet import Line

pytest_plugins = ["tests.support.postgres", "tests.support.served_fixtures", "tests.support.fleet_fixtures"]

LEASE_S = 10.0
LOOK_S = 4.5  # less than half a lease, so that a server can tell that another is silent


class Clock:
    """A clock of one host; those of several hosts need not agree."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Host:
    """One server's side of the database."""

    def __init__(self, database: Database, now: float = 0.0) -> None:
        self.clock = Clock(now)
        self.peers = Peers(database, LEASE_S, clock=self.clock)
        self.store = Store(database, server_id=self.peers.server_id)
        self.peers.beat({})

    @property
    def name(self) -> str:
        return self.peers.server_id

    def accept(self, name: str, key_id: str = "", cost_micro: int = 0, mode: str = "v2") -> Record:
        record = Record.new(id=name, key_id=key_id, mode=mode, fields={}, seeds=[], cost_micro=cost_micro)
        return self.store.accept(record, idempotency_key=name, body_digest="d")

    def look(self, seconds: float = LOOK_S, **steps: int) -> HeartbeatReply:
        self.clock.now += seconds
        return self.peers.beat(steps)

    def looks(self, times: int) -> HeartbeatReply:
        for _ in range(times - 1):
            self.look()
        return self.look()


@pytest.fixture
def shared(migrated_postgres: str) -> Iterator[Database]:
    """Return a Postgres database with empty tables."""
    with Database(migrated_postgres) as database:
        emptied(database, 0, 0)
        yield database


# Leases.


def test_a_server_is_dead_after_a_lease_of_silence_and_not_before(shared: Database) -> None:
    """The observer's own clock counts, however far it is from the other's."""
    one, other = Host(shared, now=1e6), Host(shared, now=-50.0)
    assert other.look(0.0).dead == {}
    assert other.look(4.9).dead == {}
    assert other.look(4.9).dead == {}
    assert other.look(0.3).dead == {one.name: 0}
    one.look(0.0)
    assert other.look(1.0).dead == {}, "a new heartbeat arrived"
    assert other.look(4.9).dead == {}


def test_each_heartbeat_counts_on_any_clock(shared: Database) -> None:
    """A host whose clock stands still, or is an hour ahead, is alive as long as it beats."""
    one, other = Host(shared, now=3600.0), Host(shared)
    for _ in range(20):
        one.look(0.0)
        assert other.look().dead == {}


def test_a_server_that_could_not_look_takes_no_other_for_dead(shared: Database) -> None:
    """After the database was unreachable, or the host suspended, live servers' heartbeats are old too."""
    one, other = Host(shared), Host(shared)
    other.look(1.0)
    assert other.look(LEASE_S * 100).dead == {}
    one.look(LEASE_S * 100)
    assert other.look().dead == {}
    assert other.looks(3).dead == {one.name: 1}, "it has now been silent for a lease"


def test_the_only_server_has_no_peers(tmp_path: Path) -> None:
    """SQLite has one server: after a restart it takes up its own requests."""
    with Database(f"sqlite:///{tmp_path / 'inpaint.db'}") as database:
        database.migrate()
        host = Host(database)
        assert host.name == ONLY_SERVER
        host.accept("r")
        assert host.looks(10) == HeartbeatReply()
        assert [record.id for record in Store(database).recover()] == ["r"]


# Taking over.


def test_the_requests_of_a_dead_server_are_taken_over(shared: Database) -> None:
    """v2 waits again, v1 is refunded and may be sent again; the requests of other servers are not touched."""
    (key_id,) = emptied(shared, 1, 100)
    dead, other = Host(shared), Host(shared)
    for name, mode in (("waits", "v2"), ("runs", "v2"), ("v1", "v1"), ("v1-runs", "v1"), ("done", "v2")):
        dead.accept(name, key_id, 10, mode)
    other.accept("mine", key_id, 10)
    for name in ("runs", "v1-runs", "done"):
        assert dead.store.begin(name)
    assert dead.store.finish("done", outputs=[], inference_s=1.0)
    reply = other.looks(4)
    taken = other.store.recover(reply.dead)
    assert [(r.id, r.state, r.attempts) for r in taken] == [("waits", "QUEUED", 0), ("runs", "QUEUED", 1)]
    books = read(shared)
    check(books)
    assert books.balances[key_id] == 100 - 4 * 10
    assert other.store.find(key_id, "v1", "d") is None
    assert books.unfinished(other.name) == {"waits", "runs", "mine"}
    for name in ("waits", "runs"):  # the dead server was only slow
        assert not dead.store.begin(name)
        dead.store.requeue(name)
        assert not dead.store.fail(name, error="e", status=500)
        assert other.store.begin(name)
        assert not dead.store.finish(name, outputs=[], inference_s=1.0)
        assert other.store.finish(name, outputs=[], inference_s=1.0)
    assert dead.look(1.0, waits=3, runs=4, mine=5).lost == {"waits", "runs", "mine"}
    check(read(shared))


def test_a_heartbeat_at_the_last_moment_saves_a_server(shared: Database) -> None:
    """A heartbeat between another server's look and its takeover prevents the takeover."""
    slow, other = Host(shared), Host(shared)
    slow.accept("r")
    reply = other.looks(4)
    assert reply.dead == {slow.name: 0}
    slow.look(0.0)
    assert other.store.recover(reply.dead) == []
    assert slow.store.begin("r")


def test_a_cancellation_that_a_dead_server_missed_is_carried_out(shared: Database) -> None:
    """A caller that cancelled before the takeover does not pay for the picture."""
    (key_id,) = emptied(shared, 1, 100)
    dead, other = Host(shared), Host(shared)
    dead.accept("r", key_id, 10)
    dead.store.begin("r")
    other.store.ask_cancel("r")
    assert other.store.recover(other.looks(4).dead) == []
    row = read(shared).requests["r"]
    assert (row.state, row.error, row.error_status) == ("CANCELLED", "cancelled by the caller", 422)
    assert Ledger(shared).balance(key_id) == 100


def test_several_take_over_simultaneously_and_each_request_goes_to_one(shared: Database) -> None:
    """Every survivor sees the same dead servers; none waits for another, and no request is taken twice."""
    ids = emptied(shared, 3, 1000)
    dead = [Host(shared) for _ in range(3)]
    others = [Host(shared) for _ in range(4)]
    for number in range(60):
        dead[number % 3].accept(f"r{number}", ids[number * 7 % 3], 1, ["v1", "v2"][number % 2])
    for _ in range(4):
        deaths = [other.look().dead for other in others]
    found: list[list[Record]] = []
    threads = [
        threading.Thread(target=lambda o=other, d=dead: found.append(o.store.recover(d)))  # type: ignore[misc]
        for other, dead in zip(others, deaths, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4, "one of the threads failed"
    assert sorted(r.id for some in found for r in some) == sorted(f"r{n}" for n in range(60) if n % 2)
    check(read(shared))


# A database that is unreachable.


def test_an_outcome_that_could_not_be_written_is_written_later(line: Line) -> None:
    """A caller that got 503 is not charged, even if the commit itself succeeded."""
    with Database(line.url) as database:
        database.migrate()
        (key_id,) = emptied(database, 1, 100)
        host = Host(database)
        host.accept("runs", key_id, 10, "v1")
        line.cut_at_commit = True
        with pytest.raises(BusyError):
            host.accept("doubtful", key_id, 10)
        with pytest.raises(BusyError):
            host.store.fail("runs", error="no memory", status=503)
        line.mend()
        assert Ledger(database).balance(key_id) == 80, "both prices were committed"
        host.store.catch_up()
        books = read(database)
        check(books)
        assert books.balances[key_id] == 100
        assert {row.state for row in books.requests.values()} == {"FAILED"}
        assert host.accept("doubtful-2", key_id, 100).state == "QUEUED"
        host.store.catch_up()
        assert host.store.get("doubtful-2", key_id).state == "QUEUED"


def test_a_begin_whose_answer_was_lost_counts_once(line: Line) -> None:
    """A request that began without the server's knowledge must not stay PROCESSING without being painted."""
    with Database(line.url) as database:
        database.migrate()
        host = Host(database)
        host.accept("r")
        line.cut_at_commit = True
        with pytest.raises(BusyError):
            host.store.begin("r")
        line.mend()
        assert read(database).requests["r"].state == "PROCESSING"
        begun = host.store.begin_again("r")
        assert begun is not None
        assert begun.attempts == 1


def test_a_database_host_that_disappears_is_noticed(migrated_postgres: str) -> None:
    """The connection has keepalives and a timeout; an operator's own numbers, in the URL, win."""
    for more, seconds in (("", "10"), ("&keepalives_idle=3", "3")):
        with Database(migrated_postgres + more) as database, database.read() as connection:
            options = connection.connection.driver_connection.info.get_parameters()
            assert (options["keepalives_idle"], options["tcp_user_timeout"]) == (seconds, "25000")
