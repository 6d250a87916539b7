"""The geometry of one request: the boxes cut out of the picture, working sizes, masks, pasting back.

Lengths are *picture pixels* unless a name says *working*. ``padding``, ``grow`` and ``feather`` of a
request are in units of 1/1024 of the box's side, so that one setting fits a thumbnail and a poster, unless
its ``lengths`` say otherwise. The box in turn depends on them; the unit is therefore measured on a first
box around the bare mask.

A mask with islands far apart has several boxes, see :mod:`inpaint.canvas.islands`. Pixels further than
``Canvas.reach_px`` from the mask stay exactly the caller's own.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.canvas.blend import blend, fade, feather
from inpaint.canvas.color import match_colors
from inpaint.canvas.doubts import doubts
from inpaint.canvas.fill import continue_edges, fill_hole
from inpaint.canvas.islands import Island, separate
from inpaint.canvas.mask import SOFT_THRESHOLD, Box, fitted, require_mask, resize_brightest, strength_of
from inpaint.canvas.sizes import Size, auto_size, best_size, widened
from inpaint.errors import RequestError
from inpaint.images.pixels import mask_to_grey, to_rgb, upright
from inpaint.request import InpaintRequest, check_same_size, check_size, upright_size

Bytes2D = NDArray[np.uint8]

_CONTEXT = 1.2  # the box's side to the mask's, at least: the context that the model sees around a large hole
_MAX_BOX_ASPECT = 2  # SDXL paints strips badly; a strip's box is widened where the picture allows
_NEAR = 16  # a part of native: pixels no further apart are never in two boxes


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """The pictures and masks of one box of a request.

    ``original`` is the upright picture in the caller's mode; ``box`` is the part of it that is painted.
    ``image`` (RGB, filled) and ``mask`` (``L``, 0 or 255, grown) have the working size.
    ``paste_mask`` (``L``) has the box's size: 255 in the grown mask, falling to 0 outwards; lower where a
    soft request's mask is dark grey.
    ``soft_mask`` (``L``, working size) is strength per pixel, and None unless the request is soft.
    ``grow_px`` and ``feather_px`` are picture pixels.
    """

    original: Image.Image
    box: Box
    image: Image.Image
    mask: Image.Image
    paste_mask: Image.Image
    soft_mask: Image.Image | None
    grow_px: int
    feather_px: int
    color_match: bool

    @property
    def size(self) -> Size:
        """The working (width, height) in pixels, both multiples of 64."""
        return self.image.size

    @property
    def reach_px(self) -> int:
        """The distance from the mask, in picture pixels, beyond which ``paste`` changes no pixel."""
        return self.grow_px + self.feather_px


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The boxes of one request.

    ``box`` is the one around the whole mask; ``canvases`` are the boxes that are painted, the one with the
    largest part of the mask first. They do not overlap. ``warnings`` are sentences about the mask.
    """

    box: Box
    canvases: tuple[Canvas, ...]
    warnings: tuple[str, ...] = ()


def cut(request: InpaintRequest, native: int = 1024) -> Cut:
    """Cut a request's picture and mask to the boxes that are painted.

    A soft request's mask is everything that its grey repaints in at least one step of 30.

    Args:
        request: what to paint.
        native: the side in pixels of the square that the model was trained on.

    Raises:
        RequestError: there is nothing to repaint, or a picture cannot be read.
    """
    original = upright(request.image)
    grey, mask, bounds = _mask_of(request, original.size)
    islands = _islands(mask, bounds, request, native)
    box, _, _ = _measure(bounds, original.size, request, native)
    return Cut(
        box=box,
        canvases=tuple(_canvas(request, original, grey, mask, each.bounds, native) for each in islands),
        warnings=(*doubts(grey, soft=request.soft), *_about_specks(islands)),
    )


def shown_box(request: InpaintRequest, native: int = 1024) -> Box:
    """Return the box around a request's whole mask, in picture pixels; its previews show this part.

    Raises:
        RequestError: there is nothing to repaint, or a picture cannot be read.
    """
    picture = upright_size(request.image)
    return _measure(_mask_of(request, picture)[2], picture, request, native)[0]


def working_sizes_of(request: InpaintRequest, native: int = 1024) -> tuple[Size, ...]:
    """Return the working size of each box that :func:`cut` would give; they decide what the request costs.

    Raises:
        RequestError: there is nothing to repaint, or a picture cannot be read.
    """
    picture = upright_size(request.image)
    _, mask, bounds = _mask_of(request, picture)
    islands = _islands(mask, bounds, request, native)
    boxes = [_measure(island.bounds, picture, request, native)[0] for island in islands]
    return tuple(_working_size(box, request, native) for box in boxes)


def _mask_of(request: InpaintRequest, picture: Size) -> tuple[Image.Image, Image.Image, Box]:
    """Return the strength per pixel, the pixels that are repainted, and their bounding box."""
    grey = fitted(strength_of(request), picture)
    return grey, *require_mask(grey, soft=request.soft, given=request.mask)


def _islands(mask: Image.Image, bounds: Box, request: InpaintRequest, native: int) -> list[Island]:
    """Return the parts of a mask that are painted in boxes of their own, the largest first."""
    pixels = np.asarray(mask)
    if request.area == "whole":
        return [Island(bounds, int(np.count_nonzero(pixels)))]

    def box_of(part: Box) -> Box:
        return _measure(part, mask.size, request, native)[0]

    return separate(pixels, box_of, max(1, native // _NEAR))


def _about_specks(islands: list[Island]) -> tuple[str, ...]:
    """Return a warning if islands are so small that they were perhaps not meant."""
    specks = [island for island in islands if island.is_speck]
    if not specks:
        return ()
    (left, top, _, _), pixels = specks[0].bounds, specks[0].pixels
    where = f"of {pixels} pixel{'s' * (pixels > 1)} at ({left}, {top})"
    what = f"a stray speck {where}" if len(specks) == 1 else f"{len(specks)} stray specks, the first {where}"
    return (
        f"mask: has {what}, far from the rest; a speck is painted in a box of its own and costs as much as "
        "the rest, so erase it if it was not meant",
    )


def _canvas(
    request: InpaintRequest,
    original: Image.Image,
    grey: Image.Image,
    mask: Image.Image,
    bounds: Box,
    native: int,
) -> Canvas:
    """Cut the box around the part of a mask that lies within ``bounds``."""
    box, grow_px, feather_px = _measure(bounds, original.size, request, native)
    distance = _distance(np.asarray(mask.crop(box)))
    grown = distance <= grow_px
    width, height = _working_size(box, request, native)
    working_mask = resize_brightest(grown.astype(np.uint8) * 255, (width, height))
    pixels = np.asarray(_resize(to_rgb(original.crop(box)), (width, height)))
    paste_mask, soft_mask = feather(distance, grow_px, feather_px), None
    if request.soft:
        strength = _nearest_grey(grey.crop(box))
        paste_mask = fade(paste_mask, strength)
        soft_mask = Image.fromarray(resize_brightest(np.where(grown, strength, np.uint8(0)), (width, height)))
    return Canvas(
        original=original,
        box=box,
        image=Image.fromarray(fill_hole(pixels, working_mask, request.fill)),
        mask=Image.fromarray(working_mask),
        paste_mask=Image.fromarray(paste_mask),
        soft_mask=soft_mask,
        grow_px=grow_px,
        feather_px=feather_px,
        color_match=request.color_match,
    )


def paste(canvas: Canvas, painted: NDArray[np.float32]) -> Image.Image:
    """Paste ``painted`` into a copy of the caller's picture, which keeps its size and mode.

    Args:
        canvas: the only box of the request.
        painted: (H, W, 3) at the working size, finite, 0..1.
    """
    return assembled(canvas.original, [(canvas.box, patch(canvas, painted))])


def assembled(original: Image.Image, patches: Iterable[tuple[Box, Image.Image]]) -> Image.Image:
    """Return a copy of the caller's picture with finished patches in their boxes."""
    result = original.copy()
    for box, finished in patches:
        result.paste(finished, box)
    return result


def patch(canvas: Canvas, painted: NDArray[np.float32]) -> Image.Image:
    """Return a box's part of the caller's picture, in its mode, with ``painted`` blended into it.

    Args:
        canvas: the box.
        painted: (H, W, 3) at the working size, finite, 0..1.
    """
    assert painted.dtype == np.float32, painted.dtype
    assert painted.shape == (canvas.size[1], canvas.size[0], 3), painted.shape
    # Floats throughout, so that values are rounded only once: by the blend, to the caller's bit depth.
    if canvas.color_match:
        painted = match_colors(painted, np.asarray(canvas.image), np.asarray(canvas.mask))
    left, top, right, bottom = canvas.box
    blended = blend(
        np.asarray(canvas.original.crop(canvas.box)),
        _resize_floats(painted, (right - left, bottom - top)),
        np.asarray(canvas.paste_mask),
    )
    return Image.fromarray(blended)


def _working_size(box: Box, request: InpaintRequest, native: int) -> Size:
    """Return the size at which a box is painted."""
    choose = best_size if request.area == "whole" else auto_size
    return choose(box[2] - box[0], box[3] - box[1], native)


def _measure(bounds: Box, picture: Size, request: InpaintRequest, native: int) -> tuple[Box, int, int]:
    """Return box, grow and feather in picture pixels; ``bounds`` is the bare mask's bounding box."""
    whole = (0, 0, *picture)
    first = whole if request.area == "whole" else _box_around(bounds, 0, picture, native)
    side = math.sqrt((first[2] - first[0]) * (first[3] - first[1]))
    unit = 1.0 if request.lengths == "picture" else side / 1024

    def px(units: int) -> int:  # rounded up: a grow of 1 on a thumbnail is still a pixel, and 0 stays 0
        return math.ceil(units * unit - 1e-9)

    grow_px, feather_px = px(request.grow), px(request.feather)
    if request.area == "whole":
        return whole, grow_px, feather_px
    margin = grow_px + max(px(request.padding), feather_px)  # the feather is never cut by the box
    return _box_around(bounds, margin, picture, native), grow_px, feather_px


def _box_around(bounds: Box, margin: int, picture: Size, native: int) -> Box:
    """Widen ``bounds`` by ``margin``, for context and to a working size's shape; clamp it to the picture."""
    left, top, right, bottom = bounds
    full_w, full_h = picture

    def least(side: int) -> int:
        return max(side + 2 * margin, math.ceil(_CONTEXT * side), native // 2)

    w, h = least(right - left), least(bottom - top)
    w, h = max(w, h // _MAX_BOX_ASPECT), max(h, w // _MAX_BOX_ASPECT)
    w, h = min(w, full_w), min(h, full_h)
    w, h = widened((w, h), picture, native)
    x0 = min(max((left + right - w) // 2, 0), full_w - w)
    y0 = min(max((top + bottom - h) // 2, 0), full_h - h)
    return x0, y0, x0 + w, y0 + h


def _distance(mask: Bytes2D) -> NDArray[np.float32]:
    """Return the exact Euclidean distance of each pixel (h, w) from the nearest set one."""
    return np.asarray(cv2.distanceTransform(255 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _nearest_grey(grey: Image.Image) -> Bytes2D:
    """Return the strength per pixel: the mask's grey where it repaints, elsewhere that of the nearest."""
    values = np.asarray(grey)
    support = values >= SOFT_THRESHOLD
    _, labels = cv2.distanceTransformWithLabels(
        np.where(support, 0, 1).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(int(labels.max()) + 1, np.uint8)
    of_label[labels[support]] = values[support]
    return np.asarray(of_label[labels], np.uint8)


def _resize(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _resize_floats(pixels: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Resize (H, W, 3) to (h, w, 3); Pillow's Lanczos widens with the scale, so shrinking does not alias."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    channels = [_resize(Image.fromarray(np.ascontiguousarray(pixels[..., c])), size) for c in range(3)]
    return np.dstack([np.asarray(channel) for channel in channels])


def extend(
    image: Image.Image, mask: Image.Image | None, left: int, top: int, right: int, bottom: int
) -> tuple[Image.Image, Image.Image]:
    """Enlarge a picture to paint beyond its edges; the new area is white in the mask.

    Args:
        image: the picture; the new area continues its edge pixels, softened.
        mask: a mask of the picture's size for the old area, or None.
        left: pixels to add there, 0 or more; the same for the three others.
        top: see ``left``.
        right: see ``left``.
        bottom: see ``left``.

    Returns:
        The larger picture and its mask (``L``), both upright.

    Raises:
        RequestError: an amount is negative or all are 0, the result is too large, or ``mask`` does not have
            the picture's size.
    """
    image = upright(image)
    amounts = (left, top, right, bottom)
    if min(amounts) < 0 or max(amounts) == 0:
        raise RequestError(
            "extend", f"must be four numbers of pixels, 0 or more and not all 0, not {amounts}"
        )
    width, height = image.width + left + right, image.height + top + bottom
    check_size("extend", (width, height))
    inside = Image.new("L", image.size) if mask is None else mask_to_grey(mask)
    check_same_size(image.size, inside.size)
    bigger_mask = Image.new("L", (width, height), 255)
    bigger_mask.paste(inside, (left, top))
    bigger = Image.fromarray(continue_edges(np.asarray(image), amounts))
    bigger.info = dict(image.info)
    return bigger, bigger_mask
