"""The two pictures of a request: what is refused before any of their pixels is decoded."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import RequestError
from server.service import pictures
from server.service.order import Order
from tests.support.served import MASK, PHOTO, file_of

PLAIN = Order(image=PHOTO, mask=MASK, settings={"prompt": "x"})


@pytest.fixture
def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "decode", lambda *_, **__: pytest.fail("pixels were decoded"))


def noise(width: int, height: int, kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return file_of(Image.fromarray(pixels), kind, **options)


@pytest.mark.usefixtures("nothing_is_decoded")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(64, 48), (48, 65), (32, 32)])
def test_pictures_of_unlike_sizes_are_refused_undecoded(kind: str, size: tuple[int, int]) -> None:
    """The commonest mistake must cost little: with 25 megapixels it took 0.4 seconds and 120 MB."""
    with pytest.raises(RequestError, match="mask: must have the picture's size 48×64, but is"):
        pictures.prepare(PLAIN, noise(48, 64, kind), noise(*size, kind))


@pytest.mark.usefixtures("nothing_is_decoded")
def test_a_turned_picture_is_compared_upright() -> None:
    """A phone's picture lies on its side in the file; its mask, drawn in an editor, does not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = noise(48, 64, "JPEG", exif=exif)
    with pytest.raises(RequestError, match="mask: must have the picture's size 64×48, but is 48×64"):
        pictures.prepare(PLAIN, turned, noise(48, 64, "PNG"))
    with pytest.raises(pytest.fail.Exception, match="pixels were decoded"):
        pictures.prepare(PLAIN, turned, noise(64, 48, "PNG"))


def test_a_mask_is_kept_as_grey_only() -> None:
    """With colours and alpha a mask of 25 megapixels takes 100 MB, as long as its request is under way."""
    mask = file_of(Image.open(io.BytesIO(MASK)).convert("RGBA"))
    prepared = pictures.prepare(PLAIN, PHOTO, mask)
    assert prepared.request.mask.mode == "L"


@pytest.mark.usefixtures("nothing_is_decoded")
def test_the_pixels_of_a_request_are_known_undecoded() -> None:
    """Room in memory is asked for before it is used; a mask that is larger than its picture counts."""
    photo, large = noise(64, 48, "JPEG"), noise(128, 48, "PNG")
    four = replace(PLAIN, settings={"prompt": "x", "samples": 4}, extend=(16, 0, 0, 2))
    assert pictures.pixels_to_decode(PLAIN, photo, photo) == 64 * 48 * 3
    assert pictures.pixels_to_decode(PLAIN, photo, large) == 128 * 48 * 3
    assert pictures.pixels_to_decode(four, photo, None) == 80 * 50 * 6
