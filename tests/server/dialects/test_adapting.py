"""What dialects make of decoded pictures: masks where none was sent, flat pictures, other sizes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from PIL import Image

from inpaint.canvas.mask import require_mask
from inpaint.images.pixels import MODES
from server.dialects.pictures import WHOLE, Resize, flattened, resized, transparency, with_a_mask
from server.service.order import Given
from tests.support.examples import examples

SETTINGS = {"prompt": "x", "strength": 0.4, "grow": 3}
HOW: tuple[Resize, ...] = ("stretch", "cover", "contain")
HOWS = pytest.mark.parametrize("how", HOW)
SIDES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def given(image: Image.Image, mask: Image.Image | None = None) -> Given:
    return Given(image, mask, SETTINGS)


def noise(mode: str, size: tuple[int, int]) -> Image.Image:
    """Return a picture of a mode, in which every pixel differs from its neighbours."""
    rng = np.random.default_rng(3)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, size[::-1], dtype=np.uint16))
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    data = rng.integers(0, 256, (*size[::-1], channels), dtype=np.uint8)
    return Image.frombytes(mode, size, data.tobytes())


def half_clear(mode: str = "RGBA", alpha: int = 0) -> Image.Image:
    """Return a red picture whose right half is transparent."""
    image = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    image.paste((0, 255, 0, alpha), (20, 0, 40, 20))
    return image.convert(mode)


# A mask where none was sent.


def test_a_mask_that_was_sent_is_kept() -> None:
    """With the picture and the settings, also where the picture is transparent."""
    sent = given(half_clear(), Image.new("L", (40, 20), 9))
    assert with_a_mask(sent) is sent


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_the_transparent_part_is_repainted(mode: str) -> None:
    """What people erase in an editor; the settings stay as they were asked for."""
    found = with_a_mask(given(half_clear(mode)))
    assert found.mask is not None
    assert (found.mask.mode, found.settings) == ("L", SETTINGS)
    assert np.asarray(found.mask)[:, :20].max() == 0
    assert np.asarray(found.mask)[:, 20:].min() == 255
    assert found.image.tobytes() == half_clear(mode).tobytes()


@pytest.mark.parametrize("alpha", [0, 1, 100, 127, 128, 200, 254])
def test_a_half_transparent_part_has_that_strength(alpha: int) -> None:
    """So that a soft mask can be drawn with an eraser."""
    mask = transparency(half_clear(alpha=alpha))
    assert mask is not None
    assert mask.getpixel((30, 10)) == 255 - alpha


def test_a_picture_with_a_faint_shadow_counts_as_opaque() -> None:
    """Its alpha is no mask: nobody erased anything. With ``soft`` the same alpha is strength."""
    faint = half_clear(alpha=200)
    assert with_a_mask(given(faint)).settings == SETTINGS | WHOLE
    soft = with_a_mask(Given(faint, None, {**SETTINGS, "soft": True}))
    assert soft.mask is not None
    assert soft.mask.getpixel((30, 10)) == 55


@pytest.mark.parametrize("mode", MODES)
def test_all_of_an_opaque_picture_is_repainted_so_that_it_can_be_recognised(mode: str) -> None:
    """Clients without masks describe the picture that they want."""
    image = noise("RGB", (40, 20)).convert("RGBA").convert(mode) if mode != "I;16" else noise(mode, (40, 20))
    found = with_a_mask(given(image))
    assert found.mask is not None
    assert found.mask.getcolors() == [(800, 255)]
    assert found.settings == SETTINGS | WHOLE
    assert found.image is image


def test_a_dialect_says_what_changes_for_a_whole_picture() -> None:
    """One that was sent a strength keeps it."""
    found = with_a_mask(given(Image.new("RGB", (40, 20))), {"area": "whole"})
    assert found.settings == SETTINGS | {"area": "whole"}


@drawn(alphas=st.lists(st.integers(0, 255), min_size=16, max_size=16))
@examples(100)
def test_any_transparency_makes_a_mask_or_none(alphas: list[int]) -> None:
    """Each pixel's strength is what its alpha lacks, and a picture with none lacking has no mask."""
    image = Image.new("RGBA", (4, 4))
    image.putalpha(Image.frombytes("L", (4, 4), bytes(alphas)))
    mask = transparency(image)
    assert (mask is None) == (min(alphas) == 255)
    assert mask is None or list(mask.tobytes()) == [255 - alpha for alpha in alphas]


def test_transparent_parts_are_laid_over_white() -> None:
    """As browsers show them; the mask stays, and an opaque picture is not touched."""
    mask = Image.new("L", (40, 20), 255)
    found = flattened(given(half_clear(), mask))
    assert (found.image.mode, found.mask) == ("RGB", mask)
    assert found.image.getpixel((30, 10)) == (255, 255, 255)
    assert found.image.getpixel((10, 10)) == (255, 0, 0)
    for mode in ("L", "RGB", "I;16"):
        plain = given(noise(mode, (40, 20)))
        assert flattened(plain) is plain


# Other sizes.


@HOWS
@pytest.mark.parametrize("mode", MODES)
@drawn(size=SIDES, wanted=SIDES)
@examples(60)
def test_any_picture_gets_any_size(
    how: Resize, mode: str, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    """In its own mode, its mask with it, and the sent pictures do not change."""
    image, mask = noise(mode, size), noise("L", size)
    before = image.tobytes(), mask.tobytes()
    found = resized(given(image, mask), wanted, how)
    assert found.mask is not None
    assert (found.image.size, found.image.mode) == (wanted, mode)
    assert (found.mask.size, found.mask.mode) == (wanted, "L")
    assert found.settings is SETTINGS
    assert (image.tobytes(), mask.tobytes()) == before
    assert resized(given(image), wanted, how).mask is None


@HOWS
@drawn(size=SIDES, wanted=SIDES, colour=st.integers(0, 255))
@examples(60)
def test_a_plain_picture_stays_plain(
    how: Resize, size: tuple[int, int], wanted: tuple[int, int], colour: int
) -> None:
    """No way of resizing invents a colour, also not at the borders that it fills."""
    found = resized(given(Image.new("RGB", size, (colour, 0, 200))), wanted, how)
    assert found.image.getcolors() == [(wanted[0] * wanted[1], (colour, 0, 200))]


@HOWS
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_that_size_is_not_touched(how: Resize, mode: str) -> None:
    """Every pixel outside the mask comes back exactly."""
    image = noise(mode, (40, 20))
    assert resized(given(image, Image.new("L", (40, 20))), (40, 20), how).image is image


@HOWS
def test_a_mask_of_another_size_is_fitted_to_the_picture_first(how: Resize) -> None:
    """Also where the picture keeps its size; its thinnest stroke survives."""
    mask = Image.new("L", (400, 200))
    mask.paste(255, (101, 0, 102, 200))
    found = resized(given(noise("RGB", (40, 20)), mask), (40, 20), how)
    assert found.mask is not None
    assert found.mask.size == (40, 20)
    assert require_mask(found.mask, soft=False)[1] == (10, 0, 11, 20)


@HOWS
@drawn(size=SIDES, wanted=SIDES)
@examples(60)
def test_a_white_mask_covers_the_picture_and_no_more(
    how: Resize, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    """What ``contain`` fills next to the picture is kept: it is the picture's own edge."""
    found = resized(given(Image.new("RGB", size), Image.new("L", size, 255)), wanted, how)
    assert found.mask is not None
    seen = np.asarray(found.mask)
    if how != "contain":
        assert seen.min() == 255
        return
    scale = min(wanted[0] / size[0], wanted[1] / size[1])
    white = max(1, round(size[0] * scale)) * max(1, round(size[1] * scale))
    assert set(np.unique(seen)) <= {0, 255}
    assert (seen == 255).sum() == min(white, wanted[0] * wanted[1])


@HOWS
@drawn(size=SIDES, wanted=SIDES)
@examples(60)
def test_a_black_mask_stays_black(how: Resize, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Nothing is repainted that nobody asked for."""
    found = resized(given(Image.new("RGB", size), Image.new("L", size)), wanted, how)
    assert found.mask is not None
    assert found.mask.getbbox() is None


def stripes(size: tuple[int, int], axis: int) -> Image.Image:
    """Return a ramp from black to white along an axis."""
    ramp = np.linspace(0, 255, size[axis])
    pixels = np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1])
    return Image.fromarray(pixels.astype(np.uint8))


def test_stretch_keeps_all_of_the_picture() -> None:
    """From one edge to the other, whatever becomes of its shape."""
    seen = np.asarray(resized(given(stripes((40, 20), 0)), (80, 80), "stretch").image)
    assert seen[:, 0].max() <= 3
    assert seen[:, -1].min() >= 252


def test_cover_cuts_off_what_is_too_much_on_both_sides_alike() -> None:
    """The middle half of a picture twice as wide; the mask is cut at the same places."""
    ramp = stripes((400, 200), 0)
    found = resized(given(ramp, ramp), (100, 100), "cover")
    assert found.mask is not None
    for picture in (found.image, found.mask):
        seen = np.asarray(picture).astype(int)
        assert abs(seen[50, 0] - 64) <= 2
        assert abs(seen[50, -1] - 191) <= 2


@pytest.mark.parametrize("axis", [0, 1])
def test_contain_smears_the_edges_over_what_is_left(axis: int) -> None:
    """All of the picture in the middle, and its outermost rows and columns up to the border."""
    size, wanted = ((40, 20), (80, 80)) if axis else ((20, 40), (80, 80))
    found = np.asarray(resized(given(stripes(size, axis)), wanted, "contain").image)
    along = found.T if axis == 0 else found
    assert len(np.unique(along[:20])) == 1
    assert len(np.unique(along[60:])) == 1
    assert along[0, 0] <= 3
    assert along[-1, 0] >= 252


def test_contain_keeps_transparency_and_sixteen_bits() -> None:
    """A clear edge is smeared clear, a bright one bright."""
    clear = resized(given(half_clear()), (80, 80), "contain").image
    assert [clear.getpixel((x, 2))[3] for x in (2, 77)] == [255, 0]  # type: ignore[index]
    grey: Any = Image.fromarray(np.full((20, 40), 40_000, np.uint16))
    assert np.unique(np.asarray(resized(given(grey), (80, 80), "contain").image)).tolist() == [40_000]


def test_a_thin_stroke_survives_every_way() -> None:
    """A hair of a mask on a poster that is painted at a tenth of its size."""
    mask = Image.new("L", (700, 700))
    mask.paste(255, (350, 0, 351, 700))
    for how in HOW:
        found = resized(given(Image.new("RGB", mask.size), mask), (70, 70), how)
        assert found.mask is not None
        assert require_mask(found.mask, soft=False)[1][3] == 70, how
