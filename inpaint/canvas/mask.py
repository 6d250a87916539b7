"""The part of a picture that a mask repaints: thresholds, and the refusal of a mask that repaints nothing.

The engine, the server and the command line all ask here, so that a mask that one of them accepts is never
refused later. Imports neither torch nor OpenCV.
"""

from PIL import Image

from inpaint.errors import RequestError
from inpaint.images.codec import MASK_THRESHOLD, mask_to_l

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded

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
