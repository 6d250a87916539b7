"""What stands where nothing is painted yet: five fills of the hole, and the picture's edges continued.

Below strength 1 the old content shines through the noise, so that removing an object works better when
the hole is filled from its surroundings first. A fill never touches a pixel outside the mask.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.request import Fill

NEUTRAL = 127
_TELEA_RADIUS = 5
_TELEA_SIDE = 384  # Telea's time grows with the hole; a 1024² hole at full size takes seconds
_SEED = 0

Pixels = NDArray[np.uint8]


def fill_hole(image: Pixels, mask: Pixels, fill: Fill) -> Pixels:
    """``image`` with the masked part replaced.

    ``noise`` comes from a fixed constant, not from the request's seed, which is still undrawn when it is
    -1: the same picture and mask are always prepared alike, and samples differ by their latents.
    Where everything is masked, ``telea`` and ``blur`` know no surroundings and give neutral grey.

    Args:
        image: (H, W, 3) 0..255, not changed.
        mask: (H, W), 255 = to repaint.
        fill: one of ``FILLS``.

    Returns:
        (H, W, 3), a new array.
    """
    hole = mask > 0
    filled = image.copy()
    if fill == "original" or not hole.any():
        return filled
    if fill == "noise":
        filled[hole] = np.random.default_rng(_SEED).integers(0, 256, image.shape, dtype=np.uint8)[hole]
    elif fill == "neutral" or hole.all():
        filled[hole] = NEUTRAL
    elif fill == "blur":
        filled[hole] = _surroundings(image, hole)[hole]
    else:
        filled[hole] = _telea(image, hole)[hole]
    return filled


def _surroundings(image: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    """A smooth continuation of the known pixels: averaged down a pyramid, filled on the way up."""
    known = (~hole).astype(np.float32)
    return (
        _pull_push(image.astype(np.float32) * known[..., None], known).round().clip(0, 255).astype(np.uint8)
    )


def _pull_push(weighted: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted colours (h, w, 3) and their weights (h, w) → colours everywhere (h, w, 3)."""
    h, w = known.shape
    if min(h, w) == 1:
        total = np.maximum(known.sum(), 1e-6)
        return np.broadcast_to(weighted.sum((0, 1)) / total, (h, w, 3)).astype(np.float32)
    half = ((w + 1) // 2, (h + 1) // 2)
    smaller = _pull_push(
        cv2.resize(weighted, half, interpolation=cv2.INTER_AREA),
        cv2.resize(known, half, interpolation=cv2.INTER_AREA),
    )
    above: NDArray[np.float32] = cv2.resize(smaller, (w, h), interpolation=cv2.INTER_LINEAR)
    # Where half the cell or more is known, its own colour counts; where nothing is, the coarser level.
    trust = np.minimum(1, known * 2)[..., None]
    own = weighted / np.maximum(known, 1e-6)[..., None]
    mixed: NDArray[np.float32] = own * trust + above * (1 - trust)
    return mixed


def _telea(image: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    h, w = hole.shape
    marks = hole.astype(np.uint8) * 255
    scale = min(1.0, _TELEA_SIDE / max(h, w))
    if scale == 1 or hole.sum() <= _TELEA_SIDE**2 // 16:
        return np.asarray(cv2.inpaint(image, marks, _TELEA_RADIUS, cv2.INPAINT_TELEA), np.uint8)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # Any share of the hole marks the pixel, so that the hole's own colours cannot bleed into its rim.
    small_marks = (cv2.resize(marks, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8) * 255
    if small_marks.all():
        return _surroundings(image, hole)
    painted = cv2.inpaint(small, small_marks, _TELEA_RADIUS, cv2.INPAINT_TELEA)
    return np.asarray(cv2.resize(painted, (w, h), interpolation=cv2.INTER_CUBIC), np.uint8)


def continue_edges(pixels: NDArray[Any], amounts: tuple[int, int, int, int]) -> NDArray[Any]:
    """(h, w[, c]) of 8 or 16 bits inside its own edge pixels, repeated left, top, right, bottom and softened.

    Softened, because the model takes the bare streaks of repeated pixels for something to paint.
    """
    left, top, right, bottom = amounts
    edges = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_REPLICATE)
    side = 2 * (max(amounts) // 4) + 1
    bigger = np.asarray(cv2.blur(edges, (side, side), borderType=cv2.BORDER_REPLICATE))
    bigger[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return bigger
