"""The answers of ``/sdapi/v1`` to requests that were painted, and the text in their pictures."""

import json
from typing import Any

import pytest

from tests.support.served import MASK, PHOTO, SIZE, Serve, Served, b64
from tests.support.webui import API, detail, img2img, info_of, pictures_of, post

pytest_plugins = ["tests.support.served_fixtures"]

WIDTH, HEIGHT = SIZE
JSON = {"content-type": "application/json"}
NULL = type(None)
TYPES: dict[str, Any] = {
    **dict.fromkeys(("prompt", "negative_prompt", "sampler_name", "sd_model_name", "sd_model_hash"), str),
    **dict.fromkeys(("job_timestamp", "version"), str),
    **dict.fromkeys(("seed", "subseed", "width", "height", "steps", "batch_size", "clip_skip"), int),
    **dict.fromkeys(("seed_resize_from_w", "seed_resize_from_h", "index_of_first_image"), int),
    **dict.fromkeys(("subseed_strength", "cfg_scale", "denoising_strength"), int | float),
    **dict.fromkeys(("restore_faces", "is_using_inpainting_conditioning"), bool),
    **dict.fromkeys(("face_restoration_model", "sd_vae_name", "sd_vae_hash"), NULL),
    **dict.fromkeys(("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"), list),
    **dict.fromkeys(("infotexts", "styles"), list),
    "extra_generation_params": dict,
}


def test_info_has_the_types_that_clients_check(served: Served) -> None:
    """sd-backend-client refuses an answer with one field missing, or of another type."""
    info = info_of(post(served, n_iter=2, negative_prompt="rain"))
    assert info.keys() == TYPES.keys()
    for name, kind in TYPES.items():
        assert isinstance(info[name], kind), name
        assert kind is not int or type(info[name]) is int, name
    lists = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds", "infotexts")
    assert {len(info[name]) for name in lists} == {2}
    assert info["styles"] == []
    assert info["is_using_inpainting_conditioning"] is True


def test_a_picture_holds_its_text_and_gives_it_back(served: Served) -> None:
    """Photoshop and GIMP read the seed from the picture, which they send back to png-info."""
    answer = post(served, n_iter=2, prompt="a cat, (red:1.2)", negative_prompt="rain", sampler_name="UniPC")
    texts = info_of(answer)["infotexts"]
    for seed, file, picture, text in zip((7, 8), answer["images"], pictures_of(answer), texts, strict=True):
        assert picture.format == "PNG"
        assert picture.info["parameters"] == text
        prompt, negative, last = text.split("\n")
        assert (prompt, negative) == ("a cat, (red:1.2)", "Negative prompt: rain")
        assert last.startswith("Steps: 4, Sampler: UniPC, ")
        for image in (file, f"data:image/png;base64,{file}"):
            found = served.client.post(f"{API}/png-info", json={"image": image}).json()
            assert found["info"] == text
            assert found["parameters"]["Seed"] == str(seed)
            assert found["parameters"]["Negative prompt"] == "rain"
            assert "parameters" not in found["items"]


def test_a_picture_without_text_has_none(served: Served) -> None:
    """Photoshop asks about every picture, its own too."""
    found = served.client.post(f"{API}/png-info", json={"image": b64(PHOTO)}).json()
    assert found == {"info": "", "items": {}, "parameters": {}}


@pytest.mark.parametrize(
    "body", [{}, {"image": ""}, {"image": "no"}, {"image": 5}, {"image": "http://127.0.0.1/a.png"}]
)
def test_what_is_no_picture_has_no_text(served: Served, body: dict[str, object]) -> None:
    """The sentence names the field."""
    assert detail(served.client.post(f"{API}/png-info", json=body), 422).startswith("image: ")


def test_what_is_ignored_is_said(served: Served) -> None:
    """A user who switched tiling on must not look for it in the picture."""
    on = {"tiling": True, "restore_faces": "True", "enable_hr": 1, "subseed_strength": 0.2, "styles": ["a"]}
    said = info_of(post(served, **on))["extra_generation_params"]["Ignored"]
    assert set(said.split(", ")) == set(on)
    off = {"tiling": False, "restore_faces": None, "enable_hr": 0, "subseed_strength": "0.0", "styles": []}
    assert "Ignored" not in info_of(post(served, **off))["extra_generation_params"]


def test_the_answer_repeats_the_request_without_its_pictures(served: Served) -> None:
    """``parameters`` of a request with pictures would be as large as they are."""
    fields: dict[str, object] = {"steps": 4, "unknown": {"deep": [1, None, "x"]}}
    answer = post(served, **fields)
    assert answer["parameters"].items() >= fields.items()
    assert not answer["parameters"].keys() & {"init_images", "mask"}
    with_pictures = post(served, include_init_images=True, send_images=False)
    assert with_pictures["parameters"]["init_images"] == [b64(PHOTO)]
    assert with_pictures["parameters"]["mask"] == b64(MASK)
    assert with_pictures["images"] == []


def test_what_json_cannot_hold_is_not_repeated(served: Served) -> None:
    """Python reads 1e999 as infinity, which no browser could parse in the answer."""
    text = json.dumps(img2img(other="HERE")).replace('"HERE"', '[1e999, "\\ud800"]')
    answer = served.client.post(f"{API}/img2img", content=text, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert "other" not in answer.json()["parameters"]
    answer = served.client.post(f"{API}/img2img", content=text.replace("1e999", "1"), headers=JSON)
    assert answer.status_code == 200
    assert b"\\ud800" in answer.content


def test_the_price_is_that_of_any_other_request(serve: Serve) -> None:
    """One ledger: a web UI's client pays what the hosted API's would."""
    served = serve(metering=True)
    with served.calling(key=served.key(balance=1)) as client:
        assert client.post(f"{API}/img2img", json=img2img(denoising_strength=0.5)).status_code == 200
        spent = 1 - client.get("/v1/get-user-credits").json()["credits"]
        assert spent == pytest.approx(2 * WIDTH * HEIGHT / 1e6 * 0.001, abs=2e-6)
    with served.calling(key=served.key(balance=0)) as client:
        assert detail(client.post(f"{API}/img2img", json=img2img()), 402)
