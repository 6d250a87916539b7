"""Over HTTP a picture says how it was made if its request, or else the operator, wants that."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from inpaint.images.metadata import Made, read
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


def told(data: bytes) -> Made:
    made = read(data)
    assert made is not None, "the picture says nothing"
    return made


@pytest.mark.parametrize("paint", [over_v1, over_v2])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_says_how_it_was_made_if_asked(served: Served, paint: Any, kind: str) -> None:
    """The page's user drops an earlier result on it, and gets its settings back."""
    fields = {"prompt": "a red circle, 猫", "samples": 2, "guidance_scale": 6.5, "scheduler": "ddim"}
    pictures = [told(data) for data in paint(served, metadata=True, output_format=kind, **fields)]
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
    """Whoever replaced the hosted API publishes its pictures, and never meant to publish the prompts."""
    for fields in ({}, {"metadata": False}, {"metadata": None}):
        (data,) = paint(served, output_format=kind, prompt="my secret", **fields)
        assert read(data) is None
        info = Image.open(io.BytesIO(data)).info
        assert {"exif", "parameters", "inpaint"}.isdisjoint(info)
        assert all(
            "my secret".encode(encoding) not in data for encoding in ("utf-8", "utf-16-le", "utf-16-be")
        )


def test_the_operators_setting_counts_where_the_request_is_silent(serve: Serve) -> None:
    """One studio wants it in every picture; the request has the last word all the same."""
    served = serve(metadata=True)
    for paint in (over_v1, over_v2):
        assert told(paint(served)[0]).settings["prompt"] == "a red circle"
        assert read(paint(served, metadata=False)[0]) is None


def test_a_models_path_is_not_told(serve: Serve) -> None:
    """Where an operator keeps his models is nobody's business."""
    served = serve(metadata=True, model="/srv/secret/models/mine.safetensors")
    (data,) = over_v1(served, output_format="png")
    assert told(data).model == "mine.safetensors"
    assert b"secret" not in data


def test_a_form_can_ask_for_it(served: Served) -> None:
    """curl -F metadata=true."""
    form = {name: str(value) for name, value in body(metadata="true").items()}
    assert (
        told(served.client.post(V1, files={n: (None, v) for n, v in form.items()}).content).settings["seed"]
        == 7
    )
    assert (
        "metadata: must be true or false"
        in served.client.post(V1, json=body(metadata="perhaps")).json()["error"]
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_the_download_in_another_format_says_it_too(served: Served, kind: str) -> None:
    """The page paints losslessly, in PNG, and downloads in the format of the input."""
    accepted = served.client.post(V2, json=body(metadata=True, output_format="png")).json()
    eventually(lambda: served.client.get(accepted["status_url"]).json()["status"] == "COMPLETED")
    (image,) = served.client.get(accepted["response_url"]).json()["images"]
    data = served.client.get(f"{image['url']}&format={kind}").content
    assert Image.open(io.BytesIO(data)).format == kind.upper()
    assert told(data).settings["prompt"] == "a red circle"
