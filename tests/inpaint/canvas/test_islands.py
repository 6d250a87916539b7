"""Islands: which parts of a mask get boxes of their own, and that each is cut as it would be alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from inpaint.canvas.crop import Cut, assembled, cut, patch, working_sizes_of
from inpaint.canvas.islands import MAX_BOXES
from inpaint.canvas.mask import Box
from inpaint.request import InpaintRequest
from tests.support.examples import examples

SIDE = 1024
NEAR, FAR = (100, 100, 200, 200), (830, 830, 930, 930)  # two discs of 100 pixels in opposite corners
NATIVE = 128  # the demo model's
SPECK = (1000, 20, 1003, 21)


def picture(size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A picture without two equal places, so that a crop in the wrong place shows."""
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x % 251, y % 241, (x + y) % 239], 2).astype(np.uint8))


def discs(*boxes: Box, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    mask = Image.new("L", size)
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(mask).ellipse((left, top, right - 1, bottom - 1), fill=255)
    return mask


def frame(size: tuple[int, int], *inside: Box) -> Image.Image:
    mask = discs(*inside, size=size)
    ImageDraw.Draw(mask).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=255, width=30)
    return mask


def dust(count: int, size: tuple[int, int], within: Box) -> Image.Image:
    """Specks of 3 pixels a side in one part of a mask."""
    rng, mask = np.random.default_rng(1), Image.new("L", size)
    for x, y in rng.integers(within[:2], np.array(within[2:]) - 3, (count, 2)).tolist():
        mask.paste(255, (x, y, x + 3, y + 3))
    return mask


def cut_of(mask: Image.Image, native: int = NATIVE, **settings: Any) -> Cut:
    request = InpaintRequest(image=picture(mask.size), mask=mask, prompt="x", **settings)
    found = cut(request, native)
    assert working_sizes_of(request, native) == tuple(canvas.size for canvas in found.canvases)
    return found


def boxes_of(mask: Image.Image, native: int = NATIVE, **settings: Any) -> list[Box]:
    return [canvas.box for canvas in cut_of(mask, native, **settings).canvases]


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


LARGE = (4096, 4096)
MASKS = {  # of the demo's native size: the mask, and how many boxes it gets
    "one disc": (discs(NEAR), 1),
    "two discs in opposite corners": (discs(NEAR, FAR), 2),
    "two discs next to each other": (discs(NEAR, (210, 100, 310, 200)), 1),
    "a disc and a speck whose boxes would overlap": (discs((300, 300, 340, 340), (378, 378, 381, 381)), 1),
    "two discs in adjacent corners": (discs(NEAR, (830, 100, 930, 200)), 2),
    "three far discs": (discs(NEAR, FAR, (830, 100, 930, 200)), 3),
    "two near discs and a far one": (discs(NEAR, (190, 190, 290, 290), FAR), 2),
    "a disc in a frame": (frame((SIDE, SIDE), (480, 480, 540, 540)), 1),
    "everything": (Image.new("L", (SIDE, SIDE), 255), 1),
    "a frame": (frame((SIDE, SIDE)), 1),
    "16 discs all over": (
        discs(*((x, y, x + 90, y + 90) for x in range(20, 1000, 260) for y in range(20, 1000, 260))),
        1,
    ),
    "12 discs in a large picture": (
        discs(
            *((x, y, x + 40, y + 40) for x in (50, 1400, 2700, 4000) for y in (50, 2000, 4000)), size=LARGE
        ),
        MAX_BOXES,
    ),
    "200 specks all over": (dust(200, (SIDE, SIDE), (0, 0, SIDE, SIDE)), 1),
}


@pytest.mark.parametrize("name", MASKS)
def test_far_islands_get_boxes_of_their_own_and_near_ones_share_one(name: str) -> None:
    """Two faces in the corners of a group photo are not painted as one large, coarse box."""
    mask, boxes = MASKS[name]
    found = boxes_of(mask)
    assert len(found) == boxes
    covered = np.zeros(mask.size[::-1], int)
    for left, top, right, bottom in found:
        covered[top:bottom, left:right] += 1
    assert covered.max() == 1, "boxes never overlap"
    assert (covered[np.asarray(mask) > 0] == 1).all(), "nothing stays unpainted"
    (common,) = boxes_of(mask, area="whole")
    if boxes > 1:
        assert 2 * sum(map(area, found)) <= area(cut_of(mask).box) <= area(common)


def test_200_specks_in_two_corners_are_two_clusters() -> None:
    """Dust removal: clusters, not hundreds of boxes."""
    size = (2048, 2048)
    corners = [dust(100, size, (0, 0, 300, 300)), dust(100, size, (1700, 1700, 2048, 2048))]
    mask = Image.fromarray(np.maximum(*map(np.asarray, corners)))
    found = cut_of(mask)
    assert len(found.canvases) == 2
    assert not found.warnings, "specks of one size are what was meant"


@pytest.mark.parametrize(
    ("native", "size", "boxes"), [(1024, 900, 1), (1024, 1024, 2), (1024, 4096, 2), (128, 100, 1)]
)
def test_the_gain_must_be_worth_the_boxes(native: int, size: int, boxes: int) -> None:
    """Where a common box is hardly coarser, a second one would only double the cost."""
    mask = discs((10, 10, 50, 50), (size - 50, size - 50, size - 10, size - 10), size=(size, size))
    assert len(boxes_of(mask, native)) == boxes


def test_the_whole_picture_stays_one_box() -> None:
    """A caller who asks for ``area="whole"`` gets the scene repainted as one."""
    assert boxes_of(discs(NEAR, FAR), area="whole") == [(0, 0, SIDE, SIDE)]


@pytest.mark.parametrize(
    "speck", [SPECK, (1023, 0, 1024, 1), (0, 1023, 1, 1024), (1000, 1000, 1005, 1005)], ids=str
)
@pytest.mark.parametrize("native", [128, 1024])
def test_a_stray_speck_does_not_make_the_box_the_whole_picture(speck: Box, native: int) -> None:
    """A stray white pixel in a corner must not cost the rest its resolution, nor stay unpainted."""
    size = (SIDE, SIDE) if native == 128 else LARGE
    alone, both = discs((300, 300, 500, 500), size=size), discs((300, 300, 500, 500), size=size)
    both.paste(255, speck)
    found = cut_of(both, native)
    assert found.canvases[0].box == boxes_of(alone, native)[0]
    left, top, right, bottom = found.canvases[1].box
    assert (min(left, speck[0]), min(top, speck[1])) == (left, top)
    assert (max(right, speck[2]), max(bottom, speck[3])) == (right, bottom)
    pixels = np.count_nonzero(np.asarray(both)) - np.count_nonzero(np.asarray(alone))
    (warning,) = found.warnings
    assert f"a stray speck of {pixels} pixel" in warning
    assert f"at ({speck[0]}, {speck[1]})" in warning


def test_several_specks_are_one_warning() -> None:
    """The first tells where to look."""
    mask = discs((300, 300, 500, 500))
    for speck in (SPECK, (20, 1000, 23, 1001)):
        mask.paste(255, speck)
    (warning,) = cut_of(mask).warnings
    assert "2 stray specks, the first of 3 pixels at (20, 1000)" in warning or "at (1000, 20)" in warning


def test_a_speck_next_to_the_mask_is_part_of_it() -> None:
    """A frayed edge is not worth a warning."""
    mask = discs((300, 300, 500, 500))
    mask.paste(255, (505, 400, 508, 401))
    found = cut_of(mask)
    assert (len(found.canvases), found.warnings) == (1, ())


@pytest.mark.parametrize(
    "settings",
    [{}, {"soft": True}, {"grow": 40, "feather": 80, "padding": 0}, {"fill": "noise", "color_match": False}],
    ids=str,
)
def test_each_island_is_cut_as_it_would_be_alone(settings: dict[str, Any]) -> None:
    """What is painted, and where it is blended, is the same to the last bit."""
    together = cut_of(discs(NEAR, FAR), **settings)
    assert len(together.canvases) == 2
    for canvas in together.canvases:
        (alone,) = (
            found
            for island in (NEAR, FAR)
            for found in cut_of(discs(island), **settings).canvases
            if found.box == canvas.box
        )
        for name in ("image", "mask", "paste_mask", "soft_mask"):
            ours, its = getattr(canvas, name), getattr(alone, name)
            assert (ours is None) == (its is None)
            assert ours is None or ours.tobytes() == its.tobytes()
        assert (canvas.grow_px, canvas.feather_px) == (alone.grow_px, alone.feather_px)


ISLAND = st.tuples(st.integers(0, 700), st.integers(0, 500), st.integers(1, 90), st.integers(1, 90))


@given(islands=st.lists(ISLAND, min_size=1, max_size=9), native=st.sampled_from([64, 128, 256]))
@examples(60)
def test_only_the_mask_changes_and_all_of_it(islands: list[Box], native: int) -> None:
    """Whatever islands a mask has: they are all painted, once, and no other pixel changes."""
    mask = Image.new("L", (800, 600))
    for x, y, w, h in islands:
        mask.paste(255, (x, y, x + w, y + h))
    found = cut_of(mask, native, grow=0, feather=0, color_match=False)
    assert 1 <= len(found.canvases) <= MAX_BOXES
    white = [np.ones((c.size[1], c.size[0], 3), np.float32) for c in found.canvases]
    patches = [(c.box, patch(c, w)) for c, w in zip(found.canvases, white, strict=True)]
    result = np.asarray(assembled(found.canvases[0].original, patches))
    expected = np.where(np.asarray(mask)[..., None] > 0, 255, np.asarray(found.canvases[0].original))
    assert np.array_equal(result, expected)
    left, top, right, bottom = found.box
    outside = np.asarray(mask).copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()
