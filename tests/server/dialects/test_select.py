"""POST /v2/select: clicks, boxes and strokes in, masks out; pictures are sent once."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from server.service import selecting
from tests.support.bad_pictures import BAD_PICTURES
from tests.support.hints import box_of
from tests.support.hostile_urls import HOSTS, LITERALS, SYNTAX
from tests.support.scenes import Scene, overlap, scene
from tests.support.served import MASK, PHOTO, PictureHost, Serve, Served, b64, file_of, opened, server_for
from tests.support.traps import BOMBS

pytest_plugins = ["tests.support.attacked_fixtures"]

SELECT, OFFER = "/v2/select", "/v2/sdxl-inpaint"
DRAWN: Scene = scene("steel star in the sky", (300, 220))
FILE = file_of(Image.fromarray(DRAWN.picture))
MIDDLE = [135, 110, 1]


def mask_of(said: dict[str, Any]) -> np.ndarray:
    """Return the mask of the whole picture."""
    whole = Image.new("L", (said["width"], said["height"]))
    mask = opened(base64.b64decode(said["mask"], validate=True))
    assert (mask.mode, mask.size) == ("L", (said["box"][2] - said["box"][0], said["box"][3] - said["box"][1]))
    whole.paste(mask, said["box"][:2])
    return np.asarray(whole)


def test_a_click_selects_and_the_next_one_sends_no_picture(served: Served) -> None:
    """The page sends 20 MB once, and then a hundred bytes a click."""
    first = served.client.post(SELECT, json={"image": b64(FILE), "points": [MIDDLE]})
    assert first.status_code == 200, first.text
    said = first.json()
    assert (said["method"], said["width"], said["height"], said["score"]) == ("snap", 300, 220, None)
    assert overlap(mask_of(said), DRAWN.truth) > 0.9
    again = served.client.post(SELECT, json={"picture": said["picture"], "points": [MIDDLE]})
    assert again.json() == said


def test_a_form_says_the_same(served: Served) -> None:
    """With lists as text, and the picture as a file."""
    box = list(box_of(DRAWN.truth).box or ())
    as_json = served.client.post(SELECT, json={"image": b64(FILE), "box": box}).json()
    for text in (json.dumps(box), ",".join(map(str, box))):
        as_form = served.client.post(SELECT, data={"box": text}, files={"image": FILE})
        assert as_form.json() == as_json
    points = {"points": "[[135, 110, 1], [5, 5, 0]]", "scribble": ""}
    assert served.client.post(SELECT, data=points, files={"image": FILE}).status_code == 200


def test_a_stroke_is_a_picture_of_the_same_size(served: Served) -> None:
    """White on the object; another size is refused."""
    stroke = file_of(Image.fromarray(DRAWN.truth))
    said = served.client.post(SELECT, data={}, files={"image": FILE, "scribble": stroke}).json()
    assert overlap(mask_of(said), DRAWN.truth) > 0.9
    refused = served.client.post(SELECT, json={"image": b64(FILE), "scribble": b64(MASK)})
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "scribble: is 48×32, but the picture is 300×220",
    )


def test_subject_and_background_need_no_hint(served: Served) -> None:
    """And are each other's rest."""
    masks = [
        mask_of(served.client.post(SELECT, json={"image": b64(FILE), "what": what}).json())
        for what in ("subject", "background")
    ]
    assert overlap(masks[0], DRAWN.truth) > 0.9
    assert (masks[0].astype(int) + masks[1] == 255).all()


def test_prepare_only_keeps_the_picture(served: Served) -> None:
    """The page sends it when the tool is chosen."""
    said = served.client.post(SELECT, json={"image": b64(FILE), "prepare": True}).json()
    assert (said["box"], said["mask"], said["width"]) == (None, None, 300)
    click = {"picture": said["picture"], "points": [MIDDLE]}
    assert served.client.post(SELECT, json=click).json()["box"] is not None


def test_a_phone_picture_is_selected_upright(served: Served) -> None:
    """Points and mask are in the pixels that people see."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of(Image.fromarray(DRAWN.picture).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    said = served.client.post(SELECT, json={"image": b64(turned), "points": [MIDDLE]}).json()
    assert (said["width"], said["height"]) == (300, 220)
    assert overlap(mask_of(said), DRAWN.truth) > 0.9


def test_the_picture_of_another_key_is_unknown(serve: Serve) -> None:
    """A digest tells nothing about what others have sent."""
    served = serve()
    with served.calling(key=served.key()) as ann, served.calling(key=served.key()) as ben:
        said = ann.post(SELECT, json={"image": b64(FILE), "prepare": True}).json()
        click = {"picture": said["picture"], "points": [MIDDLE]}
        assert (ann.post(SELECT, json=click).status_code, ben.post(SELECT, json=click).status_code) == (
            200,
            404,
        )


def test_pictures_are_held_up_to_a_size(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one unused for longest goes, and its click is told to send it again."""
    monkeypatch.setattr(selecting, "_HELD_BYTES", 2 * DRAWN.picture.nbytes)
    served = serve()
    digests = []
    for shade in range(3):
        file = file_of(Image.fromarray(DRAWN.picture // (shade + 1)))
        digests.append(
            served.client.post(SELECT, json={"image": b64(file), "prepare": True}).json()["picture"]
        )
    found = [served.client.post(SELECT, json={"picture": each, "points": [MIDDLE]}) for each in digests]
    assert [each.status_code for each in found] == [404, 200, 200]
    assert found[0].json()["error"] == "picture: is not held here, or no longer; send the image again"


def test_the_offer_names_the_methods(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page shows the tools that work, and how to get the other."""
    monkeypatch.setattr(selecting, "installed", lambda: None)
    served = serve()
    said = served.client.get(OFFER).json()["select"]
    assert said == {"methods": ["snap"], "missing": {"sam": "inpaint models fetch sam2-tiny"}}
    refused = served.client.post(SELECT, json={"image": b64(FILE), "points": [MIDDLE], "method": "sam"})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("method: sam is not installed on this server")


def test_it_costs_nothing_and_counts_for_the_rate(
    metered: Served, tmp_path: Path, picture_host: PictureHost
) -> None:
    """A key without credits may select, as often as its rate allows."""
    with metered.calling(key=metered.key()) as poor:
        assert poor.post(SELECT, json={"image": b64(FILE), "points": [MIDDLE]}).status_code == 200
    with server_for(tmp_path, picture_host, rate="1/minute") as slow:
        statuses = [slow.client.post(SELECT, json={"image": b64(PHOTO)}).status_code for _ in range(2)]
    assert statuses == [400, 429]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "image: is required, or `picture` of an earlier answer"),
        ({"image": b64(FILE)}, "points: give a point inside the object, a box around it, or a scribble"),
        ({"image": b64(FILE), "picture": "0" * 64}, "image: give either the image or the `picture`"),
        ({"picture": "x"}, "picture: must be the `picture` of an earlier answer, not 'x'"),
        ({"image": b64(FILE), "points": [[300, 0]]}, "points: (300, 0) is outside the picture of 300×220"),
        ({"image": b64(FILE), "points": [1, 2]}, "points: must be a list of at most 64 points"),
        (
            {"image": b64(FILE), "points": [[1, 2, 3]]},
            "points: must be [x, y, 1] inside or [x, y, 0] outside",
        ),
        ({"image": b64(FILE), "points": [[1, 1]] * 65}, "points: must be a list of at most 64"),
        ({"image": b64(FILE), "points": "9" * 5000}, "points: must be a list"),
        ({"image": b64(FILE), "points": [[10**400, 1]]}, "points: must be a list"),
        (
            {"image": b64(FILE), "box": [0, 0, 400, 10]},
            "box: must be left, top, right, bottom in the picture",
        ),
        ({"image": b64(FILE), "box": [0, 0, 1.5, 10]}, "box: must be four whole numbers"),
        ({"image": b64(FILE), "box": "x"}, "box: must be four whole numbers of pixels: left"),
        ({"image": b64(FILE), "method": "magic"}, "method: must be one of auto, snap, sam, not 'magic'"),
        ({"image": b64(FILE), "what": "cat"}, "what: must be one of object, subject, background, not 'cat'"),
        ({"image": b64(FILE), "variant": 1}, "variant: must be one of best, smaller, larger, not 1"),
        ({"image": b64(FILE), "prepare": "maybe"}, "prepare: must be true or false, not 'maybe'"),
        ({"image": "@@@", "points": [MIDDLE]}, "image: is neither a picture's URL nor valid base64"),
        ({"image": b64(FILE), "scribble": 7}, "scribble: must be an http(s) URL"),
    ],
)
def test_a_wrong_field_is_one_sentence(served: Served, fields: dict[str, object], sentence: str) -> None:
    """It names the field, and what would be right."""
    response = served.client.post(SELECT, json=fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"].startswith(sentence)


@pytest.mark.parametrize("field", ["image", "scribble"])
def test_bad_pictures_and_urls_that_lead_inside_are_refused(
    field: str, caller: httpx2.Client, metered: Served, canary: Any, unharmed: Any
) -> None:
    """Both fields pass the guards of every other picture."""
    fields: dict[str, object] = {"image": b64(FILE), "points": [MIDDLE]}
    for name, data in BAD_PICTURES.items():
        if data:
            response = caller.post(SELECT, json=fields | {field: b64(data)})
            assert response.status_code in (400, 413), name
            assert response.json()["error"].startswith(f"{field}: "), name
    for url in (*LITERALS[::8], *HOSTS, *SYNTAX):
        if url:  # nothing at all is a field that was not sent
            sent = json.dumps(fields | {field: url.replace(":P", f":{canary.port}")}).encode()
            response = caller.post(SELECT, content=sent, headers={"content-type": "application/json"})
            assert 400 <= response.status_code < 500, url
    own = f"{metered.url}/v2/requests/{'0' * 32}/images/0?token=x"
    assert "this server does not have" in caller.post(SELECT, json=fields | {field: own}).json()["error"]


def test_bodies_that_are_traps_are_refused(caller: httpx2.Client, unharmed: Any) -> None:
    """As on every other route."""
    for kind, data in BOMBS.values():
        response = caller.post(SELECT, content=data, headers={"content-type": kind})
        assert 400 <= response.status_code < 500


@pytest.fixture
def large() -> bytes:
    """Return a file of 24 megapixels."""
    file = io.BytesIO()
    Image.new("RGB", (6000, 4000), "teal").save(file, "PNG", compress_level=1)
    return file.getvalue()


def test_the_budget_of_pixels_counts(serve: Serve, large: bytes) -> None:
    """A picture that would not fit next to the others is refused, and one alone is selected in."""
    served = serve()
    said = served.client.post(SELECT, json={"image": b64(large), "points": [[3000, 2000]]})
    assert said.status_code == 200, said.text
    assert served.running.service.preparation.pixels.held == 0
