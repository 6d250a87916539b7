"""Orders whose pictures a dialect adapts, that send none, or whose answers have another size."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import RequestError
from inpaint.images import metadata
from inpaint.images.codec import decode
from inpaint.request import InpaintResult
from server.dialects.table import DIALECTS
from server.errors import TooLargeError
from server.service import pictures
from server.service.accounting import pixels_of
from server.service.order import Blank, Given, Order
from tests.support import plain_dialect
from tests.support.odd_pictures import rgb16_png
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    Serve,
    Served,
    b64,
    eventually,
    file_of,
    opened,
    photo,
    white_box,
)

pytest_plugins = ["tests.support.served_fixtures"]

PAINT, STORE = "/plain/paint", "/plain/store"
GREY = (127, 127, 127)
Background = Callable[..., "Future[Any]"]


@pytest.fixture(scope="module", autouse=True)
def dialects() -> Iterator[None]:
    """Add the tests' own dialect to those of every server here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.app.DIALECTS", (plain_dialect.plain, *DIALECTS))
        yield


@pytest.fixture(scope="module")
def shared(dialects: None, shared: Served) -> Served:
    """The module's server, with the dialect."""
    return shared


def order(**changes: Any) -> Order:
    plain = Order(PHOTO, MASK, {"prompt": "x"}, output_format="png", adapt=lambda given: given)
    return replace(plain, **changes)


def white(given: Given) -> Given:
    """Repaint everything, as a dialect may."""
    return replace(given, mask=Image.new("L", given.image.size, 255))


# A blank picture.


def test_a_blank_picture_is_grey_under_a_white_mask() -> None:
    """What A1111 paints its txt2img on with an inpainting checkpoint."""
    prepared = pictures.prepare(order(image=Blank(64, 48), mask=None, adapt=None), b"", None)
    assert prepared.request.image.getcolors() == [(64 * 48, GREY)]
    assert prepared.request.mask.getcolors() == [(64 * 48, 255)]


def test_a_blank_picture_is_adapted_like_another() -> None:
    """Its dialect may change it and its settings."""
    seen: list[Given] = []

    def adapt(given: Given) -> Given:
        seen.append(given)
        return Given(given.image.resize((32, 32)), Image.new("L", (32, 32), 255), {"prompt": "y"})

    prepared = pictures.prepare(order(image=Blank(64, 48), mask=None, adapt=adapt), b"", None)
    assert (seen[0].image.size, seen[0].settings) == ((64, 48), {"prompt": "x"})
    assert (prepared.request.image.size, prepared.request.prompt) == ((32, 32), "y")


SIZES = [(100_000, 100_000), (8200, 64), (64, 8), (0, 0), (-5, 64), (6000, 6000), (16, 512)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_size_that_no_picture_has_is_refused_before_it_takes_memory(size: tuple[int, int]) -> None:
    """Grey of 100,000 × 100,000 would be 30 GB, asked for in 20 bytes."""
    with pytest.raises(RequestError) as caught:
        pictures.pixels_to_decode(order(image=Blank(*size), mask=None), b"", None)
    assert caught.value.field == "size"
    with pytest.raises(RequestError) as caught:
        pictures.pixels_to_decode(order(size=size), PHOTO, MASK)
    assert caught.value.field == "size"


def test_it_is_refused_over_http(served: Served) -> None:
    """The server paints the next request as if nothing had been."""
    response = served.client.post(PAINT, json={"width": 100_000, "height": 100_000})
    assert (response.status_code, response.json()["field"]) == (400, "size")
    assert served.client.post(PAINT, json={"width": 64, "height": 48}).status_code == 200


# What counts in the budget of pixels.


@pytest.mark.parametrize(
    ("changes", "image", "pixels"),
    [
        ({"image": Blank(64, 48), "mask": None}, b"", 64 * 48 * 3),
        ({"image": Blank(64, 48), "mask": None, "size": (128, 96)}, b"", 128 * 96 * 3),
        ({"size": (128, 96)}, PHOTO, 128 * 96 * 3),
        ({"size": (16, 16)}, PHOTO, SIZE[0] * SIZE[1] * 3),
        ({"size": (128, 96), "settings": {"samples": 4}}, PHOTO, 128 * 96 * 6),
        ({"size": (128, 96)}, file_of(photo().convert("RGBA")), 128 * 96 * 4),
    ],
    ids=str,
)
def test_the_largest_of_all_sizes_counts(changes: dict[str, Any], image: bytes, pixels: int) -> None:
    """What is made of a picture takes as much memory as what is sent."""
    mask = None if "mask" in changes else MASK
    assert pictures.pixels_to_decode(order(**changes), image, mask) == pixels


@pytest.mark.parametrize(
    ("fields", "pixels"),
    [
        ({"width": 64, "height": 48}, 64 * 48 * 3),
        ({"image": b64(PHOTO), "mask": b64(MASK), "width": 128, "height": 96}, 128 * 96 * 3),
        ({"image": b64(PHOTO), "width": 128, "height": 96, "resize": "cover", "samples": 2}, 128 * 96 * 4),
    ],
    ids=["blank", "another size", "resized"],
)
def test_they_are_held_while_it_is_painted(
    fields: dict[str, Any], pixels: int, serve: Serve, background: Background
) -> None:
    """Waiting and stored requests hold the same, and nothing is held at the end."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine)
    budget = served.running.service.preparation.pixels
    for route in (PAINT, STORE):
        answer = background(served.client.post, route, json=fields)
        ticket = engine.next()
        assert budget.held == pixels
        served.do(engine.paint, ticket)
        assert answer.result().status_code == 200
        eventually(lambda: budget.held == 0)
    assert pixels_of(served.parts.store.get(answer.result().json()["id"], "")) == pixels


# The size of the answer.


@pytest.mark.parametrize("size", [(96, 64), (24, 16), (48, 32), (50, 31)], ids=str)
def test_an_answer_has_the_size_that_was_asked_for(size: tuple[int, int], served: Served) -> None:
    """Waited for or stored, and said in the answer; what is painted keeps its own."""
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    fields = {"image": b64(PHOTO), "mask": b64(MASK), "width": size[0], "height": size[1]}
    response = served.client.post(PAINT, json=fields)
    assert (opened(response.content).size, response.headers["size"]) == (size, str(size))
    stored = served.client.post(STORE, json=fields).json()["urls"]
    assert len(stored) == 1
    kept = served.client.get(stored[0].removeprefix(served.url)).content
    assert kept == response.content
    assert {request.image.size for request in engine.requests} == {SIZE}


def test_the_kept_part_is_exact_if_the_size_is_the_pictures_own(served: Served) -> None:
    """Another size blurs every pixel, the same one none."""
    fields = {"image": b64(PHOTO), "mask": b64(MASK)}
    own = opened(served.client.post(PAINT, json=fields | {"width": SIZE[0], "height": SIZE[1]}).content)
    plain = opened(served.client.post(PAINT, json=fields).content)
    kept = (0, 0, SIZE[0] // 2 - 4, SIZE[1])
    assert own.crop(kept).tobytes() == plain.crop(kept).tobytes() == photo().crop(kept).tobytes()


ODD: dict[str, tuple[bytes, str]] = {
    "grey of 16 bits": (file_of(Image.fromarray(np.full(SIZE[::-1], 40_000, np.uint16))), "I;16"),
    "grey": (file_of(white_box()), "L"),
    "grey and alpha": (file_of(white_box().convert("LA")), "LA"),
    "palette": (file_of(photo().quantize(8)), "RGB"),
    "palette with a clear colour": (file_of(photo().quantize(8), transparency=0), "RGBA"),
    "one bit": (file_of(white_box().convert("1")), "L"),
    "colours and alpha": (file_of(photo().convert("RGBA")), "RGBA"),
    "colours of 16 bits": (rgb16_png(), "RGB"),
    "cmyk": (file_of(photo().convert("CMYK"), "JPEG"), "RGB"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("how", [None, "stretch", "cover", "contain"])
def test_pictures_of_every_mode_are_adapted_and_resized(name: str, how: str | None, served: Served) -> None:
    """Pillow resizes some modes by picking pixels, and others not at all."""
    data, mode = ODD[name]
    fields = {"image": b64(data), "width": 80, "height": 40} | ({"resize": how} if how else {})
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    response = served.client.post(PAINT, json=fields)
    assert response.status_code == 200, response.text
    assert opened(response.content).size == (80, 40)
    assert engine.requests[-1].image.mode == mode


def test_sixteen_bits_are_written_in_another_size() -> None:
    """The engine's answer to 16-bit grey is 16-bit grey, whose numbers stay when it is resized."""
    grey = Image.fromarray(np.full((48, 64), 40_000, np.uint16))
    prepared = pictures.prepare(order(adapt=white), file_of(grey), None)
    result = InpaintResult([grey], [7], (0, 0, 64, 48))
    (file,) = pictures.write(prepared, result, "png", 95, size=(32, 24))
    written = decode(file).image
    assert (written.mode, written.size) == ("I;16", (32, 24))
    assert np.asarray(written).min() == np.asarray(written).max() == 40_000


def test_clear_pixels_lend_their_neighbours_no_colour() -> None:
    """Nobody sees the colour of a clear pixel; resized without regard to that it is a fringe."""
    clear = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 31, 48))
    prepared = pictures.prepare(order(adapt=white), file_of(clear), None)
    result = InpaintResult([clear], [7], (0, 0, 64, 48))
    (file,) = pictures.write(prepared, result, "png", 95, size=(32, 24))
    seen = np.asarray(decode(file).image)
    assert seen[seen[..., 3] > 0][:, 0].max() == 0


# Metadata, and what is wrong.


def test_a_dialect_may_write_metadata_where_the_server_does_not(serve: Serve) -> None:
    """Its clients read the seed from the file; it says what was painted, in its settings after adapting."""
    client = serve(metadata=False).client
    fields = {"image": b64(PHOTO), "width": 96, "height": 64}
    assert metadata.read(client.post(PAINT, json=fields).content) is None
    made = metadata.read(client.post(PAINT, json=fields | {"metadata": True}).content)
    assert made is not None
    assert made.settings["seed"] == 7
    assert (made.settings["area"], made.settings["strength"]) == ("whole", 0.75)


def test_a_dialects_mask_is_read_once() -> None:
    """Fields that say how to read it do not turn it a second time."""
    settings = {"prompt": "x", "invert_mask": True, "mask_channel": "alpha", "resize_mask": True}
    prepared = pictures.prepare(order(settings=settings), PHOTO, MASK)
    request = prepared.request
    assert (request.invert_mask, request.mask_channel) == (False, "luminance")
    assert request.mask.tobytes() == white_box().tobytes()


@pytest.mark.parametrize(
    ("adapt", "says"),
    [
        (lambda given: replace(given, mask=Image.new("L", SIZE)), "mask: nothing to repaint"),
        (
            lambda given: replace(given, mask=Image.new("L", (32, 32), 255)),
            "mask: must have the picture's size",
        ),
        (lambda given: replace(given, settings={"prompt": "x", "strength": 2}), "strength: must be"),
        (lambda given: replace(given, image=given.image.resize((8, 8))), "image: sides must be"),
    ],
)
def test_what_a_dialect_makes_is_checked_like_what_is_sent(adapt: Any, says: str) -> None:
    """Before it is charged: an empty mask, sizes that do not fit, a setting out of its range."""
    with pytest.raises(RequestError) as caught:
        pictures.prepare(order(adapt=adapt), PHOTO, MASK)
    assert str(caught.value).startswith(says)


def test_a_file_is_checked_before_it_is_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size and header, also where the dialect would make something else of it."""
    for name, files in {"image": (b"x", MASK), "mask": (PHOTO, b"x")}.items():
        with pytest.raises(RequestError) as caught:
            pictures.prepare(order(), *files)
        assert caught.value.field == name
    monkeypatch.setattr(pictures, "decode", lambda *_, **__: pytest.fail("pixels were decoded"))
    for name, files in {"image": (bytes(20_000_001), MASK), "mask": (PHOTO, bytes(20_000_001))}.items():
        with pytest.raises(TooLargeError, match=f"^{name}: must be a file of at most 20 MB"):
            pictures.prepare(order(), *files)
