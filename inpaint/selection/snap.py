"""Snap to the edge: from a rough stroke, a box or points to the object, by GrabCut; needs no weights.

GrabCut runs on a reduced picture, first a small and then a larger one, and the edge is refined on the picture
itself.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.images.pixels import to_rgb
from inpaint.selection.edges import refined
from inpaint.selection.hints import Box, Hints, Point, Selection
from inpaint.selection.seeds import (
    INSIDE,
    OUTSIDE,
    PERHAPS_INSIDE,
    PERHAPS_OUTSIDE,
    Labels,
    Small,
    discs,
    labels_of,
    subject_labels,
    touching,
)

_COARSE, _FINE = 256, 640  # longest side of the two reduced pictures, in pixels
_ROUNDS = 4
_BAND = 4  # pixels of the larger picture around the coarse edge that are cut again
_SMALLEST_PART = 0.02  # of the largest part: smaller ones are specks
_STEPS = {"smaller": -1, "best": 0, "larger": 1}


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture's colours (H, W, 3), transparent parts over white."""
    return np.asarray(to_rgb(image))


def snap(picture: NDArray[np.uint8], hints: Hints) -> Selection:
    """Select an object.

    Args:
        picture: (H, W, 3).
        hints: checked against it.
    """
    height, width = picture.shape[:2]
    left, top, right, bottom = _region(hints, (width, height))
    part = picture[top:bottom, left:right]
    inside = _cut(part, hints, (left, top))
    whole = refined(part, inside)
    if hints.what == "background":
        return Selection.of(255 - whole)
    return Selection.of(whole, origin=(left, top), size=(width, height))


def _region(hints: Hints, size: tuple[int, int]) -> Box:
    """Return the part of the picture that is looked at: around a box or stroke, else all of it."""
    width, height = size
    if hints.what != "object":
        return 0, 0, width, height
    if hints.scribble is not None:
        left, top, w, h = cv2.boundingRect(hints.scribble.astype(np.uint8))
        box, margin = (left, top, left + w, top + h), 0.8
    elif hints.box is not None:
        box, margin = hints.box, 0.25
    else:
        return 0, 0, width, height
    for point in hints.points:
        x, y = int(point.x), int(point.y)
        box = (min(box[0], x), min(box[1], y), max(box[2], x + 1), max(box[3], y + 1))
    around = round(margin * max(box[2] - box[0], box[3] - box[1])) + 8
    return (
        max(box[0] - around, 0),
        max(box[1] - around, 0),
        min(box[2] + around, width),
        min(box[3] + around, height),
    )


def _cut(part: NDArray[np.uint8], hints: Hints, origin: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the object in a reduced part of the picture."""
    coarse, fine = _reduced(part, hints, origin, _COARSE), _reduced(part, hints, origin, _FINE)
    labels = subject_labels(coarse.pixels) if hints.what != "object" else labels_of(coarse)
    found = _grab(coarse.pixels, labels, _ROUNDS)
    found = _stepped(_parts(found, coarse, hints), _STEPS[hints.variant])
    if fine.pixels.shape == coarse.pixels.shape:
        return found
    return _parts(_grab(fine.pixels, _near(found, fine), 1), fine, hints)


def _reduced(part: NDArray[np.uint8], hints: Hints, origin: tuple[int, int], side: int) -> Small:
    """Return a part of the picture with no side longer than ``side``, and the hints in its pixels."""
    height, width = part.shape[:2]
    factor = min(1.0, side / max(height, width))
    w, h = max(4, round(width * factor)), max(4, round(height * factor))
    x_factor, y_factor, (x, y) = w / width, h / height, origin
    box = scribble = None
    if hints.box is not None:
        left, top, right, bottom = hints.box
        box = (
            int((left - x) * x_factor),
            int((top - y) * y_factor),
            min(w, round((right - x) * x_factor + 0.5)),
            min(h, round((bottom - y) * y_factor + 0.5)),
        )
    if hints.scribble is not None:
        own = hints.scribble[y : y + height, x : x + width].astype(np.uint8) * 255
        scribble = cv2.resize(own, (w, h), interpolation=cv2.INTER_AREA) > 64
    return Small(
        cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA) if (w, h) != (width, height) else part,
        tuple(Point((p.x - x) * x_factor, (p.y - y) * y_factor, p.inside) for p in hints.points),
        box,
        scribble,
    )


def _grab(pixels: NDArray[np.uint8], labels: Labels, rounds: int) -> NDArray[np.bool_]:
    """Return where GrabCut finds the object; it needs both sides to learn their colours."""
    inside = np.isin(labels, (INSIDE, PERHAPS_INSIDE))
    if inside.all() or not inside.any():
        return inside
    cv2.setRNGSeed(0)  # the same answer to the same click
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    cut = cv2.grabCut(bgr, labels.copy(), None, *models, rounds, cv2.GC_INIT_WITH_MASK)[0]
    return np.isin(cut, (INSIDE, PERHAPS_INSIDE))


def _parts(found: NDArray[np.bool_], small: Small, hints: Hints) -> NDArray[np.bool_]:
    """Return the parts of a cut that are meant, without specks and pinholes."""
    inside = [point for point in small.points if point.inside]
    if hints.what == "object" and inside and hints.box is None and hints.scribble is None:
        found = touching(found, inside)
    outside = [point for point in small.points if not point.inside]
    if inside and outside and touching(found, outside).any():
        found = _nearer(found, small.pixels, inside, outside)
    if not found.any():
        return found
    return _without_specks(~_without_specks(~_without_specks(found), least=0.001))


def _nearer(
    found: NDArray[np.bool_], pixels: NDArray[np.uint8], inside: list[Point], outside: list[Point]
) -> NDArray[np.bool_]:
    """Return the part of a cut that is nearer to the points inside than to those outside, along its way."""
    markers = np.where(found, 0, 3).astype(np.int32)
    for number, points in ((1, inside), (2, outside)):
        markers[(discs(points, found.shape, 2) > 0) & found] = number
    return (cv2.watershed(np.ascontiguousarray(pixels), markers) == 1) & found  # type: ignore[no-any-return]


def _without_specks(mask: NDArray[np.bool_], least: float = _SMALLEST_PART) -> NDArray[np.bool_]:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[:, cv2.CC_STAT_AREA]
    if count < 3:  # the rest of the picture, and one part
        return mask
    large = np.flatnonzero(areas >= least * areas[1:].max())
    return np.isin(parts, large[large > 0])


def _stepped(found: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Return a mask grown (1) or shrunk (-1) by a twentieth of its own size."""
    if not steps or not found.any():
        return found
    radius = max(1, round(0.05 * float(np.sqrt(found.sum()))))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    change = cv2.dilate if steps > 0 else cv2.erode
    return change(found.astype(np.uint8), kernel) > 0  # type: ignore[no-any-return]


def _near(found: NDArray[np.bool_], fine: Small) -> Labels:
    """Return labels of the larger picture that leave only the surroundings of the coarse edge open."""
    height, width = fine.pixels.shape[:2]
    large = cv2.resize(found.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR) >= 128
    kernel = np.ones((2 * _BAND + 1, 2 * _BAND + 1), np.uint8)
    mask = large.astype(np.uint8)
    labels = np.where(large, np.uint8(PERHAPS_INSIDE), np.uint8(PERHAPS_OUTSIDE))
    labels[cv2.erode(mask, kernel) > 0] = INSIDE
    labels[cv2.dilate(mask, kernel) == 0] = OUTSIDE
    return labels
