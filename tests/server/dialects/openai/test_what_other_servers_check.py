"""What the tests of two other servers of this API check, of which nothing is copied.

sglang 0.5.23 (multimodal_gen) and vllm-omni 0.30.0; what belongs to their own fields (``file_path``, layers,
``/content``) is left out, and for their ``/health`` there are ``/livez`` and ``/readyz``.
"""

import base64
from pathlib import Path
from typing import Any

import pytest

from inpaint.errors import PaintError
from tests.support.openai_api import (
    EDITS,
    GENERATIONS,
    IN,
    MODELS,
    OUT,
    edit,
    engine_of,
    files,
    generate,
    pictures,
)
from tests.support.served import MASK, PHOTO, FakeEngine, Serve, Served, colour_of, eventually, file_of, photo

pytest_plugins = ["tests.support.served_fixtures"]

SECOND = file_of(photo(colour="red"))
UPLOADS: dict[str, list[tuple[str, bytes]]] = {
    "one file": [("image", PHOTO)],
    "two files of one name": [("image", PHOTO), ("image", SECOND)],
    "a list of one": [("image[]", PHOTO)],
    "a list of two": [("image[]", PHOTO), ("image[]", SECOND)],
}
MAGIC = {None: b"\x89PNG", "png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}
BOTH = pytest.mark.parametrize("send", [edit, generate])


@pytest.mark.parametrize("name", UPLOADS)
def test_edits_take_one_file_or_several(name: str, served: Served) -> None:
    """The first is edited, whatever the field is called."""
    parts = [(field, (f"{i}.png", data)) for i, (field, data) in enumerate(UPLOADS[name])]
    answer = served.client.post(EDITS, data={"prompt": "x", "seed": "7"}, files=[*parts, ("mask", MASK)])
    (painted,) = pictures(answer)
    assert (painted.getpixel(IN), painted.getpixel(OUT)) == (colour_of(7), photo().getpixel(OUT))


@BOTH
def test_an_answer_has_its_time_and_pictures_in_base64(send: Any, served: Served) -> None:
    """``created`` is a whole number of seconds."""
    answer = send(served.client, response_format="b64_json").json()
    assert type(answer["created"]) is int
    assert base64.b64decode(answer["data"][0]["b64_json"], validate=True)


@BOTH
@pytest.mark.parametrize("kind", MAGIC)
def test_a_file_begins_as_its_format(send: Any, kind: str | None, served: Served) -> None:
    """PNG unless another is asked for."""
    (data,) = files(send(served.client, output_format=kind))
    assert data.startswith(MAGIC[kind])


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (40, 72)])
def test_a_generated_picture_has_the_size_that_was_asked_for(size: tuple[int, int], served: Served) -> None:
    """Multiples of 8 or not."""
    answer = generate(served.client, size=f"{size[0]}x{size[1]}")
    assert pictures(answer)[0].size == size
    assert answer.json()["size"] == f"{size[0]}x{size[1]}"


@BOTH
def test_n_pictures_are_n_items(send: Any, served: Served) -> None:
    """And they are not the same picture."""
    found = files(send(served.client, n=3))
    assert len(set(found)) == len(found) == 3


SAMPLING = {"seed": 42, "negative_prompt": "blurry", "num_inference_steps": 20, "guidance_scale": 3.5}


@BOTH
def test_sampling_fields_pass_through(send: Any, served: Served) -> None:
    """As the SDKs send them from extra_body."""
    assert send(served.client, **SAMPLING).status_code == 200
    (request,) = engine_of(served).requests
    assert {name: getattr(request, name) for name in SAMPLING} == SAMPLING


@BOTH
def test_sampling_fields_that_are_not_sent_are_the_defaults(send: Any, served: Served) -> None:
    """A seed is drawn, another for each request."""
    for _ in range(2):
        assert send(served.client, seed=None).status_code == 200
    one, other = engine_of(served).requests
    assert one.seed != other.seed
    assert (one.negative_prompt, one.num_inference_steps, one.guidance_scale) == (None, 25, 7.5)


@BOTH
@pytest.mark.parametrize(
    "wrong", [{"prompt": None}, {"n": 0}, {"n": 11}, {"size": "large"}, {"size": "64x"}], ids=str
)
def test_a_wrong_request_is_4xx(send: Any, wrong: dict[str, Any], served: Served) -> None:
    """And nothing is painted."""
    assert 400 <= send(served.client, **wrong).status_code < 500
    assert not engine_of(served).requests


@pytest.mark.parametrize("fields", [{"image": None}, {"image": None, "mask": None}], ids=["mask", "nothing"])
def test_an_edit_of_no_picture_is_4xx(fields: dict[str, Any], served: Served) -> None:
    """A mask is no picture to edit."""
    assert 400 <= edit(served.client, **fields).status_code < 500


def test_models_are_listed_in_openais_form(served: Served) -> None:
    """Programs ask for them to see whether the server is there."""
    listed = served.client.get(MODELS).json()
    assert listed["object"] == "list"
    assert [model["object"] for model in listed["data"]] == ["model"]
    assert all(model["id"] and model["owned_by"] for model in listed["data"])


@BOTH
def test_a_failing_engine_is_500_without_a_picture(send: Any, served: Served) -> None:
    """A client that only looks for b64_json must not find one."""
    engine_of(served).failures.append(PaintError("the model painted no picture"))
    answer = send(served.client)
    assert answer.status_code == 500
    assert "b64_json" not in answer.text


NAMES = [
    "../../escaped.png",
    "/tmp/escaped.png",
    "..\\escaped.png",
    "a/../../escaped.png",
    "%2e%2e%2fescaped.png",
]


def test_a_files_name_never_reaches_a_disk(serve: Serve, tmp_path: Path) -> None:
    """Neither as a path nor as a part of one, also where pictures are stored."""
    served = serve(data=tmp_path / "a" / "b" / "data")
    for name in NAMES:
        for response_format in ("b64_json", "url"):
            parts = {"image": (name, PHOTO), "mask": (name, MASK)}
            form = {"prompt": "x", "response_format": response_format}
            assert served.client.post(EDITS, data=form, files=parts).status_code == 200
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name]
    assert not Path("/tmp/escaped.png").exists()


def test_a_server_says_whether_it_is_ready(serve: Serve) -> None:
    """It is alive before the model is loaded."""
    engine = FakeEngine(loaded=False)
    served = serve(engine)
    assert served.client.get("/livez").status_code == 200
    assert served.client.get("/readyz").status_code == 503
    served.do(engine.load)
    eventually(lambda: served.client.get("/readyz").status_code == 200)
    assert generate(served.client).status_code == 200


def test_vllm_omnis_names_are_aliases(served: Served) -> None:
    """Its mask is called mask_image; its strength is ours."""
    answer = edit(served.client, mask=None, mask_image=MASK, strength=0.6)
    (painted,) = pictures(answer)
    assert (painted.getpixel(IN), painted.getpixel(OUT)) == (colour_of(7), photo().getpixel(OUT))
    assert engine_of(served).requests[0].strength == 0.6


def test_any_model_is_the_one_that_is_there(served: Served) -> None:
    """Not 400 for every name but the own one: clients have theirs built in."""
    for model in ("gpt-image-1", "dall-e-2", "", "demo"):
        body = {"model": model, "prompt": "x", "size": "32x32"}
        assert served.client.post(GENERATIONS, json=body).status_code == 200
