"""The distance of two pictures in decibels."""

import math

import numpy as np
import pytest
from PIL import Image

from inpaint.canvas.difference import distance_db
from inpaint.errors import RequestError

SIZE = (40, 600)  # more rows than are compared together


def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two pictures (H, W, 3) that differ everywhere, and a mask (H, W) in three greys."""
    random = np.random.default_rng(7)
    one, other = (random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(2))
    return one, other, random.choice(np.array([0, 8, 128], np.uint8), SIZE[::-1])


@pytest.mark.parametrize(("soft", "least"), [(False, 128), (True, 8)])
def test_it_is_the_psnr_of_the_pixels_that_the_mask_repaints(soft: bool, least: int) -> None:
    """Pixels outside are always equal; counted, they would make every draft look close."""
    one, other, mask = pictures()
    squares = np.square(one.astype(float) - other)[mask >= least]
    found = distance_db(*map(Image.fromarray, (one, other, mask)), soft=soft)
    assert found == pytest.approx(10 * math.log10(255**2 / squares.mean()), abs=1e-9)


def test_equal_pictures_have_no_distance() -> None:
    """JSON has no infinity."""
    one, other, mask = pictures()
    other[mask >= 128] = one[mask >= 128]
    assert distance_db(*map(Image.fromarray, (one, other, mask))) is None


def test_transparency_is_not_compared() -> None:
    """A caller's transparent picture stays transparent where it was; its colours are what is painted."""
    one, other, mask = map(Image.fromarray, pictures())
    clear = one.copy()
    clear.putalpha(0)
    assert distance_db(clear, other, mask) == distance_db(one, other, mask)


def test_a_mask_that_repaints_nothing_is_refused() -> None:
    """There would be no pixel to take a mean over."""
    one, other, _ = map(Image.fromarray, pictures())
    with pytest.raises(RequestError, match="nothing to repaint"):
        distance_db(one, other, Image.new("L", SIZE))
