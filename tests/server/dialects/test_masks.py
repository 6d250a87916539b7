"""Masks over HTTP: those of other programs, those that are none, and the price of islands far apart."""

import json
import re
from typing import Any

import pytest
from PIL import Image, ImageDraw

from inpaint.images import metadata
from tests.conftest import PORTRAIT
from tests.server.dialects.test_segmind_v1 import V1, problem
from tests.server.dialects.test_segmind_v2 import V2, credits_left, ended, submitted
from tests.support.served import SIZE, Serve, Served, b64, body, colour_of, file_of, opened, photo

pytest_plugins = ["tests.support.served_fixtures"]

W, H = SIZE
IN, OUT = (W - 4, H // 2), (W // 2 - 4, H // 2)  # in the right half, which is repainted, and in the left


def half(mode: str, back: Any, front: Any, size: tuple[int, int] = SIZE) -> str:
    """A mask, in base64, whose right half is ``front``."""
    mask = Image.new(mode, size, back)
    mask.paste(front, (size[0] // 2, 0, *size))
    return b64(file_of(mask))


MASKS: dict[str, dict[str, object]] = {
    "white is repainted": {"mask": half("L", 0, 255)},
    "black is repainted": {"mask": half("RGB", "white", "black"), "invert_mask": True},
    "transparent is repainted": {
        "mask": half("RGBA", (0, 99, 0, 255), (0, 0, 0, 0)),
        "mask_channel": "alpha",
    },
    "opaque is repainted": {
        "mask": half("LA", (0, 0), (0, 255)),
        "mask_channel": "alpha",
        "invert_mask": True,
    },
    "twice the size": {"mask": half("L", 0, 255, (2 * W, 2 * H)), "resize_mask": True},
    "a pixel wider, transparent": {
        "mask": half("LA", (0, 255), (0, 0), (W + 1, H)),
        "resize_mask": True,
        "mask_channel": "alpha",
    },
}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", MASKS)
def test_masks_of_other_programs(name: str, version: str, served: Served) -> None:
    """Immediately, and after the store has kept the mask."""
    fields = MASKS[name] | {"output_format": "png", "metadata": True}
    if version == "v1":
        data = served.client.post(V1, json=body(**fields)).content
    else:
        answer = ended(served.client, submitted(served.client, **fields)).json()
        data = served.client.get(answer["images"][0]["url"]).content
    painted = opened(data)
    assert painted.getpixel(IN) == colour_of(7)
    assert painted.getpixel(OUT) == photo().getpixel(OUT)
    made = metadata.read(data)
    assert made is not None
    for field in ("mask_channel", "invert_mask", "resize_mask"):
        assert made.settings[field] == fields.get(field, {"mask_channel": "luminance"}.get(field, False))


def test_forms_and_texts_say_the_same(served: Served) -> None:
    """A form has no booleans."""
    form = {
        "prompt": "x",
        "seed": "7",
        "output_format": "png",
        "invert_mask": "true",
        "mask_channel": "alpha",
    }
    clear = Image.new("LA", SIZE, (0, 0))
    clear.paste((0, 255), (W // 2, 0, W, H))
    files = {"image": file_of(photo()), "mask": file_of(clear)}
    painted = opened(served.client.post(V1, data=form, files=files).content)
    assert (painted.getpixel(IN), painted.getpixel(OUT)) == (colour_of(7), photo().getpixel(OUT))


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_read_before_its_picture_is_extended(name: str, served: Served) -> None:
    """The new pixels are repainted in any case, also where the mask is inverted."""
    fields = MASKS[name] | {"output_format": "png", "extend": [0, 0, 0, 16]}
    painted = opened(served.client.post(V1, json=body(**fields)).content)
    assert painted.size == (W, H + 16)
    assert painted.getpixel((4, H + 8)) == colour_of(7)
    assert painted.getpixel(IN) == colour_of(7)
    assert painted.getpixel(OUT) == photo().getpixel(OUT)


def test_a_draft_is_compared_where_its_mask_repaints(served: Served) -> None:
    """Refining uses the stored mask, read as the request says."""
    fields = {"mask": half("LA", (0, 255), (0, 0)), "mask_channel": "alpha", "output_format": "png"}
    draft = submitted(served.client, pace="near", scheduler="DDIM", **fields)
    ended(served.client, draft)
    response = served.client.post(f"/v2/requests/{draft}/refine", json={})
    assert response.status_code == 200, response.text
    answer = ended(served.client, response.json()["request_id"]).json()
    assert answer["distance_db"] == [None], "the fake engine paints both alike"


def erased() -> str:
    """A photo with a disc erased, as OpenAI's API takes it."""
    cut = Image.open(PORTRAIT).convert("RGBA").resize(SIZE)
    alpha = Image.new("L", SIZE, 255)
    ImageDraw.Draw(alpha).ellipse((10, 10, 30, 25), fill=0)
    cut.putalpha(alpha)
    return b64(file_of(cut))


REFUSED = {
    "a photo with a part erased": (
        {"mask": erased()},
        "mask: looks like a photograph with a part erased.*alpha",
    ),
    "black with a hole": (
        {"mask": half("LA", (0, 255), (0, 0))},
        "mask: nothing to repaint.*transparent in part.*mask_channel to alpha",
    ),
    "alpha of a mask without": (
        {"mask": half("L", 0, 255), "mask_channel": "alpha"},
        "mask: nothing in it is",
    ),
    "white, inverted": ({"mask": half("L", 255, 255), "invert_mask": True}, "mask: nothing to repaint"),
    "another shape": (
        {"mask": half("L", 0, 255, (W, 2 * H)), "resize_mask": True},
        "mask: must have the shape of the picture",
    ),
    "a pixel off": ({"mask": half("L", 0, 255, (W + 1, H))}, "with resize_mask"),
    "another channel": ({"mask_channel": "red"}, "mask_channel: must be one of luminance, alpha, not 'red'"),
    "neither true nor false": ({"invert_mask": "perhaps"}, "invert_mask: must be true or false"),
    "resized perhaps": ({"resize_mask": 3}, "resize_mask: must be true or false"),
}


@pytest.mark.parametrize("url", [V1, V2])
@pytest.mark.parametrize("name", REFUSED)
def test_a_mask_that_cannot_be_meant_is_refused(name: str, url: str, served: Served) -> None:
    """Before it is charged and queued, with what to do."""
    fields, sentence = REFUSED[name]
    text = problem(served.client.post(url, json=body(**fields)), 400)
    assert re.search(sentence, text), text


def far_apart(*islands: tuple[int, int, int, int]) -> dict[str, object]:
    side = 640
    mask = Image.new("L", (side, side))
    for island in islands:
        mask.paste(255, island)
    return {"image": b64(file_of(photo((side, side)))), "mask": b64(file_of(mask))}


ONE = far_apart((20, 20, 60, 60))
THREE = far_apart((20, 20, 60, 60), (560, 30, 610, 80), (380, 500, 620, 530))


def test_each_box_has_its_price_and_the_answer_says_how_many(serve: Serve) -> None:
    """The work is three times as much, and known before it is painted."""
    served = serve(metering=True, price=0.01)
    with served.calling(key=served.key(balance=5)) as client:
        one, three = (client.post(V1, json=body(**fields)).headers for fields in (ONE, THREE))
        whole = client.post(V1, json=body(**THREE, area="whole")).headers
        before = credits_left(client)
        answer = ended(client, submitted(client, **THREE)).json()
        assert before - credits_left(client) == pytest.approx(float(three["x-cost"]), abs=2e-6)
    assert float(three["x-cost"]) == pytest.approx(3 * float(one["x-cost"]), abs=3e-6)
    assert whole["x-cost"] == one["x-cost"]
    assert json.loads(three["x-output-metadata"])["boxes"] == 3
    assert "boxes" not in json.loads(one["x-output-metadata"]), "the hosted API's clients know it not"
    assert answer["boxes"] == 3
    assert answer["metrics"]["cost"] == pytest.approx(float(three["x-cost"]))


def test_an_extended_picture_is_priced_by_its_own_boxes(serve: Serve) -> None:
    """The new edge is far from a mark in the opposite corner."""
    served = serve(metering=True, price=0.01)
    with served.calling(key=served.key(balance=5)) as client:
        answer = client.post(V1, json=body(**ONE, extend=[0, 0, 16, 0]))
    facts = json.loads(answer.headers["x-output-metadata"])
    steps = 22
    boxes = facts.get("boxes", 1)
    assert float(answer.headers["x-cost"]) == pytest.approx(steps * 656 * 640 / 1e6 * boxes * 0.01, abs=2e-6)
