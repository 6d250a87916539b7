"""The patch-based fill: the hole is filled with patches of the picture around it.

Unlike a diffusion of the edges' colours, it continues texture. It needs no model, but the library
PyPatchMatch. Source: Barnes et al., "PatchMatch: A Randomized Correspondence Algorithm for Structural Image
Editing", 2009.

The hole is filled piece by piece, each in a box of its own, since the time grows with the box. A long thin
hole, such as a wire, is cut into tiles. A fill that would take too long is made at a reduced size, and is
softer.
"""

import math
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.canvas.mask import Box, resize_brightest
from inpaint.errors import RequestError

Pixels = NDArray[np.uint8]
Marks = NDArray[np.bool_]

_RADIUS = 3  # of a patch; the library's default of 15 takes 17 times as long
_CELL = 16  # pixels; parts of a hole that are closer are filled together
_MARGIN, _MAX_MARGIN = 48, 512  # pixels around a piece; the root of its pixels, between these
_TILE = 384  # pixels a side into which a large thin piece is cut
_THIN = 0.25  # of its rectangle that a piece covers at most to be thin
_COARSE_RADIUS = 5  # of the patches that the library also tries at its coarse levels
# Seconds of one core for a pixel of the box, and of the hole grown by a patch, measured in noisy photographs.
_BOX_COST, _HOLE_COST = 1.5e-6, 30e-6
MAX_WORK_S = 12.0


@cache
def _library() -> ModuleType | None:
    """Import PyPatchMatch; None if it is missing, or has no compiled part for this system."""
    try:
        library = import_module("patchmatch")
    except ImportError:
        return None
    return library if library.patchmatch_available else None


def is_available() -> bool:
    """Return whether this machine has the library."""
    return _library() is not None


def fill_by_patches(
    image: Pixels, hole: Marks, barred: Marks | None = None, *, max_work_s: float = MAX_WORK_S
) -> Pixels:
    """Return ``image`` with its hole filled; equal inputs give equal results.

    Args:
        image: (H, W, 3), not changed.
        hole: (H, W), True where it is filled.
        barred: (H, W), True for pixels that are neither filled nor copied from.
        max_work_s: seconds of one core, roughly, above which the fill is made at a reduced size.

    Raises:
        RequestError: the library is missing, or nothing is left to copy from; it names ``fill`` or ``mask``.
    """
    if not is_available():
        raise RequestError(
            "fill",
            "patch needs the library PyPatchMatch, which is not installed here or does not run on this "
            "system; install it with pip install pypatchmatch, or take the fill telea",
        )
    hidden = np.zeros_like(hole) if barred is None else barred
    hole = hole & ~hidden
    if not hole.any():
        return image.copy()
    if (hole | hidden).all():
        raise RequestError("mask", "covers the whole picture, so that nothing is left to fill it with")
    scale = _scale(hole, max_work_s)
    return _filled(image, hole, hidden) if scale == 1 else _filled_small(image, hole, hidden, scale)


def _scale(hole: Marks, max_work_s: float) -> float:
    """Return the scale at which the work takes no longer than it may."""
    scale = 1.0
    while (work := _work(_shrunk(hole, scale))) > max_work_s:
        scale *= min(0.9, math.sqrt(max_work_s / work))
    return scale


def _work(hole: Marks) -> float:
    """Return about how many seconds of one core a hole takes."""
    height, width = hole.shape
    boxes = [_around(bounds, _margin(hole, bounds), (width, height)) for bounds in _pieces(hole)]
    patches = cv2.dilate(hole.astype(np.uint8), np.ones((2 * _COARSE_RADIUS + 1,) * 2, np.uint8))
    return _BOX_COST * sum(map(_area, boxes)) + _HOLE_COST * int(np.count_nonzero(patches))


def _filled_small(image: Pixels, hole: Marks, barred: Marks, scale: float) -> Pixels:
    """Fill a hole at a reduced size."""
    h, w = hole.shape
    marks, hidden = _shrunk(hole, scale), _shrunk(barred, scale)
    hidden &= ~marks
    size = (marks.shape[1], marks.shape[0])
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    result = image.copy()
    if (marks | hidden).all():  # too little is left for any texture
        result[hole] = np.rint(image[~(hole | barred)].mean(0)).astype(np.uint8)
        return result
    large = cv2.resize(_filled(small, marks, hidden), (w, h), interpolation=cv2.INTER_CUBIC)
    result[hole] = np.asarray(large, np.uint8)[hole]
    return result


def _shrunk(marks: Marks, scale: float) -> Marks:
    """Return marks at a smaller size; a pixel is marked if any part of it was."""
    if scale == 1:
        return marks
    h, w = marks.shape
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    return resize_brightest(marks.astype(np.uint8), size) > 0


def _filled(image: Pixels, hole: Marks, barred: Marks) -> Pixels:
    """Fill a hole at full size, piece by piece."""
    library, filled, left = _library(), image.copy(), hole.copy()
    assert library is not None
    for piece in _pieces(hole):
        if not left[_slices(piece)].any():  # a larger piece covered it
            continue
        box = _with_sources(piece, left | barred)
        part = np.zeros_like(hole[_slices(box)])
        part[_slices(_within(box, piece))] = left[_slices(piece)]
        others = (left | barred)[_slices(box)] & ~part
        crop = np.ascontiguousarray(filled[_slices(box)])
        made = library.inpaint(crop, part, global_mask=others if others.any() else None, patch_size=_RADIUS)
        filled[_slices(box)][part] = made[part]
        left[_slices(piece)] = False
    return filled


def _pieces(hole: Marks) -> list[Box]:
    """Return rectangles that together cover a hole, the largest first."""
    grid = _cells(hole, _CELL)
    _, _, stats, _ = cv2.connectedComponentsWithStats(grid.astype(np.uint8), connectivity=8)
    found: list[Box] = []
    for x, y, w, h, _ in stats[1:].tolist():
        rectangle = (x * _CELL, y * _CELL, (x + w) * _CELL, (y + h) * _CELL)
        found += [tight for tile in _tiles(hole, rectangle) if (tight := _tight(hole, tile)) is not None]
    return sorted(set(found), key=lambda box: (-_area(box), box))


def _cells(marks: Marks, side: int) -> Marks:
    """Return for each square of ``side`` pixels whether any is marked."""
    rows = np.logical_or.reduceat(marks, np.arange(0, marks.shape[0], side), axis=0)
    return np.asarray(np.logical_or.reduceat(rows, np.arange(0, marks.shape[1], side), axis=1))


def _tiles(hole: Marks, box: Box) -> Iterator[Box]:
    """Yield the rectangle itself, or the tiles of one that is large and mostly empty."""
    left, top, right, bottom = box
    if max(right - left, bottom - top) <= 2 * _TILE or hole[_slices(box)].mean() > _THIN:
        yield box
        return
    for y in range(top, bottom, _TILE):
        for x in range(left, right, _TILE):
            yield x, y, min(x + _TILE, right), min(y + _TILE, bottom)


def _tight(hole: Marks, box: Box) -> Box | None:
    """Return the bounds of the hole within a rectangle; None if it has none there."""
    part = hole[_slices(box)]
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    if not len(rows):
        return None
    left, top, _, _ = box
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def _with_sources(piece: Box, unknown: Marks) -> Box:
    """Return the box in which a piece is filled: large enough to hold as many known pixels as unknown."""
    height, width = unknown.shape
    margin = _margin(unknown, piece)
    while True:
        box = _around(piece, margin, (width, height))
        if unknown[_slices(box)].mean() <= 0.5 or _area(box) == width * height:
            return box
        margin *= 2


def _margin(hole: Marks, piece: Box) -> int:
    return min(max(math.isqrt(int(np.count_nonzero(hole[_slices(piece)]))), _MARGIN), _MAX_MARGIN)


def _around(piece: Box, margin: int, size: tuple[int, int]) -> Box:
    left, top, right, bottom = piece
    return (
        max(left - margin, 0),
        max(top - margin, 0),
        min(right + margin, size[0]),
        min(bottom + margin, size[1]),
    )


def _within(box: Box, piece: Box) -> Box:
    left, top, _, _ = box
    return piece[0] - left, piece[1] - top, piece[2] - left, piece[3] - top


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _slices(box: Box) -> tuple[Any, Any]:
    left, top, right, bottom = box
    return slice(top, bottom), slice(left, right)
