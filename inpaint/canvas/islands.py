"""Islands of a mask: parts so far apart that each is painted in a box of its own, at a better resolution.

Every box is painted at about the same number of working pixels, so that a box costs as much as the picture
around the whole mask did. Islands therefore share a box unless this at least doubles what each box gains: the
boxes together have at most half of the area of the one around them all. They never overlap, so an island is
painted as it would be alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.canvas.mask import Box

MAX_BOXES = 8  # the most that a request can cost, in units of one box
_WORTH = 2.0  # times the area of the boxes that a box around them must have; below, they are joined
_MOST_FOUND = 20  # islands that are compared in pairs; more are joined to their neighbours first
_SPECK_PIXELS = 32  # an island of so few pixels, a hundredth of the others' at most, is probably an accident
_SPECK_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Island:
    """A part of a mask that is painted in one box: its bounding box, and how many pixels it repaints."""

    bounds: Box
    pixels: int
    is_speck: bool = False


def separate(mask: NDArray[np.uint8], box_of: Callable[[Box], Box], cell: int) -> list[Island]:
    """Return the islands of a mask that are worth a box each, the largest first; one if none is far away.

    Args:
        mask: (H, W), above 0 where it repaints; at least one pixel does.
        box_of: returns the box that is painted for an island with these bounds.
        cell: a distance in pixels up to which pixels always belong to one island.
    """
    found = _Islands(mask, box_of)
    islands = [found.within(rectangle) for rectangle in _rectangles(mask, cell)]
    while len(islands) > 1:
        pairs = list(combinations(islands, 2))
        least = min(pairs, key=found.worth)
        if found.worth(least) >= _WORTH:
            if len(islands) <= MAX_BOXES and found.worth(islands) >= _WORTH:
                break
            least = min(pairs, key=found.added_area)
        joined = Island(_around([each.bounds for each in least]), sum(each.pixels for each in least))
        islands = [*(island for island in islands if island not in least), joined]
    most = max(island.pixels for island in islands)
    marked = [Island(i.bounds, i.pixels, _is_speck(i.pixels, most)) for i in islands]
    return sorted(marked, key=lambda island: (-island.pixels, island.bounds))


class _Islands:
    """The islands of one mask, and what boxes of their own are worth; it keeps the boxes it has computed."""

    def __init__(self, mask: NDArray[np.uint8], box_of: Callable[[Box], Box]) -> None:
        self._mask, self._box_of = mask, box_of
        self._boxes: dict[Box, Box] = {}

    def within(self, rectangle: Box) -> Island:
        """Return what the mask repaints in a rectangle, as one island."""
        left, top, right, bottom = rectangle
        part = self._mask[top:bottom, left:right] > 0
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        bounds = (
            left + int(columns[0]),
            top + int(rows[0]),
            left + int(columns[-1]) + 1,
            top + int(rows[-1]) + 1,
        )
        return Island(bounds, int(np.count_nonzero(part)))

    def added_area(self, islands: Sequence[Island]) -> int:
        """Return by how much the box around islands is larger than their own boxes together."""
        boxes = [self._box(island.bounds) for island in islands]
        return self._area_around(islands) - sum(map(_area, boxes))

    def worth(self, islands: Sequence[Island]) -> float:
        """Return the area of the box around islands, in units of their own boxes' area; 0 if those overlap.

        Specks next to others count nothing: what matters is that they take no resolution from the others.
        """
        boxes = [self._box(island.bounds) for island in islands]
        if any(_overlap(one, other) for one, other in combinations(boxes, 2)):
            return 0.0
        most = max(island.pixels for island in islands)
        own = sum(
            _area(box)
            for box, island in zip(boxes, islands, strict=True)
            if not _is_speck(island.pixels, most)
        )
        return self._area_around(islands) / own if own else inf

    def _area_around(self, islands: Sequence[Island]) -> int:
        return _area(self._box(_around([island.bounds for island in islands])))

    def _box(self, bounds: Box) -> Box:
        if bounds not in self._boxes:
            self._boxes[bounds] = self._box_of(bounds)
        return self._boxes[bounds]


def _rectangles(mask: NDArray[np.uint8], cell: int) -> list[Box]:
    """Return rectangles around connected pixels, at most ``_MOST_FOUND``.

    Pixels are connected if their cells touch; the cells are enlarged until there are few enough rectangles.
    """
    height, width = mask.shape
    grid = _squares(mask, cell)
    while True:
        count, _, stats, _ = cv2.connectedComponentsWithStats((grid > 0).astype(np.uint8), connectivity=8)
        if count - 1 <= _MOST_FOUND:  # the first is the background
            break
        grid, cell = _squares(grid, 2), 2 * cell
    found = []
    for x, y, w, h, _ in stats[1:].tolist():
        found.append((x * cell, y * cell, min((x + w) * cell, width), min((y + h) * cell, height)))
    return found


def _squares(mask: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    """Return a value above 0 for each square of ``cell`` pixels a side that has one, the last cut off."""
    height, width = mask.shape
    # Eight pixels at a time, because most of a large mask is only looked at here.
    words = np.pad(mask, ((0, 0), (0, -width % 8))).view(np.uint64)
    rows = np.bitwise_or.reduceat(words, np.arange(0, height, cell), axis=0).view(np.uint8)
    squares: NDArray[np.uint8] = np.maximum.reduceat(rows, np.arange(0, width, cell), axis=1)
    return squares


def _around(boxes: Sequence[Box]) -> Box:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _is_speck(pixels: int, most: int) -> bool:
    return pixels <= _SPECK_PIXELS and pixels <= _SPECK_SHARE * most
