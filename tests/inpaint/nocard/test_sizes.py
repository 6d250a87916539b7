"""The share of realistic masks that are painted at a compiled size, and how much their pictures are squeezed.

Counted, not measured: rectangles whose sides are uniform between 5 % and 60 % of the picture's. They are an
assumption, not masks of users.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from inpaint import InpaintRequest
from inpaint.canvas import crop
from inpaint.canvas.sizes import Size, best_size, usual_sizes

PICTURES = ((1024, 1024), (1536, 1024), (1920, 1080), (3000, 4000))
MASKS = 250  # a picture
LEAST_SHARE = 0.9
# Ratchets of the side ratio that a box has to that of its size; 1 is no distortion. Without usual sizes the
# largest was 1.025.
LARGEST, MEAN = 1.002, 1.0003


@dataclass(frozen=True, slots=True)
class Found:
    """Where the masks of one picture are painted."""

    usual: float  # the share at a usual size
    largest: float  # side ratio
    mean: float


def found(picture: Size, seed: int = 0, largest_side: float = 0.6) -> Found:
    random = np.random.default_rng(seed)
    request = InpaintRequest(Image.new("L", (16, 16)), Image.new("L", (16, 16), 255), "a door")
    sizes, ratios = [], []
    for _ in range(MASKS):
        w, h = (int(side * random.uniform(0.05, largest_side)) for side in picture)
        x, y = int(random.integers(0, picture[0] - w + 1)), int(random.integers(0, picture[1] - h + 1))
        box, _, _ = crop._measure((x, y, x + w, y + h), picture, request, 1024)
        size = crop._working_size(box, request, 1024)
        sizes.append(size)
        ratio = (box[2] - box[0]) * size[1] / ((box[3] - box[1]) * size[0])
        ratios.append(math.exp(abs(math.log(ratio))))
    usual = sum(size in usual_sizes() for size in sizes) / MASKS
    return Found(usual, max(ratios), float(np.mean(ratios)))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_nearly_every_mask_is_painted_at_a_compiled_size(picture: Size) -> None:
    """Compiled code is for one size each: at any other a picture takes 1.25 times as long and more."""
    here = found(picture)
    figures = f"{here.usual:.1%} usual, side ratio at most {here.largest:.4f}, mean {here.mean:.5f}"
    print(f"{picture}: {figures}")  # noqa: T201 - for docs/cuda.md, with pytest -s
    assert here.usual >= LEAST_SHARE
    assert here.largest <= LARGEST
    assert here.mean <= MEAN


def test_masks_of_most_of_the_picture_are_hardly_squeezed_either() -> None:
    """Sides up to the whole picture's, where a box cannot be widened: a tenth at most, or another size."""
    for picture in PICTURES:
        here = found(picture, largest_side=1.0)
        assert here.usual >= LEAST_SHARE
        assert here.largest <= 1.1
        assert here.mean <= 1.005


@pytest.mark.parametrize("picture", PICTURES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_without_usual_sizes_most_masks_have_one_of_their_own(
    picture: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share above says something only if it falls when boxes are not widened to usual sizes."""
    monkeypatch.setattr(crop, "auto_size", best_size)
    monkeypatch.setattr(crop, "widened", widened_to_the_best)
    assert found(picture).usual < 0.65


def widened_to_the_best(box: Size, picture: Size, native: int) -> Size:
    """Widen as before there were usual sizes."""
    (w, h), size = box, best_size(*box, native)
    wide = max(w, round(h * size[0] / size[1])), max(h, round(w * size[1] / size[0]))
    return min(wide[0], picture[0]), min(wide[1], picture[1])


def test_a_squeeze_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes that are not widened at all would be at usual sizes as well, and their circles ellipses."""
    as_it_is: Callable[[Size, Size, int], Size] = lambda box, picture, native: box  # noqa: E731
    monkeypatch.setattr(crop, "widened", as_it_is)
    assert found((1024, 1024)).largest > LARGEST
