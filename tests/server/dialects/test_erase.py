"""``POST /v2/erase``: a part is erased by no engine, under the guards of painting."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from inpaint.canvas import patch_fill
from inpaint.canvas.erase import erase
from inpaint.images.codec import decode
from server.service import erasing
from tests.inpaint.images.test_bombs import DECODE_BOMBS
from tests.support.bad_pictures import BAD_PICTURES, odd_pictures
from tests.support.hostile_urls import HOSTS, LITERALS, SYNTAX
from tests.support.loopback import Canary
from tests.support.served import (
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    b64,
    body,
    eventually,
    file_of,
    opened,
)

pytest_plugins = ["tests.support.served_fixtures", "tests.support.attacked_fixtures"]

Background = Callable[..., "Future[Any]"]
ERASE, V1, OFFER = "/v2/erase", "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
SIZE = (96, 64)
BOX = (34, 14, 66, 46)  # what is marked, and 6 pixels around it


def noisy() -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(60, 200, (SIZE[1], SIZE[0], 3), dtype=np.uint8))


def square() -> Image.Image:
    mask = Image.new("L", SIZE)
    mask.paste(255, (40, 20, 60, 40))
    return mask


PHOTO, MASK = file_of(noisy()), file_of(square())


def sent(**fields: object) -> dict[str, object]:
    plain: dict[str, object] = {"image": b64(PHOTO), "mask": b64(MASK)}
    return {name: value for name, value in (plain | fields).items() if value is not None}


def test_a_part_is_erased_and_the_rest_is_exact(served: Served) -> None:
    """The same pixels as in Python, from JSON and from a form."""
    wanted = erase(noisy(), square())
    for how in ({"json": sent()}, {"files": {"image": PHOTO, "mask": MASK}}):
        response = served.client.post(ERASE, **how)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "image/png"
        assert response.headers["x-box"] == ",".join(map(str, wanted.box)) == ",".join(map(str, BOX))
        assert opened(response.content).tobytes() == wanted.image.tobytes()


def test_the_changed_box_alone_is_answered_without_loss(served: Served) -> None:
    """A page composes it with the picture that it has."""
    whole = opened(served.client.post(ERASE, json=sent()).content)
    for given in (PHOTO, file_of(noisy(), "WEBP", lossless=True)):
        response = served.client.post(ERASE, json=sent(image=b64(given), crop="box", format="jpeg"))
        assert response.headers["content-type"] == "image/png"
        assert response.headers["x-box"] == ",".join(map(str, BOX))
        assert opened(response.content).tobytes() == whole.crop(BOX).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_format_is_the_pictures_own_unless_another_is_asked_for(served: Served, kind: str) -> None:
    """Browsers show each answer."""
    data = file_of(noisy(), kind)
    own = "png" if kind == "TIFF" else kind.lower()
    answer = served.client.post(ERASE, json=sent(image=b64(data)))
    assert answer.headers["content-type"] == f"image/{own}"
    for wanted in ("png", "jpeg", "webp"):
        answer = served.client.post(ERASE, json=sent(image=b64(data), format=wanted, quality="80"))
        assert (answer.headers["content-type"], opened(answer.content).size) == (f"image/{wanted}", SIZE)


def test_where_a_photograph_was_taken_does_not_come_back(served: Served) -> None:
    """As for painted pictures."""
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    answer = served.client.post(ERASE, json=sent(image=b64(file_of(noisy(), "JPEG", exif=exif))))
    assert b"A camera" not in answer.content


def test_masks_are_read_as_for_painting(served: Served) -> None:
    """Inverted, by transparency, or smaller; numbers and truth values may be text."""
    wanted = served.client.post(ERASE, json=sent()).content
    inverse = square().point(lambda v: 255 - v)
    alpha = Image.merge("LA", (square(), inverse))
    for fields in (
        {"mask": b64(file_of(inverse)), "invert_mask": "true"},
        {"mask": b64(file_of(alpha)), "mask_channel": "alpha", "format": None, "crop": ""},
        {"mask": b64(file_of(square().resize((48, 32)))), "resize_mask": True, "grow": "6"},
    ):
        assert served.client.post(ERASE, json=sent(**fields)).content == wanted, fields


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"image": None}, 400, "image: is required"),
        ({"mask": None}, 400, "mask: is required"),
        ({"mask": b64(file_of(Image.new("L", SIZE)))}, 400, "mask: nothing to repaint"),
        ({"mask": b64(file_of(Image.new("L", SIZE, 255)))}, 400, "mask: covers the whole picture"),
        ({"mask": b64(file_of(Image.new("L", (64, 64), 255)))}, 400, "mask: must have the picture's size"),
        ({"grow": 257}, 400, "grow: must be a whole number from 0 to 256, not 257"),
        ({"grow": "x" * 20_000}, 400, "grow: must be a whole number from 0 to 256"),
        ({"format": "gif"}, 400, "format: must be one of jpeg, png, webp, not 'gif'"),
        ({"quality": 0}, 400, "quality: must be a whole number from 1 to 100, not 0"),
        ({"crop": "all"}, 400, "crop: must be one of box, not 'all'"),
        ({"mask_channel": "red"}, 400, "mask_channel: must be one of luminance, alpha"),
        ({"invert_mask": "perhaps"}, 400, "invert_mask: must be true or false"),
        ({"image": 3}, 400, "image: must be an http(s) URL"),
        ({"image": b64(PHOTO + bytes(20_000_000))}, 413, "image: must be a file of at most 20 MB"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(served: Served, fields: dict[str, object], status: int, says: str) -> None:
    """It names the field."""
    response = served.client.post(ERASE, json=sent(**fields))
    assert (response.status_code, response.json()["error"][: len(says)]) == (status, says)


def test_it_costs_nothing_and_counts_in_the_rate(serve: Serve) -> None:
    """No GPU works for it; a key without credits may erase, but not without end."""
    served = serve(metering=True, price=1.0, rate="3/minute")
    with served.calling(key=served.key(balance=0)) as client:
        assert client.post(V1, json=body()).status_code == 406
        assert [client.post(ERASE, json=sent()).status_code for _ in range(3)] == [200, 200, 429]


def test_it_needs_the_scope_for_painting(serve: Serve) -> None:
    """As every route that takes pictures."""
    served = serve()
    with served.calling(key=served.key(scopes=("metrics",))) as client:
        assert client.post(ERASE, json=sent()).status_code == 403


def test_it_works_while_no_model_is_loaded(serve: Serve) -> None:
    """There is nothing to wait for."""
    assert serve(FakeEngine(loaded=False)).client.post(ERASE, json=sent()).status_code == 200


def test_its_pixels_count_in_the_budget(serve: Serve, background: Background) -> None:
    """Refused while another request fills the memory, and given back in the end."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, max_decoded_pixels=1)
    first = background(served.client.post, V1, json=body())
    ticket = engine.next()
    assert served.client.post(ERASE, json=sent()).status_code == 503
    served.do(engine.paint, ticket)
    assert first.result().status_code == 200
    eventually(lambda: served.client.post(ERASE, json=sent()).status_code == 200)


def test_one_that_takes_too_long_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's deadline holds, and the next is answered."""
    done = threading.Event()

    def slow(*arguments: Any) -> erasing.Answered:
        done.wait(30)
        return erasing.erased(*arguments)

    served = serve(deadline_s=2)
    monkeypatch.setattr("server.dialects.erase.erased", slow)
    response = served.client.post(ERASE, json=sent())
    assert (response.status_code, "2 seconds" in response.json()["error"]) == (504, True)
    done.set()
    monkeypatch.undo()
    eventually(lambda: served.client.post(ERASE, json=sent()).status_code == 200)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyPatchMatch as on a system without it."""
    monkeypatch.setitem(__import__("sys").modules, "patchmatch", None)
    patch_fill._library.cache_clear()
    yield
    patch_fill._library.cache_clear()


def fills(served: Served) -> tuple[bool, bool]:
    offer = served.client.get(OFFER).json()
    (field,) = [field for field in offer["fields"] if field["name"] == "fill"]
    return "patch" in offer["fills"], "patch" in field["choices"]


def test_the_offer_lists_the_fill_where_it_works(served: Served) -> None:
    """The page offers Erase by this."""
    assert fills(served) == (True, True)


@pytest.mark.usefixtures("without_library")
def test_without_the_library_one_sentence_says_so(served: Served) -> None:
    """The fill is not offered, and erasing is refused."""
    assert fills(served) == (False, False)
    response = served.client.post(ERASE, json=sent())
    assert response.status_code == 400
    assert "needs the library PyPatchMatch" in response.json()["error"]


# Attacks.


@pytest.mark.parametrize("field", ["image", "mask"])
def test_urls_that_lead_inside_are_refused(
    field: str, caller: httpx2.Client, canary: Canary, unharmed: Callable[..., Any]
) -> None:
    """This route has no way of its own to the network that the server is in."""
    for url in (*LITERALS[::8], *HOSTS, *SYNTAX):
        if url:
            fields = json.dumps(sent(**{field: url.replace(":P", f":{canary.port}")}))
            response = caller.post(ERASE, content=fields, headers={"content-type": "application/json"})
            assert 400 <= response.status_code < 500, (url, response.text)


@pytest.mark.parametrize("field", ["image", "mask"])
def test_bad_pictures_and_bombs_are_refused(
    field: str, caller: httpx2.Client, unharmed: Callable[..., Any]
) -> None:
    """In one sentence that names the field."""
    bombs = {name: DECODE_BOMBS[name]() for name in ("a million comments", "scans")}
    for name, data in (BAD_PICTURES | bombs).items():
        response = caller.post(ERASE, json=sent(**{field: b64(data)}, resize_mask=True))
        assert response.status_code in (400, 413), (name, response.text)
        assert response.json()["error"].startswith(f"{field}: "), name


def test_odd_pictures_are_erased_and_nothing_rides_along(served: Served) -> None:
    """Unusual files are no attacks; data hidden in them does not come out again."""
    for name, data in odd_pictures(SIZE).items():
        response = served.client.post(ERASE, json=sent(image=b64(data)))
        assert response.status_code == 200, (name, response.text[:300])
        assert opened(response.content).size == decode(data).image.size, name
        assert b"script" not in response.content, name
        assert b"PK\3\4" not in response.content, name


def test_a_url_is_fetched_under_the_rules_of_painting(served: Served, picture_host: PictureHost) -> None:
    """Both pictures may be URLs."""
    urls = {"image": picture_host.put("/photo.png", PHOTO), "mask": picture_host.put("/mask.png", MASK)}
    assert served.client.post(ERASE, json=urls).content == served.client.post(ERASE, json=sent()).content
