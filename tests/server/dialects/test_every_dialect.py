"""What holds in every dialect: its words are read, failures keep its shape, and clients may leave."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx2
import pytest

from inpaint.errors import OutOfMemoryError, PaintError
from tests.support.dialects import MASK, PHOTO, SIZE, WAYS, Way
from tests.support.served import (
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    answer,
    b64,
    eventually,
    opened,
    server_for,
)

pytest_plugins = ["tests.support.served_fixtures"]

EACH = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
Background = Callable[..., "Future[Any]"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Serve with keys."""
    with server_for(tmp_path_factory.mktemp("locked"), picture_host) as served:
        served.key()
        yield served


@EACH
def test_prompt_seed_and_mask_are_read(way: Way, served: Served) -> None:
    """White is repainted, all else is kept to the last bit, and the answer says the seed."""
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    response = way.post(served.client, seed=77, prompt=way.name)
    assert response.status_code == 200, response.text
    assert way.seed(response) == 77
    assert (engine.requests[-1].prompt, engine.requests[-1].seed) == (way.name, 77)
    painted, sent = (opened(data).convert("RGB") for data in (way.painted(response), PHOTO))
    kept = (0, 0, SIZE[0] // 2 - 8, SIZE[1])
    assert painted.size == SIZE
    assert painted.crop(kept).tobytes() == sent.crop(kept).tobytes()
    assert painted.getpixel((90, 30)) != sent.getpixel((90, 30))


@EACH
@pytest.mark.parametrize("field", ["image", "mask"])
def test_a_picture_may_be_base64_a_data_uri_or_a_url(
    field: str, way: Way, served: Served, picture_host: PictureHost
) -> None:
    """However it comes, the same picture is painted."""
    data = PHOTO if field == "image" else MASK
    url = picture_host.put(f"/{way.name}-{field}.png", data)
    plain = way.painted(way.post(served.client))
    for value in (b64(data), f"data:image/png;base64,{b64(data)}", url):
        response = way.post(served.client, **{field: value})
        assert response.status_code == 200, response.text
        assert opened(way.painted(response)).tobytes() == opened(plain).tobytes()


@EACH
def test_what_any_dialect_stored_is_a_picture_for_each(way: Way, locked: Served) -> None:
    """A picture's URL from another dialect's answer, sent with another key."""
    with locked.calling(key=locked.key()) as painter, locked.calling(key=locked.key()) as editor:
        fields = json.loads(WAYS[0].content()[1]) | {"seed": 5}
        request_id = painter.post("/v2/sdxl-inpaint", json=fields).json()["request_id"]
        eventually(lambda: painter.get(f"/v2/requests/{request_id}").json().get("output"))
        url = painter.get(f"/v2/requests/{request_id}").json()["output"]
        data = httpx2.get(url, trust_env=False).content
        named, sent = (way.post(editor, image=image) for image in (url, data))
        assert named.status_code == 200, named.text
        assert way.painted(named) == way.painted(sent)


# Failures.


@EACH
def test_failures_of_the_engine_keep_the_shape(way: Way, served: Served) -> None:
    """A client that knows one shape only would show its user nothing."""
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    engine.failures += [
        PaintError("the model painted no picture"),
        OutOfMemoryError("too large"),
        RuntimeError(),
    ]
    assert "painted no picture" in way.refusal(way.post(served.client), 500)
    full = way.post(served.client)
    assert "too large" in way.refusal(full, 503)
    assert int(full.headers["retry-after"]) >= 1
    bug = way.post(served.client)
    assert bug.headers["x-request-id"] in way.refusal(bug, 500)
    assert way.post(served.client).status_code == 200


def test_a_server_that_starts_or_is_slow_says_when_to_come_again(serve: Serve) -> None:
    """Before the model is loaded, and when a request takes longer than the server's deadline."""
    engine = FakeEngine(loaded=False)
    served = serve(engine, deadline_s=0.3)
    for way in WAYS:
        starting = way.post(served.client)
        assert "not ready" in way.refusal(starting, 503)
        assert int(starting.headers["retry-after"]) >= 1
    engine.held = True
    served.do(engine.load)
    eventually(lambda: served.client.get("/readyz").status_code == 200)
    for way in WAYS:
        late = way.post(served.client)
        assert "not painted within 0.3 seconds" in way.refusal(late, 504)
        assert late.headers["x-should-retry"] == "false"
        assert engine.next().finished, "it was cancelled"


def test_the_limits_of_a_key_are_those_of_every_dialect(serve: Serve, background: Background) -> None:
    """Requests in one dialect count for the others, by rate and under way."""
    engine = FakeEngine()
    served = serve(engine, rate="4/minute", max_in_flight_per_key=1)
    for way in WAYS:
        with served.calling(key=served.key()) as client:
            engine.held = True
            first = background(WAYS[0].post, client)
            ticket = engine.next()
            assert "under way" in way.refusal(way.post(client), 429)
            served.do(engine.paint, ticket)
            assert first.result().status_code == 200
            engine.held = False
            assert [each.post(client).status_code for each in (way, WAYS[0])] == [200, 200]
            over = way.post(client)
            assert "4 requests per 60 seconds" in way.refusal(over, 429)
            assert int(over.headers["retry-after"]) >= 1
        while not engine.submitted.empty():
            engine.next()


@EACH
def test_a_client_that_leaves_stops_its_painting(way: Way, served: Served) -> None:
    """Nobody would see the picture, and others wait."""
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    engine.held = True
    kind, data = way.content()
    head = (
        f"POST {way.path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {kind}",
        f"Content-Length: {len(data)}",
    )
    with served.raw(*head, send=data):
        ticket = engine.next()
        assert not ticket.finished
    eventually(lambda: ticket.finished)
    engine.held = False
    assert way.post(served.client).status_code == 200


# Keys, containers and pages.


@EACH
def test_every_kind_of_credentials_opens_every_dialect(way: Way, locked: Served) -> None:
    """And a wrong one is answered in its shape."""
    key = locked.key()
    for headers in (
        {"x-api-key": key},
        {"api-key": key},
        {"authorization": f"Bearer {key}"},
        {"authorization": f"Basic {b64(f'user:{key}'.encode())}"},
        {"authorization": f"Basic {b64(f'{key}:'.encode())}"},
    ):
        with httpx2.Client(base_url=locked.url, headers=headers, trust_env=False) as client:
            assert way.post(client).status_code == 200
    way.refusal(way.post(locked.client), 401)


@EACH
def test_a_program_in_a_container_is_told_what_to_do(way: Way, served: Served) -> None:
    """In the field that its user sees."""
    status, _, data = answer(served.raw(f"POST {way.path} HTTP/1.1", "Host: host.docker.internal:8000"))
    assert status == 403
    assert "--host 0.0.0.0" in way.said(json.loads(data))


def test_a_page_that_the_operator_allows_may_ask_first(serve: Serve) -> None:
    """A browser asks with OPTIONS before it sends a key, and lets the page see only named headers."""
    page = "https://app.example.com"
    client = serve(cors_origins=(page,)).client
    asked = {"origin": page, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,content-type,x-stainless-os"
    for way in WAYS:
        assert client.options(way.path, headers=asked).status_code == 200
        kind, data = way.content()
        response = client.post(way.path, content=data, headers={"origin": page, "content-type": kind})
        assert response.status_code == 200
        assert "x-request-id" in response.headers["access-control-expose-headers"].lower()
