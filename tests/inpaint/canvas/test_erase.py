"""Erasing from pictures of every mode: only colours inside the widened mask change."""

import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from inpaint.canvas.erase import erase
from inpaint.errors import RequestError

SIZE = (120, 96)


def picture(mode: str = "RGB") -> Image.Image:
    """Make a noisy ramp with a bright square at 50..70, 40..60."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(60, 140, SIZE[0])[None, :, None] + rng.normal(0, 8, (SIZE[1], SIZE[0], 3))
    ramp[40:60, 50:70] = 255
    rgb = ramp.clip(0, 255).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(rgb[..., 0].astype(np.uint16) * 100 + 9000)
    image = Image.fromarray(rgb).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def mask(box: tuple[int, int, int, int] = (50, 40, 70, 60), size: tuple[int, int] = SIZE) -> Image.Image:
    marked = Image.new("L", size)
    marked.paste(255, box)
    return marked


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_only_colours_within_the_widened_mask_change(mode: str) -> None:
    """Size, mode and alpha stay, and every pixel further away than ``grow``."""
    before = picture(mode)
    erased = erase(before, mask(), grow=4)
    assert (erased.image.mode, erased.image.size) == (mode, SIZE)
    old, new = np.asarray(before), np.asarray(erased.image)
    far = cv2.distanceTransform(255 - np.asarray(mask()), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > 4
    assert np.array_equal(old[far], new[far])
    if mode in ("LA", "RGBA"):
        assert np.array_equal(old[..., -1], new[..., -1])
    brightest = old[far] if old.ndim == 2 else old[far][:, :-1] if mode in ("LA", "RGBA") else old[far]
    colours = new if new.ndim == 2 else new[..., : brightest.shape[-1]]
    assert colours[40:60, 50:70].max() <= brightest.max()  # the square is gone
    assert np.array_equal(new, np.asarray(erase(before, mask(), grow=4).image))
    assert erased.box == (46, 36, 74, 64)


def test_sixteen_bits_stay_finer_than_eight() -> None:
    """A dark scan uses few of its levels; the fill has as many as an 8-bit picture, between its extremes."""
    rng = np.random.default_rng(6)
    values = (1000 + np.linspace(0, 900, SIZE[0])[None, :] + rng.normal(0, 20, SIZE[::-1])).astype(np.uint16)
    filled = np.asarray(erase(Image.fromarray(values), mask(), grow=0).image)[40:60, 50:70]
    assert len(np.unique(filled)) > 40  # rounded to 8 bits there would be 1 or 2
    assert values.min() <= filled.min() <= filled.max() <= values.max()


def test_transparent_pixels_are_neither_filled_nor_copied() -> None:
    """Their colour is arbitrary, here red."""
    pixels = np.array(picture("RGBA"))
    pixels[..., 3] = 255
    pixels[:, :60] = (255, 0, 0, 0)
    erased = np.asarray(erase(Image.fromarray(pixels), mask()).image)
    assert np.array_equal(erased[:, :60], pixels[:, :60])
    red = (erased[..., 0] > 250) & (erased[..., 1] < 20)
    assert not red[:, 60:].any()
    pixels[30:70, 40:80, 3] = 0
    with pytest.raises(RequestError, match="marks only what is wholly transparent"):
        erase(Image.fromarray(pixels), mask())


def test_a_mask_is_read_as_a_request_reads_it() -> None:
    """Its channel, its inverse and its size have the same names and meanings."""
    before, wanted = picture(), np.asarray(erase(picture(), mask()).image)
    alpha = Image.merge("LA", (mask(), mask().point(lambda v: 255 - v)))
    inverse = mask().point(lambda v: 255 - v)
    small = mask((25, 20, 35, 30), (60, 48))
    for given, how in (
        (alpha, {"mask_channel": "alpha"}),
        (inverse, {"invert_mask": True}),
        (small, {"resize_mask": True}),
    ):
        assert np.array_equal(np.asarray(erase(before, given, **how).image), wanted)  # type: ignore[arg-type]


def test_a_picture_is_turned_upright_first() -> None:
    """As for painting: the mask belongs to the picture that a person sees."""
    turned = picture().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned.info["exif"] = exif.tobytes()
    turned.format = "JPEG"
    upright = erase(turned, mask()).image
    assert upright.size == SIZE
    assert np.array_equal(np.asarray(upright), np.asarray(erase(picture(), mask()).image))


@pytest.mark.parametrize(
    ("given", "settings", "says"),
    [
        (mask((0, 0, 0, 0)), {}, "mask: nothing to repaint"),
        (mask((0, 0, *SIZE)), {}, "mask: covers the whole picture"),
        (mask(size=(60, 48)), {}, "mask: must have the picture's size"),
        (mask(), {"grow": -1}, "grow: must be a whole number from 0 to 256, not -1"),
        (mask(), {"grow": 257}, "grow: must be a whole number from 0 to 256, not 257"),
        (mask(), {"mask_channel": "alpha"}, "mask: nothing in it is transparent"),
    ],
)
def test_what_cannot_be_erased_is_said_in_a_sentence(
    given: Image.Image, settings: dict[str, Any], says: str
) -> None:
    """It names the field to change."""
    with pytest.raises(RequestError) as error:
        erase(picture(), given, **settings)
    assert str(error.value).startswith(says)


def test_erasing_loads_no_torch() -> None:
    """It starts within a second."""
    check = "import inpaint.canvas.erase, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
