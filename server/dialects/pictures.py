"""Steps on decoded pictures that dialects share: a mask where none was sent, flat pictures, other sizes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from PIL import Image, ImageChops, ImageOps

from inpaint.canvas.mask import SOFT_THRESHOLD, fitted
from inpaint.images.pixels import MASK_THRESHOLD, to_rgb
from inpaint.request import check_size
from server.service.order import Blank, Given, Order

# How a picture without mask and transparency is edited: all of it, and so that it can be recognised.
WHOLE: Mapping[str, object] = {"area": "whole", "strength": 0.75}
# How a blank picture is painted with an inpainting checkpoint, as A1111 does it.
GENERATION: Mapping[str, object] = {
    "fill": "noise",
    "area": "whole",
    "strength": 0.99,
    "grow": 0,
    "feather": 0,
    "color_match": False,
}
Resize = Literal["stretch", "cover", "contain"]


def generation(size: tuple[int, int], settings: Mapping[str, object], in_channels: int | None) -> Order:
    """Return the order of pictures that are painted from a prompt alone.

    Args:
        size: (width, height) of the pictures, in pixels.
        settings: the caller's; those that mean an edited picture have no effect.
        in_channels: of the model's UNet, if it is known. One with 4 was trained to begin with noise alone,
            so that nothing of the blank picture may show through; an inpainting model paints noise then.

    Raises:
        RequestError: such a ``size`` cannot be painted.
    """
    check_size("size", size)
    painted: dict[str, object] = {**settings, **GENERATION}
    if in_channels == 4 or painted.get("num_inference_steps") == 1:  # 0.99 of one step is none
        painted["strength"] = 1.0
    return Order(image=Blank(*size), mask=None, settings=painted)


def transparency(image: Image.Image) -> Image.Image | None:
    """Return a mask (``L``), white where a picture is transparent; None if nothing in it is."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    return None if alpha is None or alpha.getextrema()[0] == 255 else ImageChops.invert(alpha)


def with_a_mask(given: Given, whole: Mapping[str, object] = WHOLE) -> Given:
    """Return pictures with a mask: the given one, else the transparent part, else the whole picture.

    A picture that is nowhere transparent enough to be repainted, such as one with a faint shadow, counts as
    opaque.

    Args:
        given: as decoded.
        whole: settings that change if the whole picture is repainted.
    """
    if given.mask is not None:
        return given
    mask, least = transparency(given.image), SOFT_THRESHOLD if given.settings.get("soft") else MASK_THRESHOLD
    if mask is not None and int(str(mask.getextrema()[1])) >= least:
        return replace(given, mask=mask)  # what is painted becomes opaque
    return replace(given, mask=Image.new("L", given.image.size, 255), settings={**given.settings, **whole})


def flattened(given: Given) -> Given:
    """Return pictures with the transparent parts of the first laid over white."""
    transparent = given.image.mode in ("LA", "RGBA")
    return replace(given, image=to_rgb(given.image)) if transparent else given


def resized(given: Given, size: tuple[int, int], how: Resize) -> Given:
    """Return pictures of another size.

    Args:
        given: with a mask (``L``) or without; one of another size than the picture is fitted to it.
        size: (width, height) in pixels.
        how: ``stretch`` the picture, ``cover`` the size and cut off the rest, or ``contain`` it whole and
            fill the rest with its edges' colours.
    """
    image, mask = given.image, given.mask
    if mask is not None:
        mask = fitted(mask, image.size)
    if image.size == size:
        return replace(given, mask=mask)
    lanczos: Any = Image.Resampling.LANCZOS
    if how == "stretch":
        image = image.resize(size, lanczos)
        mask = None if mask is None else fitted(mask, size)
    elif how == "cover":
        image = ImageOps.fit(image, size, lanczos)
        mask = None if mask is None else fitted(mask.crop(_covering(mask.size, size)), size)
    else:
        image, mask = _contained(image, size), None if mask is None else _contained_mask(mask, size)
    return replace(given, image=image, mask=mask)


def _covering(picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box in the middle of a picture that has the shape of ``size``, in whole pixels."""
    scale = min(picture[0] / size[0], picture[1] / size[1])
    (left, right), (top, bottom) = (
        (math.floor((whole - part * scale) / 2), math.ceil((whole + part * scale) / 2))
        for whole, part in zip(picture, size, strict=True)
    )
    return max(left, 0), max(top, 0), min(right, picture[0]), min(bottom, picture[1])


def _inside(picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box that a picture takes in the middle of ``size``."""
    scale = min(size[0] / picture[0], size[1] / picture[1])
    width, height = (max(1, round(side * scale)) for side in picture)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _contained(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top, right, bottom = _inside(image.size, size)
    small = image.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    found = Image.new(image.mode, size)
    # The outermost rows and columns, smeared to the border.
    for box, strip in (
        ((0, top, left, bottom), (0, 0, 1, small.height)),
        ((right, top, size[0], bottom), (small.width - 1, 0, small.width, small.height)),
        ((0, 0, size[0], top), (0, 0, small.width, 1)),
        ((0, bottom, size[0], size[1]), (0, small.height - 1, small.width, small.height)),
    ):
        width, height = box[2] - box[0], box[3] - box[1]
        if width > 0 and height > 0:
            found.paste(small.crop(strip).resize((width, height)), box)
    found.paste(small, (left, top))
    return found


def _contained_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a mask that keeps what lies outside the picture."""
    left, top, right, bottom = _inside(mask.size, size)
    found = Image.new("L", size)
    found.paste(fitted(mask.convert("L"), (right - left, bottom - top)), (left, top))
    return found
