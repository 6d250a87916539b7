"""The field ``lengths`` over HTTP: what padding, grow and feather count."""

import json

import pytest

from inpaint.canvas.crop import cut
from tests.server.dialects.test_segmind_v2 import ended, submitted
from tests.support.served import FakeEngine, Served, b64, body, file_of, photo, white_box

pytest_plugins = ["tests.support.served_fixtures"]

V1 = "/v1/sdxl-inpaint"
LARGE = {"image": b64(file_of(photo((640, 320)))), "mask": b64(file_of(white_box((640, 320))))}
PIXELS = {"grow": 3, "feather": 5, "padding": 40}


def reach(served: Served) -> tuple[str, int, int]:
    """Return what the engine's last request says, and its lengths in pixels of the picture."""
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    (canvas,) = cut(engine.requests[-1], 128).canvases
    return engine.requests[-1].lengths, canvas.grow_px, canvas.feather_px


def test_lengths_are_of_the_box_unless_they_are_of_the_picture(served: Served) -> None:
    """In JSON and in forms; null and an absent field are the same."""
    for fields in ({}, {"lengths": None}, {"lengths": "box"}):
        assert served.client.post(V1, json=body(**LARGE, **PIXELS, **fields)).status_code == 200
        assert reach(served) == ("box", 2, 2)
    assert served.client.post(V1, json=body(**LARGE, **PIXELS, lengths="picture")).status_code == 200
    assert reach(served) == ("picture", 3, 5)
    form = {name: str(value) for name, value in body(**LARGE, **PIXELS, lengths="picture").items()}
    assert served.client.post(V1, data=form, files={"x": b""}).status_code == 200
    assert reach(served) == ("picture", 3, 5)


def test_a_queued_request_keeps_them(served: Served) -> None:
    """It is painted from what was written down."""
    answer = ended(served.client, submitted(served.client, **LARGE, **PIXELS, lengths="picture"))
    assert answer.json()["status"] == "COMPLETED"
    assert reach(served) == ("picture", 3, 5)


@pytest.mark.parametrize("lengths", ["", "Picture", "px", 1, True, ["picture"], {"picture": 1}])
def test_another_word_is_refused_by_name(lengths: object, served: Served) -> None:
    """With those that there are; empty text is an absent field."""
    sent = json.dumps(body(lengths=lengths))
    response = served.client.post(V1, content=sent, headers={"content-type": "application/json"})
    if lengths == "":
        assert response.status_code == 200
        return
    assert response.status_code == 400
    assert response.json()["error"].startswith("lengths: must be one of box, picture, not ")


def test_the_offer_names_them(served: Served) -> None:
    """A program that builds a form of the fields finds both words."""
    fields = served.client.get("/v2/sdxl-inpaint").json()["fields"]
    (found,) = [field for field in fields if field["name"] == "lengths"]
    assert (found["kind"], found["default"], found["choices"]) == ("choice", "box", ["box", "picture"])
