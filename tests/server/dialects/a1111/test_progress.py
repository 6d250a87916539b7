"""Progress, previews and interruption: of the caller's own requests, and of no other's."""

import base64
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx2
import pytest

from server.engines.ticket import LoopTicket
from tests.support.served import Serve, Served, eventually, opened
from tests.support.webui import API, detail, engine_of, img2img, info_of, post

pytest_plugins = ["tests.support.served_fixtures"]

Background = Callable[..., "Future[Any]"]
IDLE = {
    "progress": 0.0,
    "eta_relative": 0.0,
    "state": {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": 0,
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    },
    "current_image": None,
    "textinfo": None,
}


def progress_of(client: httpx2.Client, **parameters: object) -> Any:
    answer = client.get(f"{API}/progress", params=parameters)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.json()


def jobs(client: httpx2.Client) -> int:
    return int(progress_of(client)["state"]["job_count"])


def begun(served: Served, client: httpx2.Client, background: Background, **fields: object) -> Any:
    """A request that an engine holds: its answer, and its ticket."""
    engine_of(served).held = True
    waiting = background(
        client.post, f"{API}/img2img", json=img2img(steps=8, denoising_strength=0.5) | fields
    )
    ticket = engine_of(served).next()
    eventually(lambda: progress_of(client)["state"]["sampling_steps"] == 4)
    return waiting, ticket


def step(served: Served, ticket: LoopTicket, client: httpx2.Client) -> Any:
    """The progress after one more step."""
    served.do(engine_of(served).step, ticket)
    eventually(lambda: progress_of(client)["state"]["sampling_step"] == ticket.steps_taken)
    return progress_of(client)


def test_progress_rises_and_falls_back_to_zero(served: Served, background: Background) -> None:
    """sd-backend-client checks all nine fields, and begins its next job at a ``job_count`` of 0."""
    client = served.client
    assert progress_of(client) == IDLE
    waiting, ticket = begun(served, client, background)
    seen = [progress_of(client)] + [step(served, ticket, client) for _ in range(3)]
    assert [found["state"]["sampling_step"] for found in seen] == [0, 1, 2, 3]
    assert [found["progress"] for found in seen] == pytest.approx([0.01, 0.26, 0.51, 0.76])
    for found in seen:
        assert found["state"].keys() == IDLE["state"].keys()  # type: ignore[attr-defined]
        assert (found["state"]["job"], found["state"]["job_count"]) == ("img2img", 1)
        assert found["eta_relative"] > 0
    served.do(engine_of(served).paint, ticket)
    assert waiting.result().status_code == 200
    assert progress_of(client) == IDLE


def test_a_preview_is_made_for_those_who_look(served: Served, background: Background) -> None:
    """Photoshop asks for one every 1.5 s; a client that skips it costs the engine nothing."""
    client = served.client
    waiting, ticket = begun(served, client, background)
    assert progress_of(client, skip_current_image="true")["current_image"] is None
    eventually(lambda: ticket.watchers == 1)  # of the questions before it
    found = step(served, ticket, client)
    assert opened(base64.b64decode(found["current_image"])).getpixel((0, 0)) == (255, 0, 0)
    assert progress_of(client, skip_current_image=True)["current_image"] is None
    served.do(engine_of(served).paint, ticket)
    waiting.result()
    assert ticket.watchers == 0
    assert detail(client.get(f"{API}/progress?skip_current_image=perhaps"), 422).startswith(
        "skip_current_image"
    )


def test_without_a_look_there_is_no_preview(served: Served, background: Background) -> None:
    """A step's preview takes time of the engine."""
    engine_of(served).held = True
    waiting = background(post, served)
    ticket = engine_of(served).next()
    eventually(lambda: progress_of(served.client, skip_current_image=1)["state"]["sampling_steps"] == 3)
    assert ticket.watchers == 0
    served.do(engine_of(served).paint, ticket)
    waiting.result()


@pytest.mark.parametrize(("path", "empty"), [("interrupt", {}), ("skip", None)])
def test_an_interrupted_request_is_no_error(
    served: Served, background: Background, path: str, empty: object
) -> None:
    """The client that waits for the pictures gets 200 and none, as a web UI's may."""
    client = served.client
    waiting, ticket = begun(served, client, background, seed=40, n_iter=2, width=640, height="x")
    step(served, ticket, client)
    assert client.post(f"{API}/{path}").json() == empty
    answer = waiting.result()
    assert answer.status_code == 200
    assert answer.json()["images"] == []
    info = info_of(answer.json())
    assert (info["all_seeds"], info["infotexts"], info["width"]) == ([40, 41], [], 512)
    assert progress_of(client) == IDLE


def test_skip_ends_the_oldest_and_interrupt_all(served: Served, background: Background) -> None:
    """A second request of the same user goes on when the first is skipped."""
    client = served.client
    first, _ = begun(served, client, background)
    second = background(client.post, f"{API}/img2img", json=img2img())
    third = background(client.post, f"{API}/txt2img", json={"steps": 4})
    eventually(lambda: jobs(client) == 3)
    client.post(f"{API}/skip")
    assert first.result().json()["images"] == []
    assert jobs(client) == 2
    client.post(f"{API}/interrupt")
    assert [waiting.result().status_code for waiting in (second, third)] == [200, 200]
    assert progress_of(client) == IDLE


@pytest.mark.parametrize("path", ["interrupt", "skip"])
def test_the_state_says_which_it_was(served: Served, background: Background, path: str) -> None:
    """A client shows what its user clicked."""
    served.do(engine_of(served).door.clear)
    waiting = background(post, served)
    eventually(lambda: jobs(served.client) == 1)
    served.client.post(f"{API}/{path}")
    state = progress_of(served.client)["state"]
    assert (state["interrupted"], state["skipped"]) == (path == "interrupt", path == "skip")
    served.do(engine_of(served).door.set)
    waiting.result()


def test_a_request_can_be_interrupted_before_an_engine_has_it(served: Served, background: Background) -> None:
    """A user who changes their mind in the first second waits for nothing."""
    client = served.client
    served.do(engine_of(served).door.clear)
    engine_of(served).held = True
    waiting = background(client.post, f"{API}/img2img", json=img2img())
    eventually(lambda: jobs(client) == 1)
    client.post(f"{API}/interrupt")
    assert progress_of(client)["state"]["interrupted"] is True
    served.do(engine_of(served).door.set)
    answer = waiting.result()
    assert answer.status_code == 200
    assert answer.json()["images"] == []


def test_an_interrupted_request_is_charged_only_for_steps(serve: Serve, background: Background) -> None:
    """Before its first step nothing was used; after it the GPU was, as with every cancelled request."""
    served = serve(metering=True)
    with served.calling(key=served.key(balance=1)) as client:

        def left() -> float:
            return float(client.get("/v1/get-user-credits").json()["credits"])

        for steps, charged in ((0, False), (1, True)):
            before = left()
            waiting, ticket = begun(served, client, background)
            for _ in range(steps):
                step(served, ticket, client)
            client.post(f"{API}/interrupt")
            assert waiting.result().status_code == 200
            assert (left() < before) is charged


def test_two_keys_do_not_see_each_other(serve: Serve, background: Background) -> None:
    """sd-backend-client would wait up to ten minutes for a stranger's picture, or end it."""
    served = serve()
    with served.calling(key=served.key()) as mine, served.calling(key=served.key()) as theirs:
        waiting, ticket = begun(served, mine, background)
        assert progress_of(theirs) == IDLE
        assert theirs.post(f"{API}/interrupt").status_code == 200
        assert theirs.post(f"{API}/skip").status_code == 200
        assert jobs(mine) == 1
        served.do(engine_of(served).paint, ticket)
        assert len(waiting.result().json()["images"]) == 1


def test_a_request_that_fails_leaves_no_progress(served: Served) -> None:
    """A client would wait for it for ever."""
    for fields in ({"steps": 0}, {"init_images": ["AAAA"]}):
        assert detail(served.client.post(f"{API}/img2img", json=img2img(**fields)), 422)
        assert progress_of(served.client) == IDLE
