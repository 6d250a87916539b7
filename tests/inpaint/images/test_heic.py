"""HEIC, which phones write: read with the extra ``heic``, whose package the development extra has too."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from inpaint.errors import RequestError
from inpaint.images.codec import decode, header_size
from inpaint.images.encoding import encode
from inpaint.images.formats import read_format
from tests.support.odd_pictures import SRGB, XMP, H, W, exif, photo


def heic(image: Image.Image, **options: object) -> bytes:
    """Return a HEIC as phones write it."""
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_heic_is_read_as_its_own_library_reads_it(mode: str) -> None:
    """Pixel by pixel; a phone's photo becomes PNG, which keeps them."""
    data = heic(photo(mode), quality=95)
    assert read_format(data) == "HEIF"
    picture = decode(data)
    expected = pillow_heif.open_heif(data).to_pillow()
    assert np.array_equal(np.asarray(picture.image), np.asarray(expected))
    again = decode(encode(picture.image, picture))
    assert again.format == "PNG"
    assert again.image.tobytes() == picture.image.tobytes()


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_heic_is_turned_once(turn: int) -> None:
    """It says in a box how it is turned, and in EXIF again."""
    data = heic(photo(), exif=exif(turn).tobytes(), quality=95)
    size = (H, W) if turn in (6, 8) else (W, H)
    picture = decode(data)
    assert picture.image.size == header_size(data) == size
    again = decode(encode(picture.image, picture))
    assert again.image.size == size


def test_heic_keeps_its_profile_and_xmp_and_says_more_than_8_bits() -> None:
    """Display P3 is in every phone's photo."""
    image = photo()
    image.info["icc_profile"] = SRGB
    picture = decode(heic(image, xmp=XMP))
    assert picture.icc_profile == SRGB
    assert b"Jane Doe" in (picture.xmp or b"")
    assert decode(encode(picture.image, picture)).icc_profile == SRGB
    deep = pillow_heif.from_bytes("RGB;16", (W, H), bytes(6 * W * H))
    file = io.BytesIO()
    deep.save(file)
    assert any("more than 8 bits" in note for note in decode(file.getvalue()).notes)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_heic_that_is_cut_off_is_refused(share: float) -> None:
    """As any other picture."""
    data = heic(photo())
    with pytest.raises(RequestError, match="cut off"):
        decode(data[: int(len(data) * share)])


def test_a_declared_size_is_refused_before_libheif_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 1 kB may declare any size."""
    data = heic(photo())
    assert data.count(b"ispe") >= 1
    at = data.index(b"ispe") + 8
    monkeypatch.setattr("inpaint.images.codec.Image.open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(RequestError, match="16000×16000"):
        decode(data[:at] + struct.pack(">II", 16_000, 16_000) + data[at + 8 :])
