"""Fills of the masked hole before it is painted, and the continuation of a picture beyond its edges.

Below strength 1 the old content shows through the noise, so that removing an object works better when
the hole is filled from its surroundings first. A fill never touches a pixel outside the mask.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.canvas.patch_fill import fill_by_patches
from inpaint.canvas.poisson import solve_laplace
from inpaint.request import Fill

NEUTRAL = 127
_TELEA_RADIUS = 5
_TELEA_SIDE = 384  # Telea's time grows with the hole; a 1024² hole at full size takes seconds
_PATCH_WORK_S = 1.0  # of one core, before a request is painted; see canvas/patch_fill
_SEED = 0

Pixels = NDArray[np.uint8]


def fill_hole(image: Pixels, mask: Pixels, fill: Fill) -> Pixels:
    """Return ``image`` with the masked part replaced.

    ``noise`` is pixels of the surroundings in random order, so that it has their colours. Its seed is fixed
    and not the request's, which is still undrawn when it is -1: the same picture and mask are always prepared
    in the same way, and samples differ by their latents. Where everything is masked there are no
    surroundings: ``noise`` has random colours, all others give neutral grey.

    Args:
        image: (H, W, 3) 0..255, not changed.
        mask: (H, W), 255 = to repaint.
        fill: one of ``FILLS``. Source of ``telea``: Telea, "An Image Inpainting Technique Based on the Fast
            Marching Method", 2004, as in OpenCV. ``patch`` is in ``canvas/patch_fill``.

    Returns:
        (H, W, 3), a new array.

    Raises:
        RequestError: ``patch`` needs a library that is not installed here.
    """
    hole = mask > 0
    filled = image.copy()
    if fill == "original" or not hole.any():
        return filled
    if fill == "noise":
        filled[hole] = _noise(image[~hole], int(np.count_nonzero(hole)))
    elif fill == "neutral" or hole.all():
        filled[hole] = NEUTRAL
    elif fill == "blur":
        filled[hole] = _surroundings(image, hole)[hole]
    elif fill == "patch":
        filled = fill_by_patches(image, hole, max_work_s=_PATCH_WORK_S)
    else:
        filled[hole] = _telea(image, hole)[hole]
    return filled


def _noise(known: Pixels, count: int) -> Pixels:
    rng = np.random.default_rng(_SEED)
    if not len(known):
        return rng.integers(0, 256, (count, 3), dtype=np.uint8)
    return known[rng.integers(0, len(known), count)]


def _surroundings(image: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    """Continue the known pixels smoothly into the hole."""
    known = (~hole).astype(np.float32)
    return solve_laplace(image.astype(np.float32), known).round().clip(0, 255).astype(np.uint8)


def _telea(image: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    h, w = hole.shape
    marks = hole.astype(np.uint8) * 255
    scale = min(1.0, _TELEA_SIDE / max(h, w))
    if scale == 1 or hole.sum() <= _TELEA_SIDE**2 // 16:
        return np.asarray(cv2.inpaint(image, marks, _TELEA_RADIUS, cv2.INPAINT_TELEA), np.uint8)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # A pixel is marked if any part of it is in the hole: the hole's own colours must not bleed into the rim.
    small_marks = (cv2.resize(marks, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8) * 255
    if small_marks.all():
        return _surroundings(image, hole)
    painted = cv2.inpaint(small, small_marks, _TELEA_RADIUS, cv2.INPAINT_TELEA)
    return np.asarray(cv2.resize(painted, (w, h), interpolation=cv2.INTER_CUBIC), np.uint8)


def continue_edges(pixels: NDArray[Any], amounts: tuple[int, int, int, int]) -> NDArray[Any]:
    """Extend a picture by repeating its edge pixels, blurred more and more towards the outside.

    At the old edge there must be no jump; further out the model would take bare streaks of repeated pixels
    for something to paint.

    Args:
        pixels: (h, w) or (h, w, c), 8 or 16 bits.
        amounts: pixels to add to the left, top, right and bottom.

    Returns:
        A new, larger array of the same type, ``pixels`` unchanged inside.
    """
    left, top, right, bottom = amounts
    bigger = np.asarray(cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_REPLICATE))
    softness = _softness(pixels.shape[0], pixels.shape[1], amounts)
    levels = np.ceil(softness).astype(np.uint8)
    softer = bigger.copy()
    for level in range(1, int(levels.max()) + 1):
        sharper, side = softer, 2 * 2**level + 1
        softer = np.asarray(cv2.blur(sharper, (side, side), borderType=cv2.BORDER_REPLICATE))
        here = levels == level
        share = (softness[here] - (level - 1)).reshape(-1, *[1] * (pixels.ndim - 2))
        mixed = sharper[here] + (softer[here].astype(np.float32) - sharper[here]) * share
        bigger[here] = np.rint(mixed).astype(pixels.dtype)
    return bigger


def _softness(h: int, w: int, amounts: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Return the blur level of each pixel of the larger picture: 0 inside, 1 more at twice the distance."""
    left, top, right, bottom = amounts
    x, y = np.arange(-left, w + right, dtype=np.float32), np.arange(-top, h + bottom, dtype=np.float32)
    outside_x, outside_y = np.maximum(-x, x - (w - 1)), np.maximum(-y, y - (h - 1))
    distance = np.maximum(0, np.maximum(outside_x[None], outside_y[:, None]))
    return np.log2(1 + distance / 2)
