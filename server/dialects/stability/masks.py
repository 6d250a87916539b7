"""The masks of Stability's API: grey is strength, and a picture's own transparency may be one."""

from dataclasses import replace

from PIL import Image

from inpaint.canvas.mask import SOFT_THRESHOLD, fitted, strength
from inpaint.errors import RequestError
from inpaint.request import MAX_PIXELS, MAX_SIDE, check_same_size
from server.dialects.pictures import transparency, with_a_mask
from server.service.order import Adapt, Given, Sides

MIN_SIDE = 64  # of a picture, as the hosted API documents it


def masked(given: Given) -> Given:
    """Return pictures with a mask: the given one in the picture's size, or made of the picture.

    Raises:
        RequestError: the picture is too small, or the mask is a photograph or of another shape.
    """
    _check_sides(given.image)
    if given.mask is not None:
        check_same_size(given.image.size, given.mask.size, resize=True)
        given = replace(given, mask=fitted(strength(given.mask, soft=True), given.image.size))
    given = with_a_mask(given)
    assert given.mask is not None, "with_a_mask makes one"
    return replace(given, settings={**given.settings, "soft": _has_greys(given.mask)})


def erased(given: Given) -> Given:
    """Return pictures with a mask, as :func:`masked` does, if they say what to erase.

    Raises:
        RequestError: they do not; or as for :func:`masked`.
    """
    if given.mask is None and transparency(given.image) is None:
        raise RequestError("mask", "is required, since nothing in the picture is transparent")
    return masked(given)


def wide_enough(added: Sides) -> Adapt:
    """Return a check of a picture to which pixels are added on the left, top, right and bottom."""
    left, top, right, bottom = added

    def check(given: Given) -> Given:
        _check_sides(given.image)
        width, height = given.image.width + left + right, given.image.height + top + bottom
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise RequestError(
                "left",
                f"with left, right, up and down added the picture has {width}×{height} pixels; at most "
                f"{MAX_SIDE} a side and {MAX_PIXELS // 10**6} million in all are painted",
            )
        return given

    return check


def _check_sides(image: Image.Image) -> None:
    if min(image.size) < MIN_SIDE:
        width, height = image.size
        raise RequestError("image", f"sides must be at least {MIN_SIDE} pixels, but it is {width}×{height}")


def _has_greys(mask: Image.Image) -> bool:
    """Return whether a mask (``L``) has more than black and white, give or take what JPEG leaves of them."""
    return any(mask.histogram()[SOFT_THRESHOLD : 256 - SOFT_THRESHOLD])
