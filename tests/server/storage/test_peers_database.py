"""Who lives and who takes over: several servers as their database sees them."""

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
LOOK_S = 4.5  # often enough to know that the other is silent


class Clock:
    """Each host has its own, and they need not agree."""

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
    """A Postgres without a row."""
    with Database(migrated_postgres) as database:
        emptied(database, 0, 0)
        yield database


# Who is dead.


def test_a_server_is_dead_after_a_lease_of_silence_and_not_before(shared: Database) -> None:
    """By the looker's own clock, however far that is from the other's."""
    one, other = Host(shared, now=1e6), Host(shared, now=-50.0)
    assert other.look(0.0).dead == {}
    assert other.look(4.9).dead == {}
    assert other.look(4.9).dead == {}
    assert other.look(0.3).dead == {one.name: 0}
    one.look(0.0)
    assert other.look(1.0).dead == {}, "it was heard of again"
    assert other.look(4.9).dead == {}


def test_each_heartbeat_counts_whatever_the_clocks_say(shared: Database) -> None:
    """A host whose clock stands still, or that of one an hour ahead, is alive as long as it beats."""
    one, other = Host(shared, now=3600.0), Host(shared)
    for _ in range(20):
        one.look(0.0)
        assert other.look().dead == {}


def test_whoever_did_not_look_itself_knows_of_nobodys_silence(shared: Database) -> None:
    """After the database was away, or the host asleep, all heartbeats are old: nobody is dead for that."""
    one, other = Host(shared), Host(shared)
    other.look(1.0)
    assert other.look(LEASE_S * 100).dead == {}
    one.look(LEASE_S * 100)
    assert other.look().dead == {}
    assert other.looks(3).dead == {one.name: 1}, "and now it was silent for as long as it takes"


def test_a_server_alone_hears_of_nobody(tmp_path: Path) -> None:
    """SQLite has one server: what it left is its own."""
    with Database(f"sqlite:///{tmp_path / 'inpaint.db'}") as database:
        database.migrate()
        host = Host(database)
        assert host.name == ONLY_SERVER
        host.accept("r")
        assert host.looks(10) == HeartbeatReply()
        assert [record.id for record in Store(database).recover()] == ["r"]


# Taking over.


def test_what_the_dead_left_is_taken_over(shared: Database) -> None:
    """v2 waits again, v1 is refunded and may be sent again; what others have is not touched."""
    (key_id,) = emptied(shared, 1, 100)
    dead, other = Host(shared), Host(shared)
    for name, mode in (("waits", "v2"), ("runs", "v2"), ("line", "v1"), ("line-runs", "v1"), ("done", "v2")):
        dead.accept(name, key_id, 10, mode)
    other.accept("mine", key_id, 10)
    for name in ("runs", "line-runs", "done"):
        assert dead.store.begin(name)
    assert dead.store.finish("done", outputs=[], inference_s=1.0)
    pulse = other.looks(4)
    taken = other.store.recover(pulse.dead)
    assert [(r.id, r.state, r.attempts) for r in taken] == [("waits", "QUEUED", 0), ("runs", "QUEUED", 1)]
    books = read(shared)
    check(books)
    assert books.balances[key_id] == 100 - 4 * 10
    assert other.store.find(key_id, "line", "d") is None
    assert books.unfinished(other.name) == {"waits", "runs", "mine"}
    for name in ("waits", "runs"):  # the dead one was only slow
        assert not dead.store.begin(name)
        dead.store.requeue(name)
        assert not dead.store.fail(name, error="e", status=500)
        assert other.store.begin(name)
        assert not dead.store.finish(name, outputs=[], inference_s=1.0)
        assert other.store.finish(name, outputs=[], inference_s=1.0)
    assert dead.look(1.0, waits=3, runs=4, mine=5).lost == {"waits", "runs", "mine"}
    check(read(shared))


def test_a_heartbeat_at_the_last_moment_saves_a_server(shared: Database) -> None:
    """Between the look and the takeover it was heard of: nothing of it is taken."""
    slow, other = Host(shared), Host(shared)
    slow.accept("r")
    pulse = other.looks(4)
    assert pulse.dead == {slow.name: 0}
    slow.look(0.0)
    assert other.store.recover(pulse.dead) == []
    assert slow.store.begin("r")


def test_a_cancel_that_was_asked_of_the_dead_is_carried_out(shared: Database) -> None:
    """Nobody pays for a picture that was not wanted any more before anybody took it over."""
    (key_id,) = emptied(shared, 1, 100)
    dead, other = Host(shared), Host(shared)
    dead.accept("r", key_id, 10)
    dead.store.begin("r")
    other.store.ask_cancel("r")
    assert other.store.recover(other.looks(4).dead) == []
    row = read(shared).requests["r"]
    assert (row.state, row.error, row.error_status) == ("CANCELLED", "cancelled by the caller", 422)
    assert Ledger(shared).balance(key_id) == 100


def test_several_take_over_at_once_and_each_request_goes_to_one(shared: Database) -> None:
    """Every survivor sees the same dead; none waits for another, and no request is given twice."""
    ids = emptied(shared, 3, 1000)
    dead = [Host(shared) for _ in range(3)]
    others = [Host(shared) for _ in range(4)]
    for number in range(60):
        dead[number % 3].accept(f"r{number}", ids[number * 7 % 3], 1, ["v1", "v2"][number % 2])
    for _ in range(4):
        pulses = [other.look().dead for other in others]
    found: list[list[Record]] = []
    threads = [
        threading.Thread(target=lambda o=other, p=pulse: found.append(o.store.recover(p)))  # type: ignore[misc]
        for other, pulse in zip(others, pulses, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4, "one of them met an error"
    assert sorted(r.id for some in found for r in some) == sorted(f"r{n}" for n in range(60) if n % 2)
    check(read(shared))


# A database that is away.


def test_what_could_not_be_written_down_is_made_up_for(line: Line) -> None:
    """Whoever was told to come again is not charged, whatever became of the commit itself."""
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
        assert Ledger(database).balance(key_id) == 80, "it was committed"
        host.store.catch_up()
        books = read(database)
        check(books)
        assert books.balances[key_id] == 100
        assert {row.state for row in books.requests.values()} == {"FAILED"}
        assert host.accept("doubtful-2", key_id, 100).state == "QUEUED"
        host.store.catch_up()
        assert host.store.get("doubtful-2", key_id).state == "QUEUED"


def test_a_begin_whose_answer_was_lost_counts_once(line: Line) -> None:
    """The database began it, the server did not hear of it: it is not left PROCESSING with nobody at it."""
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


def test_a_database_that_goes_without_a_word_is_noticed(migrated_postgres: str) -> None:
    """The operating system is told to look; an operator's own numbers, in the URL, win."""
    for more, seconds in (("", "10"), ("&keepalives_idle=3", "3")):
        with Database(migrated_postgres + more) as database, database.read() as connection:
            line = connection.connection.driver_connection.info.get_parameters()
            assert (line["keepalives_idle"], line["tcp_user_timeout"]) == (seconds, "25000")
