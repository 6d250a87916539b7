"""Other programs' APIs choose among several models in their own words."""

import json

import pytest

from server.engines.fleet import Fleet
from tests.support.openai_api import edit
from tests.support.served import FakeEngine, Serve, Served
from tests.support.webui import API, img2img

pytest_plugins = ["tests.support.served_fixtures"]

MODELS = "demo,/srv/models/beach XL.safetensors"


class Two:
    """A server with the models demo and beach XL."""

    def __init__(self, serve: Serve) -> None:
        self.demo, self.beach = FakeEngine(), FakeEngine()
        self.served: Served = serve(Fleet({"demo": self.demo, "beach XL": self.beach}), model=MODELS)

    def painted(self) -> tuple[int, int]:
        """Return the number of requests that each has painted."""
        return len(self.demo.requests), len(self.beach.requests)


@pytest.fixture
def two(serve: Serve) -> Two:
    """Two models."""
    return Two(serve)


@pytest.mark.parametrize(
    ("fields", "painted"),
    [
        ({"model": "beach XL"}, (0, 1)),
        ({"model": "demo"}, (1, 0)),
        ({"model": "gpt-image-1"}, (1, 0)),
        ({"model": "dall-e-2"}, (1, 0)),
        ({}, (1, 0)),
    ],
)
def test_openai_names_one_of_ours_or_one_of_theirs(
    fields: dict[str, object], painted: tuple[int, int], two: Two
) -> None:
    """Some of its clients can send no name but OpenAI's."""
    assert edit(two.served.client, **fields).status_code == 200
    assert two.painted() == painted


def test_openai_is_told_the_names(two: Two) -> None:
    """A mistyped name is not painted by another model."""
    answer = edit(two.served.client, model="bech")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "model: must be one of demo, beach XL, not 'bech'"
    assert answer.json()["error"]["param"] == "model"
    assert two.painted() == (0, 0)


def test_openai_generates_and_streams_with_the_model_that_is_named(two: Two) -> None:
    """Every way of painting routes."""
    generated = two.served.client.post(
        "/v1/images/generations", json={"prompt": "x", "model": "beach XL", "size": "64x64"}
    )
    assert generated.status_code == 200
    assert edit(two.served.client, model="beach XL", stream="true").status_code == 200
    assert two.painted() == (0, 2)


def test_openai_lists_the_models(two: Two) -> None:
    """Open WebUI and LibreChat fill their menus with it."""
    client = two.served.client
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["demo", "beach XL"]
    assert client.get("/v1/models/beach XL").json()["id"] == "beach XL"
    answer = client.get("/v1/models/bech")
    assert answer.status_code == 404
    assert "demo, beach XL" in answer.json()["error"]["message"]


def test_a1111_lists_the_models_and_the_first_is_chosen(two: Two) -> None:
    """A title has "xl" in it, by which some clients know SDXL."""
    rows = two.served.client.get(f"{API}/sd-models").json()
    assert [row["title"] for row in rows] == ["demo-sdxl.safetensors", "beach XL.safetensors"]
    assert two.served.client.get(f"{API}/options").json()["sd_model_checkpoint"] == rows[0]["title"]


@pytest.mark.parametrize(
    ("checkpoint", "painted"),
    [
        ("beach XL.safetensors", (0, 1)),
        ("beach XL.safetensors [31e35c80fc]", (0, 1)),
        ("Beach xl", (0, 1)),
        ("demo-sdxl", (1, 0)),
        ("demo", (1, 0)),
        (None, (1, 0)),
    ],
)
def test_a1111_overrides_the_checkpoint(checkpoint: object, painted: tuple[int, int], two: Two) -> None:
    """By its title, with or without a hash, or by its name; the answer says which it was."""
    fields = img2img(override_settings={"sd_model_checkpoint": checkpoint})
    answer = two.served.client.post(f"{API}/img2img", json=fields)
    assert answer.status_code == 200, answer.text
    assert two.painted() == painted
    assert json.loads(answer.json()["info"])["sd_model_name"] == ("demo", "beach XL")[painted[1]]


def test_a1111_is_told_the_titles(two: Two) -> None:
    """Upstream would paint with whatever is loaded."""
    fields = img2img(override_settings={"sd_model_checkpoint": "bech"})
    answer = two.served.client.post(f"{API}/img2img", json=fields)
    assert answer.status_code == 422
    says = "sd_model_checkpoint must be one of demo-sdxl.safetensors, beach XL.safetensors, not 'bech'"
    assert says in answer.text
    assert two.painted() == (0, 0)


def test_one_model_takes_any_name_as_before(serve: Serve) -> None:
    """Of A1111's clients as of OpenAI's."""
    engine = FakeEngine()
    served = serve(engine)
    fields = img2img(override_settings={"sd_model_checkpoint": "other"})
    assert served.client.post(f"{API}/img2img", json=fields).status_code == 200
    assert len(engine.requests) == 1
