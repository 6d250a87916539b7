"""Rough hints at a known object, as a person would give them: made of the truth and then spoilt."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.selection.hints import Hints, Point

Truth = NDArray[np.bool_]


def _kernel(radius: int) -> NDArray[np.uint8]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2).astype(np.uint8)


def _depth(truth: Truth) -> NDArray[np.float32]:
    return np.asarray(cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def box_of(truth: Truth) -> Hints:
    """A box that is not tight, and not equally wide on its sides."""
    height, width = truth.shape
    left, top, w, h = cv2.boundingRect(truth.astype(np.uint8))
    room = max(3, width // 60)
    right, bottom = min(width, left + w + room // 2), min(height, top + h + room)
    return Hints(box=(max(0, left - room), max(0, top - room // 2), right, bottom))


def point_of_truth(truth: Truth) -> Hints:
    """A click in the thickest part."""
    y, x = np.unravel_index(int(_depth(truth).argmax()), truth.shape)
    return Hints(points=(Point(float(x), float(y)),))


def stroke_inside(truth: Truth) -> Hints:
    """A thick stroke that leaves out the thin parts and the rim."""
    core = cv2.erode(truth.astype(np.uint8), _kernel(max(2, int(0.25 * _depth(truth).max()))))
    return Hints(scribble=core > 0)


def stroke_over(truth: Truth) -> Hints:
    """A stroke that spills over the edge, more on one side than on the other."""
    spill = max(3, truth.shape[1] // 100)
    over = cv2.dilate(truth.astype(np.uint8), _kernel(spill))
    return Hints(scribble=np.roll(over, (spill // 2, spill // 2), (0, 1)) > 0)


def outline(truth: Truth) -> Hints:
    """A closed line around the object, some pixels away from it."""
    far = max(4, truth.shape[1] // 60)
    plain = truth.astype(np.uint8)
    return Hints(scribble=cv2.dilate(plain, _kernel(far)) - cv2.dilate(plain, _kernel(far // 2)) > 0)


def subject(truth: Truth) -> Hints:
    """No hint at all."""
    return Hints(what="subject")


KINDS: Mapping[str, Callable[[Truth], Hints]] = {
    "box": box_of,
    "point": point_of_truth,
    "stroke inside": stroke_inside,
    "stroke over": stroke_over,
    "outline": outline,
    "subject": subject,
}
