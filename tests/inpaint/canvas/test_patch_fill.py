"""The patch-based fill: exact outside, the same every time, textured inside, and within its time."""

import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from inpaint.canvas import patch_fill as patches
from inpaint.canvas.fill import fill_hole
from inpaint.canvas.patch_fill import fill_by_patches
from inpaint.errors import RequestError

Pixels = NDArray[np.uint8]
Marks = NDArray[np.bool_]


def grass(h: int = 160, w: int = 192) -> Pixels:
    """Make a texture: slanted blades of three greens, with noise."""
    rng = np.random.default_rng(3)
    noise = cv2.GaussianBlur(rng.normal(size=(h, w)), (0, 0), sigmaX=0.8, sigmaY=2.5)
    shade = 110 + 45 * noise / noise.std()
    return np.stack([shade * 0.5, shade, shade * 0.4], axis=2).clip(0, 255).astype(np.uint8)


def marks(h: int, w: int, *boxes: tuple[int, int, int, int]) -> Marks:
    hole = np.zeros((h, w), bool)
    for left, top, right, bottom in boxes:
        hole[top:bottom, left:right] = True
    return hole


def detail(image: Pixels, where: Marks) -> float:
    """Return the spread of a picture's Laplacian: 0 for a smooth surface, large for texture."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(cv2.Laplacian(grey, cv2.CV_32F)[where].std())


HOLES = {
    "in the middle": marks(160, 192, (70, 60, 120, 110)),
    "in a corner": marks(160, 192, (0, 0, 40, 40)),
    "along an edge": marks(160, 192, (0, 150, 192, 160)),
    "several": marks(160, 192, (10, 10, 30, 30), (80, 20, 82, 140), (150, 100, 190, 158)),
    "nearly all": ~marks(160, 192, (0, 0, 192, 8)),
    "all but a pixel": ~marks(160, 192, (5, 5, 6, 6)),
}


@pytest.mark.parametrize("name", HOLES)
def test_a_fill_changes_only_the_hole_and_is_the_same_every_time(name: str) -> None:
    """Wherever the hole is, and however much of the picture it takes."""
    image, hole = grass(), HOLES[name]
    image[hole] = (255, 0, 0)
    before = image.copy()
    filled = fill_by_patches(image, hole)
    assert np.array_equal(image, before)
    assert np.array_equal(filled[~hole], image[~hole])
    assert np.array_equal(filled, fill_by_patches(image, hole))
    assert not (filled[hole] == (255, 0, 0)).all(1).any()


def test_the_colours_under_the_hole_have_no_influence() -> None:
    """What is erased must not show through."""
    image, hole = grass(), HOLES["in the middle"]
    other = image.copy()
    other[hole] = 0
    assert np.array_equal(fill_by_patches(image, hole), fill_by_patches(other, hole))


def test_texture_goes_on_in_the_hole_where_telea_leaves_a_smooth_patch() -> None:
    """The reason for this fill: a blur in the middle of grass is seen from afar."""
    image, hole = grass(), HOLES["in the middle"]
    inside = cv2.erode(hole.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    wanted = detail(image, inside)
    mask = hole.astype(np.uint8) * 255
    ratio = {fill: detail(fill_hole(image, mask, fill), inside) / wanted for fill in ("patch", "telea")}  # type: ignore[arg-type]
    assert 0.7 < ratio["patch"] < 1.3, ratio
    assert ratio["telea"] < 0.4, ratio


@pytest.mark.parametrize("size", [(1, 2), (16, 16), (20, 300)])
def test_small_and_narrow_pictures_are_filled(size: tuple[int, int]) -> None:
    """A thumbnail is no reason to fail."""
    image = grass(*size)
    hole = np.zeros(size, bool)
    hole[: max(1, size[0] // 3), : max(1, size[1] // 3)] = True
    filled = fill_by_patches(image, hole)
    assert np.array_equal(filled[~hole], image[~hole])


def test_what_is_barred_is_neither_filled_nor_copied() -> None:
    """The colours under full transparency are arbitrary: here they are red, and no red may appear."""
    image = grass()
    barred = marks(160, 192, (0, 0, 96, 160))
    image[barred] = (255, 0, 0)
    hole = marks(160, 192, (80, 60, 130, 100))
    filled = fill_by_patches(image, hole, barred)
    assert np.array_equal(filled[barred], image[barred])
    assert filled[hole & ~barred][:, 0].max() < 200


def test_a_hole_without_surroundings_is_refused() -> None:
    """There is nothing to copy."""
    image = grass()
    with pytest.raises(RequestError, match=r"mask: covers the whole picture, so that nothing is left"):
        fill_by_patches(image, np.ones(image.shape[:2], bool))
    half = marks(160, 192, (0, 0, 96, 160))
    with pytest.raises(RequestError, match="covers the whole picture"):
        fill_by_patches(image, half, ~half)


def test_a_picture_without_a_hole_is_returned_as_it_is() -> None:
    """A copy, since the caller may draw on it."""
    image = grass()
    filled = fill_by_patches(image, np.zeros(image.shape[:2], bool))
    assert np.array_equal(filled, image)
    assert filled is not image


@pytest.mark.parametrize("kind", ["one large", "a wire", "dust"])
def test_work_beyond_the_limit_is_done_at_a_reduced_size(kind: str) -> None:
    """A painter waits seconds and not minutes, whatever the mask looks like."""
    hole = np.zeros((1600, 2400), np.uint8)
    if kind == "one large":
        hole[100:1500, 100:2300] = 1
    elif kind == "a wire":
        cv2.line(hole, (0, 100), (2399, 1500), 1, 12)
    else:
        hole[::60, ::60] = 1
    at = patches._scale(hole > 0, 0.5)
    assert at < 1
    assert patches._work(patches._shrunk(hole > 0, at)) <= 0.5
    image = np.full((1600, 2400, 3), 90, np.uint8)
    image[hole > 0] = 255
    filled = fill_by_patches(image, hole > 0, max_work_s=0.5)
    assert (filled == 90).all()  # also at the rim, where the reduced picture holds both


def test_a_wire_is_filled_in_tiles_and_far_specks_each_for_itself() -> None:
    """Else the box of a diagonal line is the whole picture, which takes half a minute at 24 megapixels."""
    hole = np.zeros((2000, 3000), np.uint8)
    cv2.line(hole, (0, 0), (2999, 1999), 1, 9)
    hole[1990:1995, 10:15] = 1
    pieces = patches._pieces(hole > 0)
    assert max(max(right - left, bottom - top) for left, top, right, bottom in pieces) <= patches._TILE
    covered = np.zeros_like(hole)
    for left, top, right, bottom in pieces:
        covered[top:bottom, left:right] = 1
    assert (covered >= hole).all()
    assert (10, 1990, 15, 1995) in pieces


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyPatchMatch as on a system without it: the import fails."""
    monkeypatch.setitem(sys.modules, "patchmatch", None)
    patches._library.cache_clear()
    yield
    patches._library.cache_clear()


@pytest.mark.usefixtures("without_library")
def test_without_the_library_one_sentence_says_so_and_telea_remains() -> None:
    """Alpine has no wheel of it."""
    image, mask = grass(), HOLES["in the middle"].astype(np.uint8) * 255
    assert not patches.is_available()
    with pytest.raises(
        RequestError, match=r"fill: patch needs the library PyPatchMatch.* take the fill telea"
    ):
        fill_hole(image, mask, "patch")
    assert not np.array_equal(fill_hole(image, mask, "telea"), image)
