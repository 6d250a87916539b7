"""The settings in a picture's file over HTTP: written if the request, or else the operator, asks for it."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from inpaint.images.made import Made
from inpaint.images.metadata import read
from tests.support.served import Serve, Served, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]
FORMATS = ("jpeg", "png", "webp")
V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"


def over_v1(served: Served, **fields: Any) -> list[bytes]:
    answer = served.client.post(V1, json=body(base64=True, **fields))
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(image) for image in answer.json()["images"]]


def over_v2(served: Served, **fields: Any) -> list[bytes]:
    accepted = served.client.post(V2, json=body(**fields)).json()
    done: dict[str, Any] = {}

    def ended() -> bool:
        done.update(served.client.get(accepted["response_url"]).json())
        return done["status"] == "COMPLETED"

    eventually(ended)
    return [served.client.get(image["url"]).content for image in done["images"]]


def metadata_of(data: bytes) -> Made:
    made = read(data)
    assert made is not None, "the picture holds no settings"
    return made


@pytest.mark.parametrize("paint", [over_v1, over_v2])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_says_how_it_was_made_if_asked(served: Served, paint: Any, kind: str) -> None:
    """A user of the page opens an earlier result and gets its settings back."""
    fields = {"prompt": "a red circle, 猫", "samples": 2, "guidance_scale": 6.5, "scheduler": "ddim"}
    pictures = [metadata_of(data) for data in paint(served, metadata=True, output_format=kind, **fields)]
    assert [made.settings["seed"] for made in pictures] == [7, 8]
    for made in pictures:
        assert made.model == "demo"
        assert made.box is not None
        assert {n: made.settings[n] for n in ("prompt", "guidance_scale", "scheduler")} == {
            "prompt": "a red circle, 猫",
            "guidance_scale": 6.5,
            "scheduler": "DDIM",
        }


@pytest.mark.parametrize("paint", [over_v1, over_v2])
@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_said_unless_asked(served: Served, paint: Any, kind: str) -> None:
    """A user who replaces the hosted API publishes its pictures, and must not publish the prompts."""
    for fields in ({}, {"metadata": False}, {"metadata": None}):
        (data,) = paint(served, output_format=kind, prompt="my secret", **fields)
        assert read(data) is None
        info = Image.open(io.BytesIO(data)).info
        assert {"exif", "parameters", "inpaint"}.isdisjoint(info)
        assert all(
            "my secret".encode(encoding) not in data for encoding in ("utf-8", "utf-16-le", "utf-16-be")
        )


def test_the_operators_setting_counts_where_the_request_is_silent(serve: Serve) -> None:
    """An operator may want it in every picture; a request can still decide otherwise."""
    served = serve(metadata=True)
    for paint in (over_v1, over_v2):
        assert metadata_of(paint(served)[0]).settings["prompt"] == "a red circle"
        assert read(paint(served, metadata=False)[0]) is None


def test_a_models_path_is_not_revealed(serve: Serve) -> None:
    """A picture must not reveal where files are on the operator's disk."""
    served = serve(metadata=True, model="/srv/secret/models/mine.safetensors")
    (data,) = over_v1(served, output_format="png")
    assert metadata_of(data).model == "mine.safetensors"
    assert b"secret" not in data


def test_a_form_can_ask_for_it(served: Served) -> None:
    """``curl -F metadata=true`` works too."""
    form = {name: str(value) for name, value in body(metadata="true").items()}
    painted = served.client.post(V1, files={name: (None, value) for name, value in form.items()})
    assert metadata_of(painted.content).settings["seed"] == 7
    refused = served.client.post(V1, json=body(metadata="perhaps"))
    assert "metadata: must be true or false" in refused.json()["error"]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_download_in_another_format_says_it_too(served: Served, kind: str) -> None:
    """The page paints lossless PNGs and downloads the format of the input."""
    accepted = served.client.post(V2, json=body(metadata=True, output_format="png")).json()
    eventually(lambda: served.client.get(accepted["status_url"]).json()["status"] == "COMPLETED")
    (image,) = served.client.get(accepted["response_url"]).json()["images"]
    data = served.client.get(f"{image['url']}&format={kind}").content
    assert Image.open(io.BytesIO(data)).format == kind.upper()
    assert metadata_of(data).settings["prompt"] == "a red circle"
