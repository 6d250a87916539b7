"""The mask of an edit: transparent is repainted, as in OpenAI's API, or white in a file without alpha."""

from dataclasses import replace

from PIL import Image, ImageChops

from inpaint.canvas.mask import SOFT_THRESHOLD
from inpaint.errors import RequestError
from inpaint.images.pixels import MASK_THRESHOLD
from server.dialects.pictures import WHOLE, with_a_mask
from server.service.order import Given


def read_mask(given: Given) -> Given:
    """Return the pictures of an edit with a mask in which white is repainted.

    Without a mask the picture's own transparent part is repainted, or all of it: then what is there can still
    be recognised, unless the caller's settings say otherwise.

    Raises:
        RequestError: the mask has another size than the picture, or nothing in it is transparent.
    """
    if given.mask is None:
        return with_a_mask(given, {name: WHOLE[name] for name in WHOLE if name not in given.settings})
    (width, height), (w, h) = given.image.size, given.mask.size
    if (width, height) != (w, h):
        raise RequestError("mask", f"must have the size of the picture, {width}×{height}, but is {w}×{h}")
    if given.mask.mode not in ("LA", "RGBA"):
        return given  # white is repainted
    return replace(given, mask=_hole(given.mask, soft=bool(given.settings.get("soft"))))


def _hole(mask: Image.Image, *, soft: bool) -> Image.Image:
    """Return what is transparent in a mask as white (``L``)."""
    hole = ImageChops.invert(mask.getchannel("A"))
    most = int(str(hole.getextrema()[1]))
    if most < (SOFT_THRESHOLD if soft else MASK_THRESHOLD):
        raise RequestError(
            "mask",
            "nothing in it is transparent: make the parts to edit transparent (alpha below "
            f"{MASK_THRESHOLD}), or send black and white without an alpha channel, of which white is edited",
        )
    return hole
