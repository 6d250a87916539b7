"""Several servers with one database and one picture store: a client gets the same answers from each."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx2
import pytest

from tests.server.dialects.test_segmind_v2 import V1, V2, ended, events_of, status_of, submitted
from tests.support.fleet import Fleet
from tests.support.served import FakeEngine, Served, body, colour_of, eventually, opened

pytest_plugins = ["tests.support.postgres", "tests.support.served_fixtures", "tests.support.fleet_fixtures"]

Background = Callable[..., "Future[Any]"]
SAME = {"idempotency-key": "once"}


def held() -> FakeEngine:
    """Return an engine that paints only when the test says so."""
    engine = FakeEngine()
    engine.held = True
    return engine


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def paint(served: Served) -> None:
    """Paint the server's next request."""
    engine = engine_of(served)
    served.do(engine.paint, engine.next())


def test_a_request_is_followed_through_any_server(fleet: Fleet, background: Background) -> None:
    """A load balancer may send each of a client's calls to another server: status, wait, picture."""
    first, second = fleet.start("a", held()), fleet.start("b", held())
    with first.calling(key=fleet.token) as a, second.calling(key=fleet.token) as b:
        request_id = submitted(a, SAME)
        ticket = engine_of(first).next()
        eventually(lambda: status_of(b, request_id) == "PROCESSING")
        again = b.post(V2, json=body(), headers=SAME)
        assert again.json()["request_id"] == request_id
        waiting = background(b.post, V1, json=body(), headers=SAME)
        assert not waiting.done()
        first.do(engine_of(first).paint, ticket)
        painted = waiting.result()
        assert painted.status_code == 200
        assert opened(painted.content).getpixel((40, 16)) is not None
        answer = ended(b, request_id)
        assert answer.json()["status"] == "COMPLETED"
        assert answer.json()["images"][0]["url"].startswith(second.url)
        assert b.get(answer.json()["output"]).content == painted.content
        assert a.get(f"/v2/requests/{request_id}/images/0").content == painted.content
    assert engine_of(second).requests == []
    assert fleet.kinds(request_id) == ["reserve", "settle"]


@pytest.mark.slow
def test_events_come_through_any_server(fleet: Fleet, background: Background) -> None:
    """The page's progress bar moves although another server paints, and the stream ends with the answer."""
    first, second = fleet.start("a", held()), fleet.start("b", held())
    with first.calling(key=fleet.token) as a, second.calling(key=fleet.token) as b:
        request_id = submitted(a)
        engine = engine_of(first)
        ticket = engine.next()
        events = events_of(b, request_id)
        first.do(engine.step, ticket, 5)
        assert next(events) == ("step", {"step": 5, "steps": 22, "preview": None})
        first.do(engine.step, ticket, 4)
        assert next(events) == ("step", {"step": 9, "steps": 22, "preview": None})
        first.do(engine.paint, ticket)
        *steps, (name, data) = list(events)
        assert all(step[0] == "step" for step in steps)
        assert (name, data["status"], data["request_id"]) == ("done", "COMPLETED", request_id)


def test_another_keys_request_does_not_exist_on_any_server(fleet: Fleet) -> None:
    """Every route of every server answers 404."""
    first, second = fleet.start("a"), fleet.start("b")
    _, other = fleet.new_key(1.0)
    with first.calling(key=fleet.token) as a, second.calling(key=other) as theirs:
        request_id = submitted(a)
        ended(a, request_id)
        path = f"/v2/requests/{request_id}"
        paths = [path, f"{path}/status", f"{path}/events", f"{path}/images/0", f"/v1/requests/{request_id}"]
        for response in [*(theirs.get(p) for p in paths), theirs.delete(path)]:
            assert response.status_code == 404
        assert theirs.post(V2, json=body(), headers=SAME).json()["request_id"] != request_id


@pytest.mark.slow
@pytest.mark.parametrize("stands", ["painting", "waiting", "without an engine"])
def test_a_cancel_reaches_the_server_that_has_the_request(fleet: Fleet, stands: str) -> None:
    """It takes a few seconds, also for a request that waits; a request without a step is free."""
    engine = FakeEngine(loaded=stands != "without an engine")
    engine.held = True
    first, second = fleet.start("a", engine, max_rows=1), fleet.start("b", held())
    with first.calling(key=fleet.token) as a, second.calling(key=fleet.token) as b:
        before = [submitted(a) for _ in range(2 if stands == "waiting" else 0)]  # as many as get a turn
        for _ in before:
            engine.next()
        request_id = submitted(a)
        if stands == "painting":
            engine.next()
            eventually(lambda: status_of(b, request_id) == "PROCESSING")
        started = time.monotonic()
        answer = b.delete(f"/v2/requests/{request_id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "FAILED")
        assert answer.json()["error"] == "cancelled by the caller" or stands == "painting"
        assert time.monotonic() - started < 20
        assert fleet.kinds(request_id) == ["reserve", "refund"]
        eventually(lambda: list(first.running.queue._live) == before)
        assert [status_of(b, name) for name in before] == ["PROCESSING"] * len(before)


def test_a_cancellation_of_an_ended_request_changes_nothing(fleet: Fleet) -> None:
    """The same holds for a cancellation through another server."""
    first, second = fleet.start("a"), fleet.start("b")
    with first.calling(key=fleet.token) as a, second.calling(key=fleet.token) as b:
        request_id = submitted(a)
        before = ended(a, request_id).json()
        assert b.delete(f"/v2/requests/{request_id}").json()["status"] == "COMPLETED"
        assert ended(a, request_id).json() == before


def test_the_requests_of_a_server_that_stops_are_painted_by_another_immediately(fleet: Fleet) -> None:
    """A rolling update loses nothing, charges once, and waits for no lease (of a minute here)."""
    first, second = fleet.start("a", held(), max_rows=1), fleet.start("b")
    with first.calling(key=fleet.token) as a, second.calling(key=fleet.token) as b:
        ids = [submitted(a, seed=seed) for seed in range(5)]  # two get a turn, three wait for theirs
        for _ in range(2):
            engine_of(first).next()
        eventually(lambda: [status_of(b, name) for name in ids].count("PROCESSING") == 2)
        first.drain()
        first.join()
        for seed, request_id in enumerate(ids):
            answer = ended(b, request_id)
            assert answer.json()["status"] == "COMPLETED"
            picture = opened(b.get(f"/v2/requests/{request_id}/images/0?format=png").content)
            assert_near(picture.getpixel((40, 16)), colour_of(seed))
            assert fleet.kinds(request_id) == ["reserve", "settle"]
        assert {record.attempts for record in fleet.records().values()} == {1}
    assert fleet.ledger.check() == []


def assert_near(found: Any, wanted: tuple[int, int, int]) -> None:
    """Assert that two colours are the same but for the losses of JPEG."""
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 12


def test_a_client_that_waits_at_a_server_that_stops_finds_the_request_at_another(
    fleet: Fleet, background: Background
) -> None:
    """It gets 503 and Retry-After; with the same Idempotency-Key it is the same request, charged once."""
    first, second = fleet.start("a", held()), fleet.start("b")
    with first.calling(key=fleet.token) as a, second.calling(key=fleet.token) as b:
        waiting = background(a.post, V1, json=body(), headers=SAME)
        engine_of(first).next()
        first.drain()
        answer: httpx2.Response = waiting.result()
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        again = b.post(V1, json=body(), headers=SAME)
        assert again.status_code == 200
        first.join()
    assert len(fleet.records()) == 1
    (request_id,) = fleet.records()
    assert fleet.kinds(request_id) == ["reserve", "settle"]
