"""The part of a picture that a mask repaints: channels, thresholds, a check that there is one, latent pixels.

The engine, the server and the command line use this one check, so that no mask is accepted first and refused
later. Imports neither torch nor OpenCV.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from inpaint.canvas.doubts import refuse_photograph, transparency_hint
from inpaint.errors import RequestError
from inpaint.images.pixels import MASK_THRESHOLD, mask_to_grey, mask_to_l, upright
from inpaint.request import InpaintRequest, MaskChannel

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded

VAE_FACTOR = 8  # pixels a side of one latent pixel
SOFT_THRESHOLD = 8  # a darker grey is less than one step of 30, and repaints nothing


def strength_of(request: InpaintRequest) -> Image.Image:
    """Return a request's mask as strength per pixel (``L``, 255 = repaint), upright, as its fields read it.

    Raises:
        RequestError: the mask cannot be read, has no transparency to read, or is a photograph.
    """
    return strength(request.mask, soft=request.soft, channel=request.mask_channel, invert=request.invert_mask)


def strength(
    mask: Image.Image, *, soft: bool = False, channel: MaskChannel = "luminance", invert: bool = False
) -> Image.Image:
    """Return a mask as strength per pixel (``L``, 255 = repaint), upright.

    Args:
        mask: of any mode.
        soft: whether grey is strength.
        channel: ``luminance`` repaints what is bright, ``alpha`` what is transparent.
        invert: repaints the rest instead.

    Raises:
        RequestError: the mask cannot be read, has no transparency to read, or is a photograph.
    """
    mask = upright(mask, "mask")
    if channel == "alpha":
        grey = ImageChops.invert(_alpha(mask))
    else:
        refuse_photograph(mask, soft=soft)
        grey = mask_to_grey(mask)
    return ImageChops.invert(grey) if invert else grey


def plain_mask(mask: Image.Image, channel: MaskChannel = "luminance") -> Image.Image:
    """Return a smaller mask that the same fields of a request read as they read ``mask``, upright.

    It takes a quarter of the memory of a mask with colours and alpha: ``L``, or ``LA`` for its alpha.

    Raises:
        RequestError: the mask cannot be read, or has no transparency to read.
    """
    if channel == "luminance":
        return mask_to_grey(mask)
    alpha = _alpha(upright(mask, "mask"))
    return Image.merge("LA", (Image.new("L", alpha.size), alpha))


def _alpha(mask: Image.Image) -> Image.Image:
    """Return the alpha channel (``L``) of an upright mask."""
    alpha = mask.getchannel("A") if mask.mode in ("LA", "RGBA") else None
    if alpha is None or alpha.getextrema()[0] == 255:
        raise RequestError(
            "mask",
            "nothing in it is transparent, so that mask_channel alpha has nothing to read; erase the parts "
            "to repaint, or leave mask_channel out",
        )
    return alpha


def fitted(grey: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a mask (``L``) in another size: black and white stay so, and the thinnest stroke survives."""
    return grey if grey.size == size else Image.fromarray(resize_brightest(np.asarray(grey), size))


def resize_brightest(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W) to a (width, height): each new pixel is the brightest of those that it covers."""
    resized = mask
    for axis, side in ((0, size[1]), (1, size[0])):
        length = resized.shape[axis]
        if length == side:
            continue
        i = np.arange(side)
        start, end = i * length // side, -(-(i + 1) * length // side)
        # reduceat takes [start, end) pairs but no end behind the last element; hence the row of zeros.
        padded = np.pad(resized, [(0, 1) if a == axis else (0, 0) for a in (0, 1)])
        resized = np.maximum.reduceat(padded, np.column_stack([start, end]).ravel(), axis)
        resized = resized.take(range(0, 2 * side, 2), axis)
    return resized


def require_mask(
    mask: Image.Image, *, soft: bool, given: Image.Image | None = None
) -> tuple[Image.Image, Box]:
    """Return the pixels that ``mask`` repaints, as a mask (``L``, 0 or 255), and their bounding box.

    Args:
        mask: a mask of any mode, or its strength as :func:`strength` returns it.
        soft: whether grey is strength: then greys from 8 up count, otherwise from 128 up.
        given: the mask that ``mask`` was made of, about whose transparency an error speaks.

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
        hint = transparency_hint(upright(mask if given is None else given, "mask"))
        raise RequestError("mask", f"nothing to repaint: paint the parts to change {how}{hint}")
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
