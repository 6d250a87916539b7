"""Masks that are probably mistakes: photographs, masks with black and white swapped.

What cannot be meant is refused; what may be meant gets a warning. Both are judged on a sample of the pixels.
Imports neither torch nor OpenCV.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import RequestError
from inpaint.images.pixels import MASK_THRESHOLD

_SAMPLE = 256  # pixels a side
_MIDDLE = 32  # levels from black or white up to which a pixel belongs to it, as in a JPEG
_MIDDLE_SHARE = 0.3  # of the pixels; the edges of masks, soft or from a JPEG, are fewer
_SEEN = 1 / 2000  # of the pixels: rarer levels and colours are noise
_LEVELS = 48  # greys of a photograph or a depth map; a mask of a few flat greys has a few
_COLOURS = 48  # of 4096: a drawing or a colour-coded map has fewer
_CHROMA, _CHROMA_SHARE = 24, 0.1  # a pixel is coloured from this difference of its channels on
_MOSTLY = 0.75  # of the picture: a mask that repaints more is perhaps inverted
_FULL_STRENGTH = 240  # greys of a soft mask that count as white here

_USE_ALPHA = (
    "to repaint what is transparent in it set mask_channel to alpha (--mask-channel alpha), and to repaint "
    "the rest invert_mask (--invert-mask) as well"
)


def refuse_photograph(mask: Image.Image, *, soft: bool) -> None:
    """Refuse a photograph in place of a mask, with a part erased or without.

    Args:
        mask: as it was given, upright.
        soft: whether grey is strength; then a photograph without colours cannot be told from a mask.

    Raises:
        RequestError: it has the colours of a photograph, or is transparent in part and has its greys.
    """
    if mask.mode not in ("LA", "RGB", "RGBA"):
        return
    pixels = np.asarray(_sampled(mask).convert("RGBA")).reshape(-1, 4)
    opaque = pixels[pixels[:, 3] >= MASK_THRESHOLD, :3]
    if not len(opaque) or not (_is_coloured(opaque) or (not soft and _is_grey_all_over(_luminance(opaque)))):
        return
    if len(opaque) < len(pixels):
        raise RequestError(
            "mask", f"looks like a photograph with a part erased, not like a mask; {_USE_ALPHA}"
        )
    if _is_coloured(opaque):
        raise RequestError(
            "mask",
            "looks like a photograph, not like a mask; a mask is white where the picture is repainted and "
            "black elsewhere",
        )


def doubts(grey: Image.Image, *, soft: bool) -> tuple[str, ...]:
    """Return warnings about a mask that may not be what its caller meant.

    Args:
        grey: strength per pixel (``L``).
        soft: whether grey is strength.
    """
    levels = np.asarray(_sampled(grey)).ravel()
    found = []
    if not soft and _is_grey_all_over(levels):
        found.append(
            f"mask: has greys all over, like a photograph; everything from {MASK_THRESHOLD} up is repainted; "
            "if grey is meant as strength, set soft (--soft)"
        )
    share = float((levels >= (_FULL_STRENGTH if soft else MASK_THRESHOLD)).mean())
    if _MOSTLY <= share < 1:
        found.append(
            f"mask: {min(round(100 * share), 99)} % of the picture would be repainted; if only the rest was "
            "meant, set invert_mask (--invert-mask)"
        )
    return tuple(found)


def transparency_hint(mask: Image.Image) -> str:
    """Return what to do about a mask that repaints nothing but is transparent in part; else an empty text."""
    if mask.mode not in ("LA", "RGBA") or np.asarray(mask.getchannel("A")).min() >= MASK_THRESHOLD:
        return ""
    return f"; the mask is transparent in part: {_USE_ALPHA}"


def _sampled(image: Image.Image) -> Image.Image:
    size = (min(image.width, _SAMPLE), min(image.height, _SAMPLE))
    return image.resize(size, Image.Resampling.NEAREST)


def _luminance(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the luminance (n,) of colours (n, 3), as Pillow computes it."""
    return np.asarray(Image.fromarray(colours[None]).convert("L")).ravel()


def _is_grey_all_over(levels: NDArray[np.uint8]) -> bool:
    """Return whether many levels (n,) lie between black and white, and are not all the same few."""
    middle = (levels >= _MIDDLE) & (levels <= 255 - _MIDDLE)
    seen = np.bincount(levels[middle], minlength=256) > _SEEN * len(levels)
    return bool(middle.mean() >= _MIDDLE_SHARE and np.count_nonzero(seen) >= _LEVELS)


def _is_coloured(colours: NDArray[np.uint8]) -> bool:
    """Return whether colours (n, 3) are as many and as different as in a photograph."""
    chroma = colours.max(1) - colours.min(1)
    r, g, b = (colours // 16).astype(np.int64).T
    seen = np.bincount(256 * r + 16 * g + b, minlength=4096) > _SEEN * len(colours)
    return bool((chroma >= _CHROMA).mean() >= _CHROMA_SHARE and np.count_nonzero(seen) >= _COLOURS)
