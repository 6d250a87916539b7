"""The part of a picture that a mask repaints: thresholds, a check that there is one, masks of latent pixels.

The engine, the server and the command line use this one check, so that no mask is accepted first and refused
later. Imports neither torch nor OpenCV.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import RequestError
from inpaint.images.codec import MASK_THRESHOLD, mask_to_l

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded

VAE_FACTOR = 8  # pixels a side of one latent pixel
SOFT_THRESHOLD = 8  # a darker grey is less than one step of 30, and repaints nothing


def require_mask(mask: Image.Image, *, soft: bool) -> tuple[Image.Image, Box]:
    """Return the pixels that ``mask`` repaints, as a mask (``L``, 0 or 255), and their bounding box.

    Args:
        mask: a mask of any mode, or its luminance as ``mask_to_grey`` returns it.
        soft: whether grey is strength: then greys from 8 up count, otherwise from 128 up.

    Raises:
        RequestError: there is nothing to repaint, or the mask cannot be read.
    """
    painted = mask_to_l(mask, SOFT_THRESHOLD if soft else MASK_THRESHOLD)
    bounds = painted.getbbox()
    if bounds is None:
        how = (
            f"grey or white; in a soft mask greys from {SOFT_THRESHOLD} up count"
            if soft
            else f"white ({MASK_THRESHOLD} or brighter)"
        )
        raise RequestError("mask", f"nothing to repaint: paint the parts to change {how}")
    return painted, bounds


def latent_mask(mask: Image.Image, factor: int = VAE_FACTOR) -> NDArray[np.float32]:
    """Return the UNet's mask (h, w): 1 where any pixel of a latent pixel's square is 128 or more, else 0.

    Sampling one pixel of each square, as diffusers does, loses strokes that fall between the samples.

    Args:
        mask: ``L``, sides multiples of ``factor``.
        factor: pixels a side of one latent pixel.
    """
    brightest: NDArray[np.uint8] = _squares(np.asarray(mask), factor).max((1, 3))
    return (brightest >= MASK_THRESHOLD).astype(np.float32)


def latent_soft_mask(mask: Image.Image, factor: int = VAE_FACTOR) -> NDArray[np.float32]:
    """Return the mean strength (h, w), 0..1, of each latent pixel of a soft mask; see :func:`latent_mask`."""
    means: NDArray[np.float64] = _squares(np.asarray(mask), factor).mean((1, 3))
    return (means / 255).astype(np.float32)


def _squares(pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    """Split (H, W) into squares: (h, factor, w, factor)."""
    height, width = pixels.shape
    assert width % factor == 0, (width, factor)
    assert height % factor == 0, (height, factor)
    return pixels.reshape(height // factor, factor, width // factor, factor)
