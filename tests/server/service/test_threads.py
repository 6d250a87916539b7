"""Pixels and the picture store have threads of their own, so that keys are checked whatever these do."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import structlog

from server.service.threads import Threads
from tests.support.served import PATIENCE_S, FakeEngine, Serve, Served, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
CALLS = 16  # more than asyncio's own executor has threads on a small machine
Background = Callable[..., "Future[Any]"]


class Door:
    """A function that waits until the door opens, and counts its calls."""

    def __init__(self) -> None:
        self.entered, self._open = 0, threading.Event()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any, **options: Any) -> Any:
            self.entered += 1
            assert self._open.wait(2 * PATIENCE_S)
            return function(*args, **options)

        return wait

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def door() -> Iterator[Door]:
    """Return a closed door, which is open after the test."""
    door = Door()
    yield door
    door.open()


def painted(served: Served, key: str) -> str:
    """Paint a v2 request, and return the path of its picture."""
    with served.calling(key=key) as client:
        request_id = client.post(V2, json=body(output_format="png")).json()["request_id"]
        path = f"/v2/requests/{request_id}"
        eventually(lambda: client.get(path).json()["status"] == "COMPLETED")
        return str(client.get(path).json()["output"]).removeprefix(served.url)


def test_keys_are_checked_while_pictures_are_decoded(
    serve: Serve, background: Background, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen callers with pictures of 25 megapixels held up every other caller for seconds."""
    from server.service import preparation

    monkeypatch.setattr(preparation, "prepare", door.before(preparation.prepare))
    served = serve()
    with served.calling(key=served.key()) as busy, served.calling(key=served.key()) as other:
        answers = [background(busy.post, V1, json=body()) for _ in range(CALLS)]
        eventually(lambda: served.running.service._under_way == CALLS and door.entered > 1)
        assert other.get("/v1/get-user-credits").status_code == 200
        door.open()
        assert {answer.result().status_code for answer in answers} == {200}


def test_keys_are_checked_while_the_picture_store_does_not_answer(
    serve: Serve, background: Background, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store may take a minute to say that it is unreachable."""
    served = serve()
    key = served.key()
    picture = painted(served, key)
    monkeypatch.setattr(served.parts.blobs, "get", door.before(served.parts.blobs.get))
    with served.calling() as anyone, served.calling(key=key) as owner:
        answers = [background(anyone.get, picture) for _ in range(CALLS)]
        eventually(lambda: door.entered > 4)
        assert owner.get("/v1/get-user-credits").status_code == 200
        door.open()
        assert {answer.result().status_code for answer in answers} == {200}


def test_pictures_are_decoded_while_the_picture_store_does_not_answer(
    serve: Serve, background: Background, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A v1 request needs no picture store, so its outage holds none up."""
    served = serve(FakeEngine())
    key = served.key()
    picture = painted(served, key)
    monkeypatch.setattr(served.parts.blobs, "get", door.before(served.parts.blobs.get))
    with served.calling() as anyone, served.calling(key=key) as owner:
        answers = [background(anyone.get, picture) for _ in range(CALLS)]
        eventually(lambda: door.entered > 4)
        assert owner.post(V1, json=body()).status_code == 200
        door.open()
        assert {answer.result().status_code for answer in answers} == {200}


def test_a_log_line_of_a_thread_names_its_request() -> None:
    """An operator finds every line of a request by its id."""

    async def contexts() -> list[dict[str, Any]]:
        threads, read = Threads(), structlog.contextvars.get_contextvars
        with structlog.contextvars.bound_contextvars(request_id="abc"):
            found = [await threads.pixels(read), await threads.blobs(read)]
        threads.close()
        return found

    assert asyncio.run(contexts()) == [{"request_id": "abc"}] * 2
