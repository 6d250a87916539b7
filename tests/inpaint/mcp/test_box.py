"""Boxes and sides, as agents give them."""

import math

import numpy as np
import pytest

from inpaint.errors import RequestError
from inpaint.mcp.pictures import box_mask


def covered(box: list[float], size: tuple[int, int] = (800, 600)) -> tuple[tuple[int, ...] | None, object]:
    """The box that is white in the mask, and the width of its rim."""
    mask, settings = box_mask(box, size)
    assert set(np.unique(np.asarray(mask))) <= {0, 255}
    return mask.getbbox(), settings["feather"]


def test_the_rim_is_inside_the_box() -> None:
    """The painted part fades there, so that nothing outside changes; not at the picture's own edge."""
    assert covered([100, 100, 500, 500]) == ((116, 116, 484, 484), 16)
    assert covered([100, 100, 180, 500]) == ((105, 105, 175, 495), 5)
    assert covered([100, 100, 110, 110]) == ((100, 100, 110, 110), 0)
    assert covered([0, 100, 800, 600]) == ((0, 116, 800, 600), 16)


def test_fractions_of_pixels_belong_to_the_box() -> None:
    """Half a pixel of a thing would otherwise stay."""
    assert covered([10.5, 10.2, 20.1, 20.9]) == ((10, 10, 21, 21), 0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1])
@pytest.mark.parametrize("place", range(4))
def test_what_is_no_box_is_refused(number: float, place: int) -> None:
    """With the picture's size, so that the next one is right."""
    box: list[float] = [10, 10, 20, 20]
    box[place] = number
    with pytest.raises(
        RequestError, match=r"^box: must be \[left, top, right, bottom\] .* is 800×600, not \["
    ):
        box_mask(box, (800, 600))
