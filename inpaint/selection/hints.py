"""Hints at an object: points, a box or a rough stroke; and the selection that is made of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import RequestError, shown

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded
What = Literal["object", "subject", "background"]
Variant = Literal["best", "smaller", "larger"]
WHATS: tuple[What, ...] = get_args(What)
VARIANTS: tuple[Variant, ...] = get_args(Variant)
MAX_POINTS = 64
_WHITE = 128  # a scribble's grey from which it counts, as a mask's


class Point(NamedTuple):
    """A pixel of the picture, inside the object or outside of it."""

    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Hints:
    """What a person shows of an object.

    ``subject`` and ``background`` mean the main thing in the picture and all the rest; they need no hint.
    """

    points: tuple[Point, ...] = ()
    box: Box | None = None
    scribble: NDArray[np.bool_] | None = None  # (H, W), true roughly on the object
    what: What = "object"
    variant: Variant = "best"

    @property
    def inside(self) -> list[Point]:
        """The points inside the object."""
        return [point for point in self.points if point.inside]

    def checked(self, size: tuple[int, int]) -> "Hints":
        """Return the hints for a picture of this (width, height).

        Raises:
            RequestError: names the hint that does not fit the picture, or says that there is none.
        """
        width, height = size
        for point in self.points:
            if not (0 <= point.x < width and 0 <= point.y < height):
                where = f"({point.x:g}, {point.y:g})"
                raise RequestError("points", f"{where} is outside the picture of {width}×{height}")
        if self.box is not None:
            _check_box(self.box, size)
        if self.scribble is not None:
            if self.scribble.shape != (height, width):
                own_height, own_width = self.scribble.shape
                raise RequestError(
                    "scribble", f"is {own_width}×{own_height}, but the picture is {width}×{height}"
                )
            if not self.scribble.any():
                raise RequestError("scribble", "is black everywhere: paint white over the object")
        if self.what == "object" and not self.inside and self.box is None and self.scribble is None:
            raise RequestError("points", "give a point inside the object, a box around it, or a scribble")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What was selected: a mask of the box around it, or nothing."""

    size: tuple[int, int]  # width and height of the picture
    box: Box | None = None
    mask: NDArray[np.uint8] | None = None  # (bottom - top, right - left), 255 = selected
    score: float | None = None  # how sure the model is, 0 to 1

    @staticmethod
    def of(mask: NDArray[np.uint8], *, origin: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None,
           score: float | None = None) -> "Selection":  # fmt: skip
        """Return what a mask (h, w) selects.

        Args:
            mask: 255 = selected.
            origin: where its left upper pixel lies in the picture.
            size: (width, height) of the picture; None: the mask's.
            score: how sure the model is.
        """
        height, width = mask.shape
        rows, columns = mask.max(1), mask.max(0)
        if rows.max(initial=0) < _WHITE:
            return Selection(size or (width, height), score=score)
        top, bottom = _span(rows)
        left, right = _span(columns)
        x, y = origin
        box = (x + left, y + top, x + right, y + bottom)
        return Selection(size or (width, height), box, mask[top:bottom, left:right].copy(), score)

    def image(self) -> Image.Image:
        """Return the mask of the whole picture (``L``, 255 = selected)."""
        whole = Image.new("L", self.size)
        if self.box is not None and self.mask is not None:
            whole.paste(Image.fromarray(self.mask), self.box[:2])
        return whole


def scribble_of(mask: Image.Image) -> NDArray[np.bool_]:
    """Return a grey mask's white part (H, W)."""
    return np.asarray(mask.convert("L")) >= _WHITE


def point_of(values: Sequence[float], field: str = "points") -> Point:
    """Return a point from x, y and perhaps 1 (inside) or 0 (outside).

    Raises:
        RequestError: names ``field``: these are no such numbers.
    """
    if len(values) not in (2, 3) or not all(map(math.isfinite, values)) or values[2:] not in ([], [0], [1]):
        raise RequestError(field, f"must be [x, y, 1] inside or [x, y, 0] outside, not {shown(values)}")
    return Point(values[0], values[1], inside=values[2:] != [0])


def _check_box(box: Box, size: tuple[int, int]) -> None:
    left, top, right, bottom = box
    width, height = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise RequestError(
            "box",
            f"must be left, top, right, bottom in the picture of {width}×{height}, not {shown(list(box))}",
        )
    if min(right - left, bottom - top) < 4:
        raise RequestError("box", "must be at least 4 pixels wide and high")


def _span(line: NDArray[np.uint8]) -> tuple[int, int]:
    found = np.flatnonzero(line)
    return int(found[0]), int(found[-1]) + 1
