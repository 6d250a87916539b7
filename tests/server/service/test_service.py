"""The service over HTTP: the cost of a request, its limits, and its end when the server stops.

The last tests use a real engine on the tiny checkpoint.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from inpaint.engine import Engine
from inpaint.errors import DeviceError, ModelError, OutOfMemoryError, PaintError, RequestError
from inpaint.model.load import Model
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from server.errors import UrlError
from server.service.order import Order, Stored, Url
from server.service.pictures import Reader
from server.service.threads import Threads
from tests.support.served import (
    MASK,
    PHOTO,
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    b64,
    body,
    eventually,
    file_of,
    opened,
    server_for,
)

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
PRICE = {"metering": True, "price": 1.0}
COST = 22 * 48 * 32 / 1e6  # 25 steps × strength 0.9, megapixels
Background = Callable[..., "Future[Any]"]


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


@pytest.fixture(scope="module")
def metered_server(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Return a server with metering; every test has a key of its own."""
    with server_for(tmp_path_factory.mktemp("metered"), picture_host, **PRICE) as served:
        yield served
        assert served.parts.ledger.check() == []  # after all the tests


@pytest.fixture
def metered(metered_server: Served) -> Served:
    """Return the module's metered server with its engine reset."""
    engine = engine_of(metered_server)
    engine.held = False
    engine.requests.clear()
    while not engine.submitted.empty():
        engine.submitted.get()
    return metered_server


@contextmanager
def account(served: Served, balance: float) -> Iterator[httpx2.Client]:
    """Return a client whose key has a balance of this many credits."""
    with served.calling(key=served.key(balance=balance)) as client:
        yield client


def left(client: httpx2.Client) -> float:
    return float(client.get("/v1/get-user-credits").json()["credits"])


def posting(served: Served, client: httpx2.Client, **fields: object) -> socket.socket:
    """Send a v1 request and return the connection, with the answer unread."""
    content = json.dumps(body(**fields))
    head = (f"POST {V1} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    head += (f"x-api-key: {client.headers['x-api-key']}", f"Content-Length: {len(content)}")
    return served.raw(*head, send=content.encode())


# Credits.


def test_the_price_is_steps_times_megapixels_times_samples(metered: Served) -> None:
    """The price is known before a request is painted, and returned with the answer."""
    with account(metered, 1) as client:
        response = client.post(V1, json=body(samples=2))
        assert float(response.headers["x-cost"]) == pytest.approx(2 * COST)
        assert float(response.headers["x-remaining-credits"]) == pytest.approx(1 - 2 * COST)
        assert left(client) == pytest.approx(1 - 2 * COST)
        request_id = client.post(V2, json=body()).json()["request_id"]
        eventually(lambda: "remaining_credits" in client.get(f"/v2/requests/{request_id}").json()["metrics"])
        metrics = client.get(f"/v2/requests/{request_id}").json()["metrics"]
        assert metrics["cost"] == pytest.approx(COST)
        assert metrics["remaining_credits"] == pytest.approx(1 - 3 * COST)


def test_without_enough_credits_the_answer_is_406(metered: Served) -> None:
    """The hosted API answers so, with the word "credits" that its clients look for."""
    with account(metered, COST / 2) as client:
        for path in (V1, V2):
            response = client.post(path, json=body())
            assert response.status_code == 406
            assert "credits" in response.json()["error"]
        assert left(client) == pytest.approx(COST / 2)
    assert engine_of(metered).requests == []
    kept = [file.parent for file in (metered.settings.data / "pictures").glob("*/image.png")]
    assert all((folder / "0.jpeg").exists() for folder in kept)  # only accepted requests keep inputs


def test_a_balance_is_spent_to_the_last_picture_and_no_further(
    metered: Served, background: Background
) -> None:
    """Of twelve simultaneous requests with credits for five, five are painted."""
    with account(metered, 5.5 * COST) as client:
        answers = [background(client.post, V1, json=body(seed=n)) for n in range(12)]
        statuses = sorted(found.result().status_code for found in answers)
        assert statuses == [200] * 5 + [406] * 7
        assert left(client) == pytest.approx(0.5 * COST)


@pytest.mark.parametrize("path", [V1, V2])
def test_a_refused_request_costs_nothing(metered: Served, picture_host: PictureHost, path: str) -> None:
    """A caller is not charged for an answer of 4xx."""
    black = b64(file_of(Image.new("L", (48, 32))))
    with account(metered, 1) as client:
        for fields in (
            {"samples": 9},
            {"mask": black},
            {"image": "x"},
            {"image": f"{picture_host.url}/none"},
        ):
            assert client.post(path, json=body(**fields)).status_code >= 400
        assert left(client) == 1


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize(
    "error", [OutOfMemoryError("full"), PaintError("not a picture"), DeviceError("gone"), RuntimeError("bug")]
)
def test_a_failed_request_is_refunded(metered: Served, path: str, error: Exception) -> None:
    """A caller is charged only for a picture."""
    with account(metered, 1) as client:
        engine_of(metered).failures.append(error)
        response = client.post(path, json=body())
        if path == V2:
            status_url = response.json()["status_url"]
            eventually(lambda: client.get(status_url).status_code == 422)
            assert client.get(status_url).json()["metrics"]["cost"] == 0
        else:
            assert response.status_code in (500, 503)
        assert left(client) == 1


def test_a_client_that_leaves_before_the_first_step_pays_nothing(metered: Served) -> None:
    """The GPU has not worked for it yet."""
    engine = engine_of(metered)
    engine.held = True
    with account(metered, 1) as client:
        connection = posting(metered, client)
        ticket = engine.next()
        assert left(client) == pytest.approx(1 - COST)  # reserved
        connection.close()
        eventually(lambda: left(client) == 1)
        assert ticket.state == "cancelled"


def test_a_client_that_leaves_after_the_first_step_pays(metered: Served) -> None:
    """Else a client could use the GPU for free by hanging up early."""
    engine = engine_of(metered)
    engine.held = True
    with account(metered, 1) as client:
        connection = posting(metered, client)
        ticket = engine.next()
        metered.do(engine.step, ticket)
        connection.close()
        eventually(lambda: ticket.state == "cancelled")
        eventually(lambda: metered.running.service._under_way == 0)
        assert left(client) == pytest.approx(1 - COST)


def test_a_client_that_leaves_while_its_picture_is_fetched_pays_nothing(
    metered: Served, picture_host: PictureHost
) -> None:
    """The request ends before it reaches the engine."""
    url = picture_host.put("/slow.png", PHOTO)
    door = picture_host.hold("/slow.png")
    with account(metered, 1) as client:
        connection = posting(metered, client, image=url)
        eventually(lambda: "/slow.png" in picture_host.hits)
        connection.close()
        door.set()
        eventually(lambda: metered.running.service._under_way == 0)
        assert left(client) == 1
    assert engine_of(metered).requests == []


def test_a_deadline_that_passes_is_refunded(serve: Serve) -> None:
    """The caller gets no picture, even if the GPU worked for it."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, deadline_s=0.3, **PRICE)
    with account(served, 1) as client:
        assert client.post(V1, json=body()).status_code == 504
        assert left(client) == 1


def test_credits_of_the_metrics_add_up(serve: Serve) -> None:
    """An operator's dashboard shows them as earned and refunded."""
    served = serve(**PRICE)
    with account(served, 1) as client:
        client.post(V1, json=body())
        engine_of(served).failures.append(OutOfMemoryError("full"))
        client.post(V1, json=body())
    watching = served.calling(key=served.key(scopes=("metrics",)))
    with watching:
        lines = watching.get("/metrics").text.splitlines()
    found = {
        line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("inpaint_credits_t")
    }
    assert found == {
        'inpaint_credits_total{kind="settled"}': pytest.approx(COST),
        'inpaint_credits_total{kind="refunded"}': pytest.approx(COST),
    }


# Limits.


def test_a_key_over_its_rate_is_429_with_the_time_to_wait(serve: Serve) -> None:
    """Other keys are not affected."""
    served = serve(rate="2/minute")
    with served.calling(key=served.key()) as greedy, served.calling(key=served.key()) as other:
        remaining = [greedy.post(V1, json=body()).headers["x-rate-limit-remaining"] for _ in range(2)]
        assert remaining == ["1", "0"]
        response = greedy.post(V1, json=body())
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert list(response.json()) == ["error"]
        assert greedy.post(V2, json=body()).status_code == 429
        assert greedy.get("/v1/get-user-credits").status_code == 200
        assert other.post(V1, json=body()).status_code == 200


def test_a_key_with_too_many_requests_under_way_is_429(serve: Serve) -> None:
    """On v1 the painted requests count, on v2 the waiting ones too."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, max_in_flight_per_key=2)
    with served.calling(key=served.key()) as greedy, served.calling(key=served.key()) as other:
        connections = [posting(served, greedy) for _ in range(2)]
        tickets = [engine.next() for _ in range(2)]
        response = greedy.post(V1, json=body())
        assert (response.status_code, "retry-after" in response.headers) == (429, True)
        for ticket in tickets:
            served.do(engine.paint, ticket)
        for connection in connections:
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.close()
        eventually(lambda: served.running.service._under_way == 0)
        queued = [greedy.post(V2, json=body()).status_code for _ in range(3)]
        assert queued == [200, 200, 429]
        assert other.post(V2, json=body()).status_code == 200
        for _ in range(3):
            served.do(engine.paint, engine.next())
        eventually(lambda: served.running.service._under_way == 0)
        assert greedy.post(V2, json=body()).status_code == 200


def test_a_full_server_is_503_with_its_backlog(serve: Serve) -> None:
    """Retry-After is the time that the requests under way will still take."""
    engine = FakeEngine()
    engine.held, engine.backlog_s = True, 41.2
    served = serve(engine, max_waiting=1, max_rows=1, workers=0, no_auth=True)
    connections = []
    for _ in range(2):
        content = json.dumps(body())
        head = (f"POST {V1} HTTP/1.1", "Host: x", "Content-Type: application/json")
        connections.append(served.raw(*head, f"Content-Length: {len(content)}", send=content.encode()))
        engine.next()
    for path in (V1, V2):
        response = served.client.post(path, json=body())
        assert (response.status_code, response.headers["retry-after"]) == (503, "42")
        assert "full" in response.json()["error"]
    for connection in connections:
        connection.close()
    eventually(lambda: served.running.service._under_way == 0)
    assert served.client.get("/readyz").status_code == 200


def test_a_full_queue_is_503(serve: Serve, background: Background) -> None:
    """Of ten simultaneous requests for three places, three are accepted."""
    served = serve(FakeEngine(loaded=False), max_waiting=3)
    answers = [background(served.client.post, V2, json=body(seed=n)) for n in range(10)]
    assert sorted(found.result().status_code for found in answers) == [200] * 3 + [503] * 7


def test_one_keys_slow_pictures_hold_up_no_other_request(
    serve: Serve, picture_host: PictureHost, background: Background
) -> None:
    """Other keys' requests go on, and so do the same key's requests that fetch nothing."""
    url = picture_host.put("/slow-2.png", PHOTO)
    door = picture_host.hold("/slow-2.png")
    served = serve(fetch_per_key=1)
    with served.calling(key=served.key()) as slow, served.calling(key=served.key()) as other:
        waiting = [background(slow.post, V1, json=body(image=url)) for _ in range(3)]
        eventually(lambda: "/slow-2.png" in picture_host.hits)
        quick = picture_host.put("/quick.png", PHOTO)
        assert other.post(V1, json=body(image=quick)).status_code == 200
        assert slow.post(V1, json=body()).status_code == 200
        assert picture_host.hits.count("/slow-2.png") == 1  # one at a time
        door.set()
        assert [found.result().status_code for found in waiting] == [200] * 3


def test_the_other_picture_is_given_up_when_one_is_refused(picture_host: PictureHost) -> None:
    """A caller must not wait for the slow picture to learn that the other is refused."""
    cancelled: list[str] = []

    class Fetching:
        async def fetch(self, url: str, *, max_bytes: int | None = None) -> bytes:
            try:
                await asyncio.sleep(0 if "bad" in url else 60)
            except asyncio.CancelledError:
                cancelled.append(url)
                raise
            raise UrlError("no")

    async def stored(name: str, picture: Stored) -> bytes:
        raise AssertionError((name, picture))

    async def both() -> None:
        order = Order(Url("http://bad/"), Url("http://slow/"), {})
        with pytest.raises(UrlError):
            await Reader(Fetching(), Threads(), stored, max_bytes=9).gather(order)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert cancelled == ["http://slow/"]

    asyncio.run(both())


# Stopping.


def test_a_draining_server_finishes_what_runs_and_takes_no_more(serve: Serve, background: Background) -> None:
    """After SIGTERM, requests under way are painted, new ones get 503 with Retry-After; then it ends."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, drain_s=10.0)
    running = background(served.client.post, V1, json=body())
    ticket = engine.next()
    served.drain()
    with served.calling() as late:
        for path in (V1, V2):
            response = late.post(path, json=body())
            assert (response.status_code, response.headers["retry-after"]) == (503, "10")
        assert late.get("/readyz").status_code == 503
        assert late.get("/livez").status_code == 200
    served.do(engine.paint, ticket)
    assert running.result().status_code == 200
    served.join()
    assert engine.closed


def test_a_drain_waits_for_queued_requests_that_have_begun(serve: Serve) -> None:
    """It leaves those that have not begun, so that none is begun that cannot be finished."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, drain_s=10.0, max_rows=1, workers=0)
    ids = [served.client.post(V2, json=body(seed=n)).json()["request_id"] for n in range(3)]
    tickets = [engine.next(), engine.next()]
    served.drain()
    for ticket in tickets:
        served.do(engine.paint, ticket)
    served.join()
    assert len(engine.requests) == 2
    following = serve()
    paths = [f"/v2/requests/{request_id}" for request_id in ids]
    eventually(lambda: [following.client.get(p).json()["status"] for p in paths] == ["COMPLETED"] * 3)
    assert [request.seed for request in engine_of(following).requests] == [2]


def test_a_drain_that_takes_too_long_refunds(serve: Serve) -> None:
    """The server stops after its time limit, and does not charge for what it did not finish."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, drain_s=0.2, **PRICE)
    token = served.key(balance=1)
    with served.calling(key=token) as client:
        connection = posting(served, client)
        served.do(engine.step, engine.next())
        served.drain()
        served.join()
        connection.close()
    again = serve(**PRICE)
    with again.calling(key=token) as client:
        assert left(client) == 1


def test_a_drain_does_not_wait_for_what_has_not_begun(serve: Serve, background: Background) -> None:
    """It is left to the next server; a v1 caller that waits for it is asked to send it again."""
    served = serve(FakeEngine(loaded=False), drain_s=30.0)
    waiting = background(served.client.post, V1, json=body(), headers={"Idempotency-Key": "k"})
    eventually(lambda: served.running.queue._live)
    served.drain()
    response = waiting.result()
    assert response.status_code == 503
    assert "Idempotency-Key" in response.json()["error"]
    served.join()
    following = serve()
    response = following.client.post(V1, json=body(), headers={"Idempotency-Key": "k"})
    assert response.status_code == 200
    assert len(engine_of(following).requests) == 1


def test_event_streams_end_when_the_server_stops(serve: Serve, background: Background) -> None:
    """An open stream must not keep the server up, nor report a waiting request as failed."""
    served = serve(FakeEngine(loaded=False), drain_s=30.0)
    request_id = served.client.post(V2, json=body()).json()["request_id"]

    def listen() -> str:
        with served.calling() as client:
            return client.get(f"/v2/requests/{request_id}/events").text

    stream = background(listen)
    eventually(lambda: served.running.queue._live)
    served.drain()
    served.join()
    assert "event: failed" not in stream.result()


def test_a_server_whose_engine_does_not_start_says_why_and_ends(serve: Serve) -> None:
    """A server without an engine is of no use, so it must not stay up."""
    for broken in (ModelError("the model is damaged"), RuntimeError("a bug")):
        served = serve(FakeEngine(broken=broken))
        served.join()
        assert served.running.failure is broken


def test_a_short_outage_of_the_database_loses_no_request(serve: Serve) -> None:
    """A v2 request whose turn comes then is begun later, not lost."""
    engine = FakeEngine(loaded=False)
    served = serve(engine)
    request_id = served.client.post(V2, json=body()).json()["request_id"]
    begin, tries = served.parts.store.begin, []

    def unreachable_once(request: str) -> Any:
        from inpaint.errors import BusyError

        tries.append(request)
        if len(tries) == 1:
            raise BusyError("The server's database does not answer; try again.", 5.0)
        return begin(request)

    served.parts.store.begin = unreachable_once
    served.do(engine.load)
    eventually(lambda: served.client.get(f"/v2/requests/{request_id}").json()["status"] == "COMPLETED")
    assert len(tries) == 2


def test_a_sweep_that_fails_is_not_the_last(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the disk would fill up after one failed sweep."""
    monkeypatch.setattr("server.service.sweeper._EVERY_S", 0.01)
    served = serve()
    calls = threading.Semaphore(0)

    def bad(_: str) -> None:
        calls.release()
        raise PermissionError("no")

    served.parts.blobs.delete = bad
    served.parts.store.sweep = lambda *_, **__: ["0" * 32]
    for _ in range(3):
        assert calls.acquire(timeout=100)


# Real engines, on the tiny checkpoint.


@pytest.fixture
def real(serve: Serve, model: Model, tmp_path: Path) -> Served:
    """Return a server with a real engine in its own process."""
    client = InProcessClient(WorkerSpec(), load=lambda *_: Engine(model))
    served = serve(client, workers=0)
    eventually(lambda: served.client.get("/readyz").status_code == 200)
    return served


def real_body(photo: Image.Image, grid_mask: Image.Image, **fields: object) -> dict[str, object]:
    pictures = {"image": b64(file_of(photo)), "mask": b64(file_of(grid_mask)), "output_format": "png"}
    return body(**pictures, scheduler="DDIM", num_inference_steps=20, strength=0.2, **fields)


def test_a_real_engine_paints_over_http(real: Served, photo: Image.Image, grid_mask: Image.Image) -> None:
    """v1, v1 again and v2 give the same pixels through all layers; what is masked out stays."""
    fields = real_body(photo, grid_mask, grow=0, feather=0)
    first, again = (real.client.post(V1, json=fields) for _ in range(2))
    assert first.status_code == 200, first.text
    assert first.content == again.content
    painted = opened(first.content)
    black = grid_mask.point(lambda value: 255 - value)
    assert Image.composite(painted, photo, black).tobytes() == photo.tobytes()
    assert painted.crop((40, 32, 104, 96)).tobytes() != photo.crop((40, 32, 104, 96)).tobytes()
    queued = real.client.post(V2, json=fields).json()
    eventually(lambda: real.client.get(queued["status_url"]).json()["status"] == "COMPLETED")
    answer = real.client.get(queued["response_url"]).json()
    assert opened(httpx2.get(answer["output"], trust_env=False).content).tobytes() == painted.tobytes()
    assert answer["metrics"]["inference_time"] > 0


def test_a_real_engine_streams_and_stops(real: Served, photo: Image.Image, grid_mask: Image.Image) -> None:
    """Steps arrive with previews while it paints; a cancelled request ends within a step."""
    fields = real_body(photo, grid_mask) | {"num_inference_steps": 100, "strength": 0.99, "samples": 4}
    request_id = real.client.post(V2, json=fields).json()["request_id"]
    path = f"/v2/requests/{request_id}"
    with real.client.stream("GET", f"{path}/events") as response:
        for line in response.iter_lines():
            if line.startswith("data:") and '"preview": "data:image/png' in line:
                break
    found = real.client.delete(path).json()
    assert (found["status"], "cancel" in found["error"]) == ("FAILED", True)
    assert real.engine.health().running == 0


def test_a_damaged_record_is_an_error_of_its_own() -> None:
    """A damaged row must not stop the next server from starting."""
    from server.service.accounting import settings_of
    from server.storage.requests import Record

    record = Record.new(id="a", key_id="", mode="v2", fields={"settings": 5}, seeds=[1], cost_micro=0)
    with pytest.raises(RequestError, match="stored settings are damaged"):
        settings_of(record)
    assert opened(MASK).size == (48, 32)
