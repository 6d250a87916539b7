"""Erasing without a prompt and without a model: the marked part is filled from the picture around it.

Imports no torch, so that the command line erases within a second, and the server next to any engine.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.canvas.mask import Box, fitted, require_mask, strength
from inpaint.canvas.patch_fill import MAX_WORK_S, fill_by_patches
from inpaint.errors import RequestError
from inpaint.images.pixels import upright
from inpaint.request import ERASE_GROW, RANGES, MaskChannel, check_same_size, check_size


@dataclass(frozen=True, slots=True, eq=False)
class Erased:
    """A picture after a part of it was erased.

    Attributes:
        image: upright, in the size and mode of the caller's picture.
        box: the (left, top, right, bottom) part around what was filled; no pixel outside it has changed.
    """

    image: Image.Image
    box: Box


def erase(
    image: Image.Image,
    mask: Image.Image,
    *,
    grow: int = ERASE_GROW,
    mask_channel: MaskChannel = "luminance",
    invert_mask: bool = False,
    resize_mask: bool = False,
    max_work_s: float = MAX_WORK_S,
) -> Erased:
    """Erase the white part of a mask from a picture; equal calls give equal pictures.

    Pixels further than ``grow`` from the mask stay as they are, bit for bit, and alpha stays everywhere.
    Pixels that are wholly transparent are neither filled nor copied from.

    Args:
        image: the picture, in any PIL mode; it is turned upright by its EXIF orientation.
        mask: white (luminance 128 to 255) is erased.
        grow: pixels by which the mask is widened, 0 to 256, since a rim of the object is easily left over.
        mask_channel: ``luminance`` erases what is white in the mask, ``alpha`` what is transparent in it.
        invert_mask: erases what the mask would keep, and keeps the rest.
        resize_mask: takes a mask of the picture's shape in another size, and resizes it.
        max_work_s: seconds of one core, roughly, above which the fill is made at a reduced size.

    Raises:
        RequestError: a picture or an option is wrong, the mask covers everything or nothing, or the library
            for it is missing.
    """
    RANGES["grow"].check("grow", grow)
    for name, picture in (("image", image), ("mask", mask)):
        check_size(name, picture.size)
    image, mask = upright(image), upright(mask, "mask")
    check_same_size(image.size, mask.size, resize=resize_mask)
    grey = fitted(strength(mask, channel=mask_channel, invert=invert_mask), image.size)
    marked, _ = require_mask(grey, soft=False, given=mask)
    pixels = np.asarray(image)
    hidden = _transparent(pixels)
    hole = _grown(np.asarray(marked), grow) & ~hidden
    if not hole.any():
        raise RequestError("mask", "marks only what is wholly transparent, so that nothing can be erased")
    filled = _filled(pixels, hole, hidden, max_work_s)
    return Erased(Image.fromarray(filled), _bounds(hole))


def _grown(mask: NDArray[np.uint8], px: int) -> NDArray[np.bool_]:
    """Return where a mask is set, or a pixel within the distance ``px`` is."""
    distance = cv2.distanceTransform(255 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= px)


def _transparent(pixels: NDArray[np.generic]) -> NDArray[np.bool_]:
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        return np.asarray(pixels[..., -1] == 0)
    return np.zeros(pixels.shape[:2], bool)


def _filled(
    pixels: NDArray[np.generic], hole: NDArray[np.bool_], hidden: NDArray[np.bool_], max_work_s: float
) -> NDArray[np.generic]:
    """Return the pixels of any of the modes of a decoded picture, with the colours of the hole filled."""
    result = pixels.copy()
    if pixels.dtype == np.uint16:
        result[hole] = _filled_16_bit(pixels, hole, max_work_s)[hole]
        return result
    colours = pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] >= 3 else _as_rgb(pixels)
    filled = fill_by_patches(
        np.ascontiguousarray(colours).astype(np.uint8, copy=False), hole, hidden, max_work_s=max_work_s
    )
    if pixels.ndim == 2:
        result[hole] = filled[hole][:, 0]
    else:
        count = 3 if pixels.shape[2] >= 3 else 1
        result[hole, :count] = filled[hole][:, :count]
    return result


def _filled_16_bit(
    pixels: NDArray[np.generic], hole: NDArray[np.bool_], max_work_s: float
) -> NDArray[np.uint16]:
    """Fill 16-bit grey: the fill has 256 levels between the darkest and the brightest known pixel."""
    known = pixels[~hole]
    low, high = (int(known.min()), int(known.max())) if known.size else (0, 65_535)
    step = max(high - low, 1) / 255
    eight = np.rint((pixels.astype(np.float32) - low) / step).clip(0, 255).astype(np.uint8)
    filled = fill_by_patches(_as_rgb(eight), hole, max_work_s=max_work_s)[..., 0]
    return np.asarray(np.rint(low + filled * step).clip(0, 65_535).astype(np.uint16))


def _as_rgb(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return grey, with or without alpha, as three equal channels."""
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def _bounds(hole: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
