"""Streamed edits and generations: order, indices, partial pictures, errors, and clients that leave."""

import base64
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx2
import pytest

from inpaint.errors import DeadlineError, PaintError
from server.engines.ticket import LoopTicket
from tests.support.openai_api import (
    EDITS,
    IN,
    OUT,
    W,
    code,
    edit,
    engine_of,
    events,
    generate,
    problem,
    unlike,
)
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    Serve,
    Served,
    b64,
    colour_of,
    eventually,
    opened,
    photo,
    white_box,
)

pytest_plugins = ["tests.support.served_fixtures"]

Background = Callable[..., "Future[Any]"]
BOTH = pytest.mark.parametrize(("send", "kind"), [(edit, "image_edit"), (generate, "image_generation")])


def held(served: Served) -> FakeEngine:
    """The engine, which paints when the test says so."""
    engine = engine_of(served)
    engine.held = True
    return engine


def watched(engine: FakeEngine) -> LoopTicket:
    """The next request, once its stream watches it."""
    ticket = engine.next()
    eventually(lambda: ticket.watchers == 1)
    return ticket


@BOTH
def test_partial_pictures_come_first_and_then_each_painted_one(
    send: Any, kind: str, served: Served, background: Background
) -> None:
    """Both SDKs read events by their type; usage is required in the last."""
    engine = held(served)
    answer = background(send, served.client, n=2, stream=True, partial_images=3)
    served.do(engine.paint, watched(engine))
    response = answer.result()
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    found = events(response.text)
    assert [name for name, _ in found] == [f"{kind}.partial_image"] * 3 + [f"{kind}.completed"] * 2
    for name, data in found:
        assert data["type"] == name
        assert (data["output_format"], data["quality"], data["background"]) == ("png", "auto", "opaque")
        assert isinstance(data["created_at"], int)
        size = opened(base64.b64decode(data["b64_json"])).size
        assert data["size"] == f"{size[0]}x{size[1]}" == ("48x32" if send is edit else "64x48")
    assert [data["partial_image_index"] for _, data in found[:3]] == [0, 1, 2]
    for _, data in found[3:]:
        assert data["usage"]["total_tokens"] == 0
        assert set(data["usage"]) == {
            "input_tokens",
            "output_tokens",
            "total_tokens",
            "input_tokens_details",
        }
    assert [data["seed"] for _, data in found[3:]] == [7, 8]


def test_a_partial_picture_is_the_callers_with_a_preview_in_the_hole(
    served: Served, background: Background
) -> None:
    """A client shows it in place of the picture: what is kept must not flicker."""
    engine = held(served)
    answer = background(edit, served.client, stream=True, partial_images=1, output_format="png")
    served.do(engine.paint, watched(engine))
    (_, first), (_, last) = events(answer.result().text)
    shown = opened(base64.b64decode(first["b64_json"]))
    assert shown.getpixel(IN) == (255, 0, 0), "the fake engine's previews are red"
    assert list(unlike(shown, photo()).tobytes()) == list(white_box().tobytes())
    painted = opened(base64.b64decode(last["b64_json"]))
    assert (painted.getpixel(IN), painted.getpixel(OUT)) == (colour_of(7), photo().getpixel(OUT))


def test_partial_pictures_have_the_size_and_format_of_the_painted(
    served: Served, background: Background
) -> None:
    """A client lays the one over the other."""
    engine = held(served)
    fields = {"stream": True, "partial_images": 1, "size": "96x64", "output_format": "webp"}
    answer = background(edit, served.client, **fields)
    served.do(engine.paint, watched(engine))
    for _, data in events(answer.result().text):
        file = base64.b64decode(data["b64_json"])
        assert file.startswith(b"RIFF")
        assert (opened(file).size, data["size"]) == ((96, 64), "96x64")


@pytest.mark.parametrize(("count", "steps"), [(1, [11]), (2, [8, 15]), (3, [6, 11, 17])])
def test_partial_pictures_are_at_equal_distances(
    count: int, steps: list[int], served: Served, background: Background
) -> None:
    """Three pictures of the first three steps would show noise: 22 steps are taken here."""
    engine, seen = held(served), []

    def listen() -> None:
        body = {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "x", "stream": True}
        with served.client.stream("POST", EDITS, json=body | {"partial_images": count}) as response:
            for line in response.iter_lines():
                if line.startswith("event: image_edit.partial"):
                    seen.append(ticket.steps_taken)
                    arrived.set()

    arrived, listening = threading.Event(), background(listen)
    ticket = watched(engine)
    for step in range(1, 23):
        served.do(engine.step, ticket)
        if step in steps:
            assert arrived.wait(30)
            arrived.clear()
    served.do(engine.paint, ticket)
    listening.result()
    assert seen == steps


def test_without_partial_images_no_preview_is_made(served: Served) -> None:
    """Previews cost time; one event per picture follows."""
    found = events(edit(served.client, stream=True).text)
    assert [name for name, _ in found] == ["image_edit.completed"]
    assert not engine_of(served).submitted.get().watchers


def test_a_stream_of_urls_is_one_of_files(served: Served) -> None:
    """As in OpenAI's API, whose streams have files only."""
    ((_, data),) = events(edit(served.client, stream=True, response_format="url").text)
    assert opened(base64.b64decode(data["b64_json"])).size == SIZE


@BOTH
def test_an_error_before_the_first_event_is_a_plain_answer(send: Any, kind: str, served: Served) -> None:
    """With its status, so that the SDKs raise what they raise without a stream."""
    engine_of(served).failures.append(PaintError("the model painted no picture"))
    answer = send(served.client, stream=True)
    assert "no picture" in problem(answer, 500)
    assert problem(send(served.client, stream=True, n=11), 400, "n")


def test_an_error_after_the_first_event_is_an_event(served: Served, background: Background) -> None:
    """The status was sent; the SDKs raise the error that is in the data."""
    engine = held(served)
    answer = background(edit, served.client, stream=True, partial_images=1)
    ticket = watched(engine)
    served.do(engine.step, ticket, 12)
    engine.failures.append(DeadlineError("not painted in time"))
    eventually(lambda: not ticket.watchers)  # the only partial picture was taken
    served.do(engine.paint, ticket)
    response = answer.result()
    assert response.status_code == 200
    (first, _), (last, data) = events(response.text)
    assert (first, last) == ("image_edit.partial_image", "error")
    assert data["error"] == {
        "message": "not painted in time",
        "type": "server_error",
        "param": None,
        "code": "timeout",
    }


@pytest.mark.parametrize("steps", [0, 12], ids=["before the first event", "after it"])
def test_a_client_that_leaves_cancels_the_work_and_frees_its_place(steps: int, serve: Serve) -> None:
    """One request at a time: the next is only admitted if the first has ended; it is refunded unbegun."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, metering=True, price=0.01, max_in_flight_per_key=1)
    token = served.key(balance=5)
    body = json.dumps(
        {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "x", "stream": True, "partial_images": 1}
    ).encode()
    head = ("Host: 127.0.0.1", "Content-Type: application/json", f"Authorization: Bearer {token}")
    connection = served.raw(f"POST {EDITS} HTTP/1.1", *head, f"Content-Length: {len(body)}", send=body)
    ticket = watched(engine)
    if steps:
        served.do(engine.step, ticket, steps)
        assert b"200 OK" in connection.recv(100)
    connection.close()
    eventually(lambda: ticket.finished)
    assert ticket.state == "cancelled"
    engine.held = False
    with served.calling(key=token) as client:
        eventually(lambda: edit(client).status_code == 200)
        left = client.get("/v1/get-user-credits").json()["credits"]
    price = 22 * W * SIZE[1] / 1e6 * 0.01
    charged = 2 if steps else 1
    assert left == pytest.approx(5 - charged * price, abs=5e-6)


def test_a_stream_holds_its_keys_place(serve: Serve, background: Background) -> None:
    """A stream is a request under way, of which a key has a bounded number."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, max_in_flight_per_key=1)
    with served.calling(authorization=f"Bearer {served.key()}") as client:
        first = background(edit, client, stream=True)
        ticket = engine.next()
        answer = edit(client)
        assert code(answer) == ("rate_limit_error", "rate_limit_exceeded")
        served.do(engine.paint, ticket)
        assert first.result().status_code == 200
        engine.held = False
        assert edit(client, stream=True).status_code == 200


def test_the_official_clients_accept_header_is_no_obstacle(served: Served) -> None:
    """OpenAI's SDKs ask for JSON even when they stream."""
    body = {"prompt": "x", "size": "32x32", "stream": True}
    headers = {"accept": "application/json"}
    answer = httpx2.post(served.url + "/v1/images/generations", json=body, headers=headers, trust_env=False)
    assert [name for name, _ in events(answer.text)] == ["image_generation.completed"]
