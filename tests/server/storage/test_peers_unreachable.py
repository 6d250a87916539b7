"""A database that is unreachable for a while stops no server, charges no failed request and loses none."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx2
import pytest

from tests.server.dialects.test_segmind_v2 import V1, V2, ended, status_of, submitted
from tests.support.database_snapshot import check, read
from tests.support.fleet import Fleet, Line
from tests.support.served import FakeEngine, Served, body, eventually

pytest_plugins = ["tests.support.postgres", "tests.support.served_fixtures", "tests.support.fleet_fixtures"]

Background = Callable[..., "Future[Any]"]
Lines = Callable[[str], Line]
COST = 22 * 48 * 32 / 1e6


def held() -> FakeEngine:
    """Return an engine that paints only when the test says so."""
    engine = FakeEngine()
    engine.held = True
    return engine


def through(fleet: Fleet, line: Line, name: str, engine: FakeEngine, **settings: Any) -> Served:
    """Start a server that reaches the database through this line."""
    return fleet.start(name, engine, database_url=line.url, **settings)


def wait(seconds: float) -> None:
    """Let time pass; these tests are about time, so there is no event to wait for."""
    threading.Event().wait(seconds)


def test_what_is_painted_meanwhile_is_written_down_afterwards(fleet: Fleet, lines: Lines) -> None:
    """The picture is there and is paid once; a new request meanwhile gets 503 and costs nothing."""
    line, engine = lines(fleet.shared["database_url"]), held()
    served = through(fleet, line, "a", engine, lease_s=2.0)
    with served.calling(key=fleet.token) as client:
        request_id, waits = submitted(client), submitted(client, seed=8)
        tickets = [engine.next(), engine.next()]
        line.cut()
        served.do(engine.paint, tickets[0])
        answer = client.post(V2, json=body())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert served.client.get("/livez").status_code == 200
        assert client.get(f"/v2/requests/{request_id}").status_code == 503
        wait(0.5)
        line.mend()
        assert ended(client, request_id).json()["status"] == "COMPLETED"
        assert status_of(client, waits) == "PROCESSING"
        served.do(engine.paint, tickets[1])
        assert ended(client, waits).json()["status"] == "COMPLETED"
        engine.held = False
        assert ended(client, submitted(client)).json()["status"] == "COMPLETED"
    assert fleet.ledger.balance(fleet.key) == 100_000_000 - 3 * round(COST * 1e6)
    assert {record.attempts for record in fleet.records().values()} == {1}
    before = fleet.beats()
    eventually(lambda: fleet.beats() != before)
    check(read(fleet.database))


def test_a_failure_that_could_not_be_written_down_is_refunded_afterwards(
    fleet: Fleet, lines: Lines, background: Background
) -> None:
    """A v1 caller that got 503 must not pay once the database is back."""
    line, engine = lines(fleet.shared["database_url"]), held()
    served = through(fleet, line, "a", engine)
    with served.calling(key=fleet.token) as client:
        answer = background(client.post, V1, json=body())
        ticket = engine.next()
        line.cut()
        served.do(engine.paint, ticket)
        assert answer.result().status_code == 503
        line.mend()
        eventually(lambda: fleet.ledger.balance(fleet.key) == 100_000_000)
    check(read(fleet.database))


@pytest.mark.slow
def test_no_server_is_taken_for_dead_because_the_database_was_unreachable(fleet: Fleet, lines: Lines) -> None:
    """A database that is back after more than a lease has only old heartbeats; no request may move."""
    url = fleet.shared["database_url"]
    ways, engines = [lines(url), lines(url)], [held(), held()]
    both = [
        through(fleet, way, name, engine, lease_s=5.0)
        for way, name, engine in zip(ways, "ab", engines, strict=True)
    ]
    name = both[0].parts.peers.server_id
    with both[0].calling(key=fleet.token) as a, both[1].calling(key=fleet.token) as b:
        ids = [submitted(a), submitted(b)]
        tickets = [engine.next() for engine in engines]
        ways[1].cut()
        before = fleet.beats()
        eventually(lambda: fleet.beats()[name] > before[name] + 1)  # it has seen the other's last heartbeat
        ways[0].cut()
        wait(6.0)
        before = fleet.beats()
        ways[0].mend()
        eventually(lambda: fleet.beats()[name] > before[name])
        ways[1].mend()
        eventually(lambda: all(fleet.beats()[other] > beats + 1 for other, beats in before.items()))
        for served, engine, ticket in zip(both, engines, tickets, strict=True):
            served.do(engine.paint, ticket)
        assert [ended(a, name).json()["status"] for name in ids] == ["COMPLETED"] * 2
    assert [len(engine.requests) for engine in engines] == [1, 1]


def test_a_busy_server_is_not_a_dead_one(fleet: Fleet) -> None:
    """Its heartbeats go on while every other thread waits, for example for a picture store that hangs."""
    served, release = fleet.start("a", lease_s=2.0), threading.Event()
    try:
        for _ in range(64):
            served.loop.call_soon_threadsafe(served.loop.run_in_executor, None, release.wait)
        before = fleet.beats()
        eventually(lambda: all(fleet.beats()[name] > beats + 3 for name, beats in before.items()))
    finally:
        release.set()


def test_a_server_leaves_only_after_a_heartbeat_that_has_started(fleet: Fleet) -> None:
    """Else it would seem alive after it left, and its requests would wait for a whole lease."""
    served = fleet.start("a")
    peers, begun, release = served.parts.peers, threading.Event(), threading.Event()
    beat = peers.beat

    def slow(steps: Any) -> Any:
        begun.set()
        release.wait(10)
        return beat(steps)

    peers.beat = slow  # type: ignore[method-assign]
    assert begun.wait(10)
    served.drain()
    wait(0.3)
    release.set()
    served.join()
    assert fleet.beats() == {}


def test_a_request_that_just_began_when_the_server_stopped_does_not_count_as_tried(fleet: Fleet) -> None:
    """Else two stops at that moment would look as if the request crashed servers, and fail it."""
    served, release, begun = fleet.start("a"), threading.Event(), threading.Event()
    store = served.parts.store
    begin = store.begin

    def slow(request_id: str) -> Any:
        record = begin(request_id)
        begun.set()
        release.wait(10)
        return record

    store.begin = slow  # type: ignore[method-assign]
    with served.calling(key=fleet.token) as client:
        request_id = submitted(client)
        assert begun.wait(10)
        served.drain()
        wait(0.3)
        release.set()
        served.join()
    record = fleet.records()[request_id]
    assert (record.state, record.attempts) == ("QUEUED", 0)


def test_connections_that_drop_all_the_time_lose_and_double_nothing(
    fleet: Fleet, lines: Lines, background: Background
) -> None:
    """Clients that retry with their Idempotency-Key get one picture each, for one price."""
    line = lines(fleet.shared["database_url"])
    served = through(fleet, line, "a", FakeEngine())
    choice, over = random.Random(7), threading.Event()

    def drop() -> None:
        while not over.wait(choice.uniform(0.1, 0.6)):
            line.drop()

    def ask(number: int) -> list[str]:
        with served.calling(key=fleet.token, Idempotency_Key=str(number)) as client:
            return [once(client, f"{number}-{turn}") for turn in range(4)]

    def once(client: httpx2.Client, name: str) -> str:
        while True:
            answer = client.post(V2, json=body(), headers={"idempotency-key": name})
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                return str(answer.json()["request_id"])

    dropping = background(drop)
    ids = [name for asking in [background(ask, n) for n in range(3)] for name in asking.result()]
    over.set()
    dropping.result()
    assert len(set(ids)) == len(ids)
    eventually(lambda: all(record.ended_at for record in fleet.records().values()))
    records = fleet.records()
    assert [records[name] for name in ids if records[name].state != "COMPLETED"] == []
    books = read(fleet.database)
    check(books)
    paid = sum(row.cost_micro for row in books.requests.values() if row.state == "COMPLETED")
    assert books.balances[fleet.key] == 100_000_000 - paid
    assert {row.state for name, row in books.requests.items() if name not in ids} <= {"FAILED"}
