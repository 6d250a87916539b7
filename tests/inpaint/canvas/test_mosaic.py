"""Previews of several boxes, laid into the part of the picture around the whole mask."""

import numpy as np
import pytest
from PIL import Image

from inpaint.canvas.crop import Cut, cut
from inpaint.canvas.mosaic import Mosaic
from inpaint.request import InpaintRequest

MODES = ("RGB", "RGBA", "L", "LA", "I;16")


def cut_of(mode: str, size: tuple[int, int] = (640, 480)) -> Cut:
    mask = Image.new("L", size)
    for x, y in ((10, 10), (size[0] - 60, size[1] - 60)):
        mask.paste(255, (x, y, x + 50, y + 50))
    grey = Image.fromarray(np.full(size[::-1], 128 * 257, np.uint16))
    image = grey if mode == "I;16" else Image.new("L", size, 128).convert(mode)
    return cut(InpaintRequest(image=image, mask=mask, prompt="x"), 128)


@pytest.mark.parametrize("mode", MODES)
def test_each_preview_is_in_its_place_and_the_rest_is_the_callers(mode: str) -> None:
    """The page lays the mosaic over the box around the mask."""
    parts = cut_of(mode)
    assert len(parts.canvases) == 2
    mosaic = Mosaic(parts)
    shown = mosaic.with_previews(
        {1: Image.new("RGB", (16, 16), "red"), 0: Image.new("RGB", (16, 16), "blue")}
    )
    left, top, right, bottom = parts.box
    scale = shown.width / (right - left)
    assert shown.height / (bottom - top) == pytest.approx(scale, rel=0.02)
    for canvas, colour in zip(parts.canvases, ((0, 0, 255), (255, 0, 0)), strict=True):
        x, y = (canvas.box[0] + canvas.box[2]) / 2, (canvas.box[1] + canvas.box[3]) / 2
        assert shown.getpixel((int((x - left) * scale), int((y - top) * scale))) == colour
    assert shown.getpixel((shown.width // 2, shown.height // 2)) == (128, 128, 128)


def test_one_preview_shows_the_other_box_as_it_is() -> None:
    """Boxes of unlike sizes take turns, so that one may have begun before the other."""
    mosaic = Mosaic(cut_of("RGB"))
    shown = mosaic.with_previews({0: Image.new("RGB", (16, 16), "red")})
    colours = {colour for _, colour in shown.getcolors() or []}
    assert colours == {(255, 0, 0), (128, 128, 128)}
    assert {colour for _, colour in mosaic.with_previews({}).getcolors() or []} == {(128, 128, 128)}


@pytest.mark.parametrize("size", [(640, 480), (6000, 4000), (300, 4000)], ids=str)
def test_a_preview_is_small(size: tuple[int, int]) -> None:
    """It is sent at every step."""
    shown = Mosaic(cut_of("RGB", size)).with_previews({})
    assert 16 <= max(shown.size) <= 512
