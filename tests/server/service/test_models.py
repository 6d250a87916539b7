"""A server with several models: a request names one, and gets it, now or after a restart."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from inpaint.errors import ModelError
from inpaint.images.metadata import read
from server.engines.fleet import Fleet
from tests.support.served import FakeEngine, Serve, Served, body, eventually, opened
from tests.support.server_process import ServerProcess, callers, program
from tests.support.server_process import body as small
from tests.support.server_process import eventually as soon

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"


class Two:
    """A server with the models demo and beach, whose engines the test has."""

    def __init__(self, serve: Serve, **settings: Any) -> None:
        self.demo, self.beach = settings.pop("demo", FakeEngine()), settings.pop("beach", FakeEngine())
        fleet = Fleet({"demo": self.demo, "beach": self.beach})
        self.served: Served = serve(fleet, model="demo,/srv/models/beach.safetensors", **settings)
        self.client = self.served.client

    def submit(self, **fields: object) -> str:
        """Send a v2 request and return its id."""
        answer = self.client.post(V2, json=body(**fields))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def ended(self, request_id: str) -> Any:
        """Wait for the end of a request and return its answer."""
        url = f"/v2/requests/{request_id}"
        eventually(lambda: self.client.get(url).json()["status"] in ("COMPLETED", "FAILED"))
        return self.client.get(url).json()


def test_a_request_names_its_model(serve: Serve) -> None:
    """The first paints what names none; both versions of the API route, and answer which it was."""
    two = Two(serve)
    two.client.post(V1, json=body(prompt="one"))
    answer = two.client.post(V1, json=body(prompt="two", model="beach"))
    assert '"model": "beach"' in answer.headers["x-output-metadata"]
    assert two.ended(two.submit(prompt="three"))["model"] == "demo"
    assert two.ended(two.submit(prompt="four", model="beach"))["model"] == "beach"
    assert [request.prompt for request in two.demo.requests] == ["one", "three"]
    assert [request.prompt for request in two.beach.requests] == ["two", "four"]


@pytest.mark.parametrize("url", [V1, V2])
def test_an_unknown_name_is_told_the_names(url: str, serve: Serve) -> None:
    """Never painted by another model than the one that was asked for."""
    two = Two(serve)
    answer = two.client.post(url, json=body(model="bech"))
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "model: must be one of demo, beach, not 'bech'"},
    )
    assert not two.demo.requests


def test_a_server_with_one_model_refuses_other_names(serve: Serve) -> None:
    """Its own name is taken, since clients send back what the offer says."""
    served = serve()
    assert served.client.post(V1, json=body(model="demo")).status_code == 200
    answer = served.client.post(V1, json=body(model="beach"))
    assert answer.json() == {"error": "model: must be one of demo, not 'beach'"}


def test_the_offer_lists_the_models(serve: Serve) -> None:
    """A form can be built from it; a model that is not loaded yet says so, and the server is ready."""
    two = Two(serve, beach=FakeEngine(loaded=False))
    offer = two.client.get(V2).json()
    assert (offer["model"], offer["ready"]) == ("demo", True)
    assert [model.pop("about")["photographs"] for model in offer["models"]] == [False, True]
    assert offer["models"] == [
        {"name": "demo", "ready": True, "native_size": 128},
        {"name": "beach", "ready": False, "native_size": None},
    ]
    field = next(field for field in offer["fields"] if field["name"] == "model")
    assert (field["kind"], field["choices"], field["default"]) == ("choice", ["demo", "beach"], "demo")
    assert two.client.get("/readyz").status_code == 200
    two.served.do(two.beach.load)
    eventually(lambda: two.client.get(V2).json()["models"][1]["ready"])


def test_requests_of_a_model_that_loads_take_no_turn_of_another(serve: Serve) -> None:
    """More of them than a server paints at a time wait, and the other model paints meanwhile."""
    two = Two(serve, beach=FakeEngine(loaded=False), max_rows=1, max_in_flight_per_key=100)
    waiting = [two.submit(model="beach") for _ in range(5)]
    assert two.ended(two.submit())["status"] == "COMPLETED"
    refused = two.client.post(V1, json=body(model="beach"))
    assert (refused.status_code, refused.json()) == (
        503,
        {"error": "the model beach is not ready: the model is being loaded"},
    )
    two.served.do(two.beach.load)
    assert {two.ended(request_id)["status"] for request_id in waiting} == {"COMPLETED"}
    assert len(two.beach.requests) == 5


def test_a_model_with_a_full_queue_leaves_the_other_its_own(serve: Serve) -> None:
    """``max_waiting`` counts for each model."""
    two = Two(serve, beach=FakeEngine(loaded=False), max_waiting=2)
    for _ in range(2):
        two.submit(model="beach")
    full = two.client.post(V2, json=body(model="beach"))
    assert (full.status_code, full.json()["error"]) == (503, "the server is full; try again")
    assert two.ended(two.submit())["model"] == "demo"


def test_a_model_that_cannot_be_loaded_refuses_alone(serve: Serve) -> None:
    """Its sentence says which, and the server goes on."""
    broken = FakeEngine(broken=ModelError("beach is damaged"))
    two = Two(serve, beach=broken)
    assert two.client.post(V1, json=body(model="beach")).status_code == 503
    assert two.client.post(V1, json=body()).status_code == 200
    assert not two.served.server.should_exit


def test_a_file_names_the_model_that_painted_it(serve: Serve) -> None:
    """Of its path only the file's name."""
    two = Two(serve, metadata=True)
    for model, name in (("demo", "demo"), ("beach", "beach.safetensors")):
        made = read(two.client.post(V1, json=body(model=model, output_format="png")).content)
        assert made is not None
        assert made.model == name


def test_a_draft_is_refined_by_the_model_that_painted_it(serve: Serve) -> None:
    """Another one would paint another picture."""
    two = Two(serve)
    draft = two.submit(model="beach", pace="near", num_inference_steps=30)
    assert two.ended(draft)["status"] == "COMPLETED"
    refined = two.client.post(f"/v2/requests/{draft}/refine").json()["request_id"]
    assert two.ended(refined)["model"] == "beach"
    assert [request.pace for request in two.beach.requests] == ["near", "exact"]


def test_metrics_tell_the_models_apart(serve: Serve) -> None:
    """A model that is not loaded shows, although the server is ready."""
    two = Two(serve, beach=FakeEngine(loaded=False))
    with two.served.calling(key=two.served.key(scopes=("metrics",))) as client:
        text = client.get("/metrics").text
    assert "inpaint_ready 1.0" in text
    assert 'inpaint_model_ready{model="demo"} 1.0' in text
    assert 'inpaint_model_ready{model="beach"} 0.0' in text
    assert 'inpaint_model_images_total{model="demo"}' in text


def test_a_stored_request_whose_model_is_gone_fails_with_a_sentence(serve: Serve, tmp_path: Path) -> None:
    """The operator took the model away while it waited; nothing is painted by another one, nor refined."""
    first = Two(serve, demo=FakeEngine(), beach=FakeEngine(loaded=False))
    waiting = first.submit(model="beach")
    first.served.stop()
    engine = FakeEngine()
    second = serve(engine, model="demo")
    url = f"/v2/requests/{waiting}"
    eventually(lambda: second.client.get(url).json()["status"] == "FAILED")
    says = "the model 'beach' of this request is no longer served; send it again for demo"
    assert second.client.get(url).json()["error"] == says
    assert not engine.requests


def test_a_draft_of_a_model_that_is_gone_is_not_refined(serve: Serve) -> None:
    """By no other model, whose picture would be another."""
    first = Two(serve)
    draft = first.submit(model="beach", pace="near", num_inference_steps=30)
    assert first.ended(draft)["status"] == "COMPLETED"
    first.served.stop()
    refused = serve(FakeEngine(), model="demo").client.post(f"/v2/requests/{draft}/refine")
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("the model 'beach' of this request is no longer served")


@pytest.mark.slow
def test_worker_processes_of_two_models_through_kills(tmp_path: Path) -> None:
    """A worker is killed, then the server: each request is painted by its own model in the end."""
    slow = {"prompt": "slow", "num_inference_steps": 50}
    with ServerProcess(program(tmp_path, models=("a", "b"))) as server, callers(2) as call:
        server.wait_ready()
        soon(lambda: all(model["ready"] for model in server.client.get(V2).json()["models"]))
        assert len(server.workers()) == 2
        answers = [call(server.client.post, V1, json=small(**slow, model=model)) for model in "ab"]
        soon(lambda: server.gauge("inpaint_running") == 2)
        os.kill(server.workers()[0], signal.SIGKILL)
        assert [answer.result().status_code for answer in answers] == [200, 200]
        ids = [
            server.client.post(V2, json=small(prompt=f"left-{m}", model=m)).json()["request_id"]
            for m in "abab"
        ]
        server.kill()
    with ServerProcess(program(tmp_path, models=("b", "a"))) as server:
        server.wait_ready()
        for request_id, model in zip(ids, "abab", strict=True):
            url = f"/v2/requests/{request_id}"
            soon(lambda url=url: server.client.get(url).json()["status"] == "COMPLETED")
            answer = server.client.get(url).json()
            assert answer["model"] == model
            assert opened(server.client.get(answer["output"]).content).size == (48, 32)
    for model in "ab":
        prompts = {prompt for line in (tmp_path / model).read_text().split() for prompt in line.split(",")}
        assert prompts == {"slow", f"left-{model}"}
