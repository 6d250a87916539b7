"""What ``/sdapi/v1`` refuses: the status that A1111's clients know, and a sentence that names their field."""

import json
from typing import Any

import pytest
from PIL import Image

from inpaint.errors import OutOfMemoryError, PaintError
from tests.support.served import PHOTO, SIZE, Serve, Served, b64, file_of
from tests.support.webui import API, detail, engine_of, img2img

pytest_plugins = ["tests.support.served_fixtures"]

BLACK = b64(file_of(Image.new("L", SIZE)))
TWO = [b64(PHOTO)] * 2
WRONG: list[tuple[dict[str, object], str]] = [
    ({"steps": 0}, "steps: must be a whole number from 1 to 150, not 0"),
    ({"steps": "many"}, "steps: must be a whole number"),
    ({"steps": 7.5}, "steps: must be a whole number"),
    ({"steps": [20]}, "steps: must be a whole number"),
    ({"cfg_scale": 51}, "cfg_scale: must be a number from 0 to 50"),
    ({"denoising_strength": 1.5}, "denoising_strength: must be a number from 0 to 1"),
    ({"seed": -2}, "seed: must be a whole number from -1"),
    ({"seed": 10**30}, "seed: must be a whole number from -1"),
    ({"n_iter": 4, "batch_size": 5}, "batch_size: n_iter × batch_size must be at most 16, not 20"),
    ({"batch_size": 17}, "batch_size: must be a whole number from 1 to 16"),
    ({"mask_blur": -1}, "mask_blur: must be a number from 0 to 100"),
    ({"inpainting_fill": 4}, "inpainting_fill: must be a whole number from 0 to 3"),
    ({"inpaint_full_res": "perhaps"}, "inpaint_full_res: must be true or false"),
    ({"inpaint_full_res": 0, "width": 8}, "width: must be a whole number from 16 to 8192"),
    ({"inpaint_full_res": 0, "width": 8192, "height": 8192}, "width: must have at most 25 megapixels"),
    ({"mask": None, "width": 16, "height": 1024}, "width: must not be narrower than 1:16"),
    ({"prompt": 5}, "prompt: must be text"),
    ({"prompt": "a" * 20_000}, "prompt: must have at most 10000 characters"),
    ({"prompt": "<lora:missing:1>"}, "prompt: "),
    ({"sampler_name": 3}, "sampler_name: must be text"),
    ({"init_images": TWO}, "init_images: must hold one picture, not 2"),
    ({"init_images": [5]}, "init_images: must be "),
    ({"init_images": ["AAAA"]}, "init_images: "),
    ({"init_images": [b64(b"no picture")]}, "init_images: "),
    ({"mask": TWO}, "mask: must hold one picture, not 2"),
    ({"mask": BLACK}, "mask: nothing to repaint"),
    ({"alwayson_scripts": 5}, "alwayson_scripts: must be an object"),
    ({"alwayson_scripts": {"a": {"args": 5}}}, "alwayson_scripts: must hold objects"),
]


@pytest.mark.parametrize(("fields", "sentence"), WRONG)
def test_a_wrong_field_is_named_as_the_client_calls_it(
    served: Served, fields: dict[str, object], sentence: str
) -> None:
    """Nothing is painted, and the user sees what to change."""
    assert detail(served.client.post(f"{API}/img2img", json=img2img(**fields)), 422).startswith(sentence)
    assert not engine_of(served).requests


@pytest.mark.parametrize("images", [None, [], [None], [""], ""])
def test_a_missing_picture_is_not_found(served: Served, images: object) -> None:
    """Clients know upstream's words."""
    answer = served.client.post(f"{API}/img2img", json=img2img() | {"init_images": images})
    assert detail(answer, 404) == "Init image not found"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"script_name": "X/Y/Z plot"}, "X/Y/Z plot"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True}]}}}, "ControlNet"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, False, {"ad_model": "x"}]}}}, "ADetailer"),
        ({"alwayson_scripts": {"never": ["x"]}}, "never"),
    ],
)
def test_another_script_is_not_found(served: Served, fields: dict[str, Any], name: str) -> None:
    """A user of ControlNet must not take a picture without it for one with it."""
    answer = served.client.post(f"{API}/img2img", json=img2img(**fields))
    assert detail(answer, 422) == f"Script '{name}' not found"


def test_soft_inpainting_is_none_of_txt2img(served: Served) -> None:
    """As the list of scripts says."""
    scripts = {"soft inpainting": {"args": [True]}}
    answer = served.client.post(f"{API}/txt2img", json={"alwayson_scripts": scripts})
    assert detail(answer, 422) == "Script 'soft inpainting' not found"


def test_a_script_that_is_switched_off_is_none(served: Served) -> None:
    """Clients send the units of every extension that they know, most of them off."""
    off = {
        "ControlNet": {"args": [{"enabled": False, "model": "x"}, {"enabled": "false"}]},
        "ADetailer": {"args": [False, True, {"ad_model": "x"}]},
        "A": {"args": []},
        "B": {"args": [False]},
        "C": {"args": None},
        "D": None,
    }
    for fields in ({"alwayson_scripts": off}, {"alwayson_scripts": []}, {"script_name": "None"}):
        for path in ("img2img", "txt2img"):
            answer = served.client.post(f"{API}/{path}", json=img2img(**fields, width=64, height=64))
            assert answer.status_code == 200, answer.text


def test_what_txt2img_cannot_paint_is_refused(served: Served) -> None:
    """The width is named, for there is no picture whose size could be wrong."""
    for fields in ({"width": 8}, {"width": 8192, "height": 16}, {"width": 8000, "height": 8000}):
        assert detail(served.client.post(f"{API}/txt2img", json=fields), 422).startswith("width: ")


def test_a_name_in_an_error_may_hold_anything(served: Served) -> None:
    """Half an emoji in a script's name must not end as an internal error."""
    text = json.dumps({"script_name": "HERE"}).replace("HERE", "\\ud800\\u0000")
    answer = served.client.post(f"{API}/txt2img", content=text, headers={"content-type": "application/json"})
    assert detail(answer, 422).startswith("Script '")


def test_bodies_that_are_no_json_objects_are_refused(served: Served) -> None:
    """Each gets a sentence; none is a server's error."""
    json_type = {"content-type": "application/json"}
    post = served.client.post
    assert detail(post(f"{API}/txt2img", content=b"", headers=json_type), 422).startswith("body: ")
    assert detail(post(f"{API}/txt2img", content=b"[]", headers=json_type), 422).startswith("body: ")
    assert detail(post(f"{API}/txt2img", content=b"{}", headers={"content-type": "text/plain"}), 415)
    assert "JSON" in detail(post(f"{API}/img2img", files={"init_images": PHOTO}), 415)


def test_a_failed_engine_is_the_servers_error(served: Served) -> None:
    """The client may repeat it where that may help."""
    for error, status in (
        (PaintError("the model painted no picture"), 500),
        (OutOfMemoryError("no memory"), 503),
    ):
        engine_of(served).failures.append(error)
        answer = served.client.post(f"{API}/img2img", json=img2img())
        assert detail(answer, status)
        assert ("retry-after" in answer.headers) is (status == 503)


def test_limits_have_the_same_shape(serve: Serve) -> None:
    """A client reads ``detail`` of a rate limit, too."""
    served = serve(rate="1/minute", max_body_bytes=1_000_000)
    with served.calling(key=served.key()) as client:
        assert detail(client.post(f"{API}/txt2img", json={"prompt": "a" * 1_000_001}), 413)
        limited = client.post(f"{API}/txt2img", json={})
        assert detail(limited, 429)
        assert int(limited.headers["retry-after"]) > 0
