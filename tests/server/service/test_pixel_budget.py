"""The budget of decoded pixels, which bounds the memory that requests take."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from inpaint.errors import BusyError
from server.service.accounting import pixels_of
from server.service.pixel_budget import PixelBudget, decoded_pixels
from server.storage.requests import Record
from tests.support.served import MASK, SIZE, FakeEngine, Serve, Served, b64, body, eventually, file_of, photo

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2, INFO, PICTURE = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint", "/v2/info", "/v2/picture"
ONE = 3 * SIZE[0] * SIZE[1]  # what a request with one sample takes
Background = Callable[..., "Future[Any]"]


def held(served: Served) -> int:
    return int(served.running.service.preparation.pixels.held)


def test_beyond_the_budget_requests_wait_and_one_alone_may_exceed_it() -> None:
    """An operator with little memory still paints the largest picture, one at a time."""
    budget = PixelBudget(100)
    with budget.hold(101), pytest.raises(BusyError, match="no memory left"), budget.hold(1):
        pytest.fail("two were let in")
    with budget.hold(60), budget.hold(40):
        assert budget.held == 100
        with pytest.raises(BusyError), budget.hold(1):
            pytest.fail("101 pixels were let in")
    assert budget.held == 0


def test_what_cannot_be_valid_takes_no_more_than_the_largest_request() -> None:
    """A header that claims too much is refused with 400 later, not with 503 for ever."""
    assert decoded_pixels(10**9, 10**9, 1) == decoded_pixels(5000, 5000, 1) == 75_000_000


@pytest.mark.parametrize(
    ("path", "fields", "pixels"),
    [
        (V1, {}, ONE),
        (V1, {"samples": 4}, 2 * ONE),
        (V2, {}, ONE),
        (V1, {"image": b64(file_of(photo().convert("RGBA")))}, ONE + SIZE[0] * SIZE[1]),
        (V1, {"extend": [SIZE[0], 0, 0, 0], "mask": None}, 2 * ONE),
    ],
)
def test_a_picture_beyond_the_budget_is_503_before_it_is_decoded(
    serve: Serve,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fields: dict[str, Any],
    pixels: int,
) -> None:
    """Sixteen callers took 3.9 GB with files of 107 kB; what is refused must not be decoded first."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, max_decoded_pixels=ONE + pixels - 1)
    first = background(served.client.post, V1, json=body())
    ticket = engine.next()
    with monkeypatch.context() as patch:
        patch.setattr("server.service.preparation.prepare", lambda *_: pytest.fail("it was decoded"))
        refused = served.client.post(path, json=body(**fields))
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "memory" in refused.json()["error"]
    served.do(engine.paint, ticket)
    assert first.result().status_code == 200
    engine.held = False
    assert served.client.post(path, json=body(**fields)).status_code == 200
    eventually(lambda: held(served) == 0)


def test_v1_holds_its_pixels_until_its_answer_is_written(serve: Serve, background: Background) -> None:
    """The engine keeps the pictures to paint them again if a worker dies."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine)
    first = background(served.client.post, V1, json=body(samples=2))
    ticket = engine.next()
    assert held(served) == 4 * SIZE[0] * SIZE[1]
    served.do(engine.paint, ticket)
    assert first.result().status_code == 200
    eventually(lambda: held(served) == 0)


def test_queued_requests_hold_no_pixels(serve: Serve) -> None:
    """They wait as files in the picture store, so their number needs no memory."""
    engine = FakeEngine(loaded=False)
    served = serve(engine)
    for _ in range(4):
        assert served.client.post(V2, json=body()).status_code == 200
    assert held(served) == 0


def test_a_queued_request_waits_for_memory_and_is_painted(serve: Serve, background: Background) -> None:
    """It was accepted and paid, so it is not refused for want of memory."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, max_decoded_pixels=2 * ONE)
    request_id = served.client.post(V2, json=body()).json()["request_id"]
    painting = engine.next()
    second = background(served.client.post, V1, json=body())
    engine.next()
    path = f"/v2/requests/{request_id}"
    waiting = served.client.post(V2, json=body())
    assert waiting.status_code == 503, "it would have to be decoded once to be checked"
    served.do(engine.paint, painting)
    eventually(lambda: served.client.get(path).json()["status"] == "COMPLETED")
    queued = served.client.post(V2, json=body()).json()["request_id"]
    third = engine.next()
    assert held(served) == 2 * ONE
    served.do(engine.paint, third)
    served.do(engine.paint, engine.tickets[1])
    assert second.result().status_code == 200
    eventually(lambda: served.client.get(f"/v2/requests/{queued}").json()["status"] == "COMPLETED")
    eventually(lambda: held(served) == 0)


def test_accepted_requests_are_decoded_as_memory_allows(serve: Serve) -> None:
    """Three that wait for the engine are painted one after the other if memory holds only one."""
    engine = FakeEngine(loaded=False)
    engine.held = True
    served = serve(engine, max_decoded_pixels=ONE)
    ids = [served.client.post(V2, json=body(seed=n)).json()["request_id"] for n in range(3)]
    served.do(engine.load)
    for n in range(3):
        ticket = engine.next()
        assert (held(served), len(engine.requests)) == (ONE, n + 1)
        served.do(engine.paint, ticket)
    paths = [f"/v2/requests/{request_id}" for request_id in ids]
    eventually(lambda: {served.client.get(path).json()["status"] for path in paths} == {"COMPLETED"})


@pytest.mark.parametrize("route", [INFO, PICTURE])
def test_describing_and_showing_a_picture_count(serve: Serve, background: Background, route: str) -> None:
    """They decode as well."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, max_decoded_pixels=ONE)
    first = background(served.client.post, V1, json=body())
    ticket = engine.next()
    assert served.client.post(route, json={"image": b64(file_of(photo()))}).status_code == 503
    served.do(engine.paint, ticket)
    assert first.result().status_code == 200
    eventually(lambda: held(served) == 0)
    assert served.client.post(route, json={"image": b64(MASK)}).status_code == 200


def test_a_request_of_an_earlier_version_counts_as_the_largest() -> None:
    """After an upgrade the records that wait do not say how large their pictures are."""
    record = Record.new(id="a", key_id="", mode="v2", fields={}, seeds=[1, 2], cost_micro=0)
    assert pixels_of(record) == 100_000_000
