"""Edits over HTTP: masks of every kind, sizes, seeds, URLs, and the fields that clients send."""

import base64
import json
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageDraw

from inpaint.images import metadata
from tests.support.openai_api import (
    EDITS,
    IN,
    OUT,
    H,
    W,
    edit,
    engine_of,
    files,
    hole,
    pictures,
    problem,
    unlike,
)
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    PictureHost,
    Served,
    b64,
    colour_of,
    eventually,
    file_of,
    opened,
    photo,
    white_box,
)

pytest_plugins = ["tests.support.served_fixtures"]


def disc(mode: str, back: Any, front: Any) -> Image.Image:
    """A mask with a disc."""
    mask = Image.new(mode, SIZE, back)
    ImageDraw.Draw(mask).ellipse((8, 4, 30, 28), fill=front)
    return mask


def erased() -> Image.Image:
    """The photo itself with a hole, as people make masks for OpenAI's API."""
    return Image.composite(photo().convert("RGBA"), Image.new("RGBA", SIZE, (1, 2, 3, 0)), disc("L", 255, 0))


MASKS = {
    "a transparent hole in white": disc("RGBA", "white", (0, 0, 0, 0)),
    "a transparent hole in black": disc("RGBA", "black", (0, 0, 0, 0)),
    "a hole in the photo": erased(),
    "a faint hole": disc("LA", (0, 128), (255, 127)),
    "grey and alpha": disc("LA", (255, 255), (255, 0)),
    "a palette with a transparent colour": disc("L", 0, 1).convert("P"),
    "white without alpha": disc("L", 0, 255),
    "white, with colours": disc("RGB", "black", "white"),
    "one bit": disc("1", 0, 1),
    "light grey": disc("L", 127, 128),
}


def mask_file(name: str) -> bytes:
    """A file of MASKS."""
    return file_of(MASKS[name], transparency=1) if "palette" in name else file_of(MASKS[name])


@pytest.mark.parametrize("name", MASKS)
def test_only_what_the_mask_repaints_changes(name: str, served: Served) -> None:
    """Bit for bit, through a stock client's request; black would be repainted if luminance were read."""
    (painted,) = pictures(edit(served.client, mask=mask_file(name)))
    changed = unlike(painted, photo())
    expected = disc("L", 0, 255)
    assert list(changed.tobytes()) == list(expected.tobytes())


@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_a_pictures_own_hole_is_repainted(kind: str, served: Served) -> None:
    """As in OpenAI's API: the image must then have transparency, which is used as the mask."""
    image = photo().convert(kind)
    image.putalpha(disc("L", 255, 0))
    (painted,) = pictures(edit(served.client, image=file_of(image), mask=None))
    changed = unlike(painted.convert("RGB"), image.convert("RGB"))
    assert list(changed.tobytes()) == list(disc("L", 0, 255).tobytes())


def test_without_a_mask_the_whole_picture_is_edited(served: Served) -> None:
    """Open WebUI and LibreChat send none; the strength lets the picture be recognised."""
    (painted,) = pictures(edit(served.client, mask=None))
    assert painted.getcolors() == [(W * H, colour_of(7))]
    (request,) = engine_of(served).requests
    assert (request.strength, request.area) == (0.75, "whole")


def test_without_a_mask_the_callers_strength_counts(served: Served) -> None:
    """A field that was sent is never replaced by a default."""
    edit(served.client, mask=None, strength=0.5)
    assert engine_of(served).requests[0].strength == 0.5


def test_a_soft_mask_has_strengths(served: Served) -> None:
    """An alpha of 191 means a strength of 64 of 255."""
    assert edit(served.client, mask=file_of(hole(alpha=191)), soft="true").status_code == 200
    (request,) = engine_of(served).requests
    assert request.soft
    assert request.mask.getpixel(IN) == 64
    assert request.mask.getpixel(OUT) == 0


REFUSED = {
    "opaque everywhere": (file_of(Image.new("RGBA", SIZE, "white")), "nothing in it is transparent"),
    "hardly transparent": (file_of(hole(alpha=128)), "alpha below 128"),
    "black without alpha": (file_of(Image.new("L", SIZE)), "nothing to repaint"),
    "another size": (file_of(hole((W * 2, H * 2))), f"size of the picture, {W}×{H}, but is {W * 2}×{H * 2}"),
    "a pixel off": (file_of(white_box((W + 1, H))), f"{W}×{H}, but is {W + 1}×{H}"),
    "no picture": (b"mask", "is not a picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mask_that_repaints_nothing_is_refused(name: str, served: Served) -> None:
    """The sentence says what to send; nothing is painted."""
    mask, sentence = REFUSED[name]
    assert sentence in problem(edit(served.client, mask=mask), 400, "mask")
    assert not engine_of(served).requests


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (None, (W, H)),
        ("auto", (W, H)),
        (f"{W}x{H}", (W, H)),
        (f"{2 * W}x{2 * H}", (2 * W, 2 * H)),
        (f"{W // 2}x{H // 2}", (W // 2, H // 2)),
        (f"{2 * W + 1}x{2 * H}", (2 * W + 1, 2 * H)),
        ("1024x1024", (W, H)),
        ("1024x1536", (W, H)),
    ],
)
@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_a_size_of_the_same_shape_is_answered(
    asked: str | None, answered: tuple[int, int], response_format: str, served: Served
) -> None:
    """Another shape would need another picture; the answer says which size it has."""
    answer = edit(served.client, size=asked, response_format=response_format).json()
    assert answer["size"] == f"{answered[0]}x{answered[1]}"
    if response_format == "url":
        painted = opened(httpx2.get(answer["data"][0]["url"], trust_env=False).content)
    else:
        painted = opened(base64.b64decode(answer["data"][0]["b64_json"]))
    assert painted.size == answered
    assert painted.getpixel((answered[0] - 3, answered[1] // 2)) == colour_of(7)


def test_several_pictures_have_their_seeds(served: Served) -> None:
    """They count up, and each paints its picture again."""
    answer = edit(served.client, n=3)
    assert [item["seed"] for item in answer.json()["data"]] == [7, 8, 9]
    assert [image.getpixel(IN) for image in pictures(answer)] == [colour_of(s) for s in (7, 8, 9)]
    assert pictures(edit(served.client, seed=9))[0] == pictures(answer)[2]


def test_urls_need_no_key_and_are_taken_as_pictures_again(serve: Any) -> None:
    """A client that got a URL edits that picture next, without uploading it."""
    served = serve()
    with served.calling(key=served.key()) as client:
        answer = edit(client, response_format="url", n=2, output_format="webp").json()
        urls = [item["url"] for item in answer["data"]]
        assert [list(item) for item in answer["data"]] == [["url", "seed"]] * 2
        painted = [httpx2.get(url, trust_env=False) for url in urls]
        assert [response.headers["content-type"] for response in painted] == ["image/webp"] * 2
        again = edit(client, image=urls[0], seed=9)
    assert pictures(again)[0].getpixel(IN) == colour_of(9)
    near = pictures(again)[0].getpixel(OUT)
    assert near == opened(painted[0].content).getpixel(OUT)


MAGIC = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}


@pytest.mark.parametrize("kind", MAGIC)
def test_a_file_has_the_format_that_was_asked_for(kind: str, served: Served) -> None:
    """A compression of 0 is the worst quality, and no error."""
    fine, rough = (edit(served.client, output_format=kind, output_compression=q) for q in (100, 0))
    assert fine.json()["output_format"] == kind
    assert files(fine)[0].startswith(MAGIC[kind])
    assert kind == "png" or len(files(rough)[0]) < len(files(fine)[0])


STEPS = {"low": 15, "auto": 25, "medium": 25, "high": 40, "xhigh": 50, "max": 60, "standard": 25, "hd": 40}


@pytest.mark.parametrize("quality", STEPS)
def test_quality_is_a_number_of_steps(quality: str, served: Served) -> None:
    """More steps, more time; the answer repeats the word."""
    assert edit(served.client, quality=quality).json()["quality"] == quality
    assert engine_of(served).requests[0].num_inference_steps == STEPS[quality]


OWN: dict[str, object] = {
    "negative_prompt": "blue",
    "seed": 11,
    "strength": 0.8,
    "scheduler": "euler a",
    "num_inference_steps": 12,
    "guidance_scale": 4.5,
    "guidance_rescale": 0.5,
    "guidance_interval": [0.2, 0.8],
    "area": "whole",
    "padding": 64,
    "grow": 0,
    "feather": 3,
    "lengths": "picture",
    "fill": "telea",
    "color_match": False,
    "pace": "near",
}
PAINTED = OWN | {"scheduler": "Euler a", "guidance_interval": (0.2, 0.8)}


def as_form(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as OpenAI's clients write them into a form: text, and lists with brackets."""
    return {
        f"{name}[]" if isinstance(value, list) else name: [str(part) for part in value]
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
        for name, value in fields.items()
    }


@pytest.mark.parametrize("how", ["form", "json"])
def test_our_own_fields_reach_the_engine(how: str, served: Served) -> None:
    """Clients pass them on from extra_body; quality does not win over num_inference_steps."""
    fields: dict[str, Any] = {"prompt": "x", "quality": "max", **OWN}
    if how == "form":
        response = served.client.post(EDITS, data=as_form(fields), files={"image": PHOTO, "mask": MASK})
    else:
        response = served.client.post(EDITS, json=fields | {"image": b64(PHOTO), "mask": b64(MASK)})
    assert response.status_code == 200, response.text
    (request,) = engine_of(served).requests
    assert {name: getattr(request, name) for name in PAINTED} == PAINTED


def test_defaults_are_the_engines(served: Served) -> None:
    """What is not sent is not made up."""
    edit(served.client, seed=None)
    (request,) = engine_of(served).requests
    assert (request.negative_prompt, request.guidance_scale, request.strength) == (None, 7.5, 0.9)
    assert (request.fill, request.scheduler, request.samples) == ("original", "DPM2 Karras", 1)


PICTURES: dict[str, dict[str, Any]] = {
    "base64": {"image": b64(PHOTO), "mask": b64(MASK)},
    "data URIs": {
        "image": f"data:image/png;base64,{b64(PHOTO)}",
        "mask": f"data:image/png;base64,{b64(MASK)}",
    },
    "a list": {"image": [b64(PHOTO), b64(MASK)], "mask": b64(MASK)},
    "OpenAI's objects": {
        "images": [{"image_url": f"data:image/png;base64,{b64(PHOTO)}"}],
        "mask": {"image_url": f"data:image/png;base64,{b64(MASK)}"},
    },
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_in_json(name: str, served: Served) -> None:
    """In every notation that clients of this API write."""
    (painted,) = pictures(served.client.post(EDITS, json={"prompt": "x", "seed": 7} | PICTURES[name]))
    assert (painted.getpixel(IN), painted.getpixel(OUT)) == (colour_of(7), photo().getpixel(OUT))


def test_pictures_by_url(served: Served, picture_host: PictureHost) -> None:
    """In a form as text."""
    image, mask = picture_host.put("/p.png", PHOTO), picture_host.put("/m.png", MASK)
    (painted,) = pictures(edit(served.client, image=image, mask=mask))
    assert (painted.getpixel(IN), painted.getpixel(OUT)) == (colour_of(7), photo().getpixel(OUT))


def test_of_several_pictures_the_first_is_edited(served: Served) -> None:
    """The mask belongs to it; litellm and LibreChat write image[] even for one."""
    second = file_of(photo(colour="red"))
    parts = [("image[]", ("1.png", PHOTO)), ("image[]", ("2.png", second)), ("mask", ("m.png", MASK))]
    answer = served.client.post(EDITS, data={"prompt": "x", "seed": "7"}, files=parts)
    (painted,) = pictures(answer)
    assert painted.getpixel(OUT) == photo().getpixel(OUT)
    assert answer.json()["warnings"] == ["image: only the first of 2 pictures is edited"]


def test_unknown_fields_and_any_model_are_accepted(served: Served) -> None:
    """Clients send what OpenAI's newest model knows, and name it."""
    ignored = {
        "model": "gpt-image-1",
        "input_fidelity": "high",
        "user": "u",
        "safety_identifier": "s",
        "moderation": "low",
        "style": "vivid",
        "background": "opaque",
        "complexity": "3",
    }
    answer = edit(served.client, **ignored)
    assert answer.status_code == 200
    assert "gpt" not in answer.text
    assert answer.headers["x-request-id"]


def test_what_a_picture_was_made_with_is_written_if_the_operator_wants_it(serve: Any) -> None:
    """As for every other dialect."""
    (data,) = files(edit(serve(metadata=True).client))
    made = metadata.read(data)
    assert made is not None
    assert made.settings["prompt"] == "a red circle"


def test_a_client_that_does_not_wait_for_its_urls_cancels_the_request(serve: Any) -> None:
    """It never learnt the request's id, so that nobody could take the pictures."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine)
    body = json.dumps(
        {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "x", "response_format": "url"}
    ).encode()
    head = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}")
    connection = served.raw(f"POST {EDITS} HTTP/1.1", *head, send=body)
    ticket = engine.next()
    connection.close()
    eventually(lambda: ticket.state == "cancelled")
