"""The difference of two pictures in decibels, in the part of them that a mask repaints. Imports no torch."""

import math

import numpy as np
from PIL import Image

from inpaint.canvas.mask import require_mask

_ROWS = 256  # compared together, so that a picture of 25 megapixels takes no more memory than its pixels


def distance_db(
    one: Image.Image, other: Image.Image, mask: Image.Image, *, soft: bool = False
) -> float | None:
    """Return the peak signal-to-noise ratio of two pictures inside a mask, or None if they are equal there.

    It is ``10 · log10(255² / mean((one − other)²))``, the mean over red, green and blue (0 to 255) of every
    pixel that the mask repaints. 45 and more is a difference that hardly anyone sees.

    Args:
        one: a picture; its transparency is not compared.
        other: a picture of the same size.
        mask: of that size; pixels from 128 up count.
        soft: whether the mask's grey is strength; then pixels from 8 up count.

    Raises:
        RequestError: the mask repaints nothing.
    """
    assert one.size == other.size == mask.size, (one.size, other.size, mask.size)
    painted, (left, top, right, bottom) = require_mask(mask, soft=soft)
    total = count = 0
    for row in range(top, bottom, _ROWS):
        box = (left, row, right, min(row + _ROWS, bottom))
        first, second = (np.asarray(image.crop(box).convert("RGB"), np.int32) for image in (one, other))
        differences = (first - second)[np.asarray(painted.crop(box)) > 0]
        total += int(np.square(differences).sum())
        count += differences.size
    return 10 * math.log10(255**2 * count / total) if total else None
