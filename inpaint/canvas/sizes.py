"""The sizes at which pictures are painted: five usual ones, and any other where those fit badly.

Compiled code is made for one size each, so ``area="auto"`` asks for few. The five are those that SDXL was
trained most on; a box is widened to the shape of one of them, and where the picture is too narrow for that,
squeezed a little. A request for the whole picture has the size that fits it best.
"""

import math

import numpy as np

Size = tuple[int, int]  # width, height

STEP = 64  # working sides are multiples of it: 8 latent pixels, which the UNet halves three times
_AREA_WEIGHT = 0.2  # how much a working area off native counts against a distorted shape
_USUAL = ((1024, 1024), (1152, 896), (896, 1152), (1344, 768), (768, 1344))  # at a native size of 1024
_MAX_SQUEEZE = math.log(1.1)  # side ratio of a box to that of its usual size; else another size is used
_WIDENING_WEIGHT = 0.1  # how much a wider box, which has fewer pixels for the mask, counts against a squeeze


def usual_sizes(native: int = 1024) -> tuple[Size, ...]:
    """Return the five sizes of ``area="auto"``, the square first; none if ``native`` is too small for them.

    In steps of 64 pixels the five of a model below 320 are not distinct, and would squeeze its pictures more.
    """
    sizes = tuple((_scaled(w, native), _scaled(h, native)) for w, h in _USUAL)
    return sizes if len(set(sizes)) == len(sizes) else ()


def _scaled(side: int, native: int) -> int:
    return round(side * native / 1024 / STEP) * STEP


def best_size(width: int, height: int, native: int = 1024) -> Size:
    """Return the multiples of 64 closest to ``native``² pixels and the shape of ``width`` × ``height``.

    A better shape is worth some area and the other way round; a square gives native × native.
    """
    sides = np.arange(STEP, max(4 * native, 16 * STEP) + 1, STEP)
    w, h = sides[:, None].astype(np.float64), sides[None, :].astype(np.float64)
    cost = np.abs(np.log(w / h * height / width)) + _AREA_WEIGHT * np.abs(np.log(w * h / native**2))
    i, j = np.unravel_index(np.argmin(cost), cost.shape)
    return int(sides[i]), int(sides[j])


def auto_size(width: int, height: int, native: int = 1024) -> Size:
    """Return the usual size of about the shape of ``width`` × ``height``; the best one if none is close."""
    usual, squeeze = _closest((width, height), native)
    return usual if squeeze <= _MAX_SQUEEZE else best_size(width, height, native)


def widened(box: Size, picture: Size, native: int = 1024) -> Size:
    """Widen a box, within the picture, to the shape of the size at which it will be painted.

    Of the usual sizes it is the one that squeezes the box least, and of those the one that widens it least.
    """

    def cost(wide: Size) -> float:
        return _closest(wide, native)[1] + _WIDENING_WEIGHT * math.log(wide[0] * wide[1])

    boxes = [_widened(box, size, picture) for size in usual_sizes(native)]
    best = min(boxes, key=cost, default=box)
    if _closest(best, native)[1] <= _MAX_SQUEEZE:
        return best
    return _widened(box, best_size(*box, native), picture)


def _closest(box: Size, native: int) -> tuple[Size, float]:
    """Return the usual size with the shape closest to a box, and how much the box is squeezed at it."""
    squeezes = [(_squeeze(box, size), size) for size in usual_sizes(native)]
    squeeze, size = min(squeezes, key=lambda found: found[0], default=(math.inf, box))
    return size, squeeze


def _widened(box: Size, size: Size, picture: Size) -> Size:
    (w, h), (full_w, full_h) = box, picture
    wide = max(w, round(h * size[0] / size[1])), max(h, round(w * size[1] / size[0]))
    return min(wide[0], full_w), min(wide[1], full_h)


def _squeeze(box: Size, size: Size) -> float:
    """Return how much a box is distorted at a size: the logarithm of the ratio of their shapes, from 0."""
    return abs(math.log(box[0] * size[1] / (box[1] * size[0])))
