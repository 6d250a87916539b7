"""Where GrabCut begins: which pixels of a small picture surely or probably belong to the object."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.selection.hints import Point

# GrabCut's own numbers: surely outside, surely inside, probably outside, probably inside.
OUTSIDE, INSIDE, PERHAPS_OUTSIDE, PERHAPS_INSIDE = 0, 1, 2, 3
_FEWEST = 30  # pixels that say what a side looks like
_GROUPS = 5
_NEAR, _FAR = 3.0, 12.0  # standard deviations at which a pixel looks like a side, and like anything else
_CLEARLY = 2.5  # by which a pixel that clearly belongs to one side is less like the other
_THIN = 0.12  # of a line's length: half its width
_TRACED = 1.5  # an outline's inside is this many times as large as the stroke itself

Labels = NDArray[np.uint8]  # (h, w)


@dataclass(frozen=True, slots=True, eq=False)
class Small:
    """A picture reduced for GrabCut, and its hints in its own pixels."""

    pixels: NDArray[np.uint8]  # (h, w, 3)
    points: tuple[Point, ...] = ()
    box: tuple[int, int, int, int] | None = None
    scribble: NDArray[np.bool_] | None = None


def labels_of(small: Small) -> Labels:
    """Return the labels of an object from all its hints."""
    if small.scribble is not None:
        labels = _of_stroke(small) if _is_thin(small.scribble) else _of_scribble(small.scribble)
    elif small.box is not None:
        labels = _of_box(small.box, small.pixels.shape[:2])
    else:
        labels = _of_points(small)
    _add_points(labels, small.points)
    _decide(labels, _features(small.pixels))
    _add_points(labels, small.points)  # a stroke is rough, but a point is meant
    return labels


def subject_labels(pixels: NDArray[np.uint8]) -> Labels:
    """Return the labels of the main thing: what differs from the border's colours and is near the middle."""
    height, width = pixels.shape[:2]
    rim = max(2, min(height, width) // 40)
    border = np.ones((height, width), bool)
    border[rim:-rim, rim:-rim] = False
    features = _features(pixels)
    likeness = _unlikeness(features, features[border])
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    score = np.minimum(likeness, 8) * np.exp(-(x * x + y * y)).astype(np.float32)
    labels = np.where(score > _otsu(score), PERHAPS_INSIDE, PERHAPS_OUTSIDE).astype(np.uint8)
    labels[:rim, :] = labels[:, :rim] = labels[:, -rim:] = OUTSIDE  # people touch the lower edge
    _decide(labels, features)
    return labels


def _decide(labels: Labels, features: NDArray[np.float32]) -> None:
    """Give each undecided pixel to the side that it looks more like, for good where that is clear.

    GrabCut learns each side's colours from its first pixels, and keeps grass in a box for part of the horse;
    and it closes the gaps between the horse's legs, since a short edge is cheaper.
    """
    undecided = labels >= PERHAPS_OUTSIDE
    likely, inside = labels == PERHAPS_INSIDE, labels == INSIDE
    outside = _enough(labels == OUTSIDE, labels == PERHAPS_OUTSIDE)
    unlike_outside = _unlikeness(features, features[outside])
    if inside.sum() < _FEWEST and likely.any():
        inside = likely & (unlike_outside > _otsu(np.minimum(unlike_outside[likely], _FAR)))
    unlike_inside = _unlikeness(features, features[inside])
    labels[undecided] = np.where(unlike_inside < unlike_outside, PERHAPS_INSIDE, PERHAPS_OUTSIDE)[undecided]
    for side, unlike, other in (
        (INSIDE, unlike_inside, unlike_outside),
        (OUTSIDE, unlike_outside, unlike_inside),
    ):
        clear = ((unlike < _NEAR) & (unlike < other / _CLEARLY)).astype(np.uint8)
        clear = cv2.erode(cv2.medianBlur(clear, 5), np.ones((3, 3), np.uint8))
        labels[undecided & (clear > 0)] = side


def _enough(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the first pixels if they are enough to say what they look like, else both."""
    return first if first.sum() >= _FEWEST else first | second


def _unlikeness(features: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how unlike each pixel is to the most alike of several groups of pixels (n, 4)."""
    groups = _clusters(own)
    if not groups:
        return np.full(features.shape[:2], _FAR, np.float32)
    return np.min([_distance(features, group) for group in groups], axis=0)  # type: ignore[no-any-return]


def _of_box(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> Labels:
    left, top, right, bottom = box
    labels = np.full(shape, OUTSIDE, np.uint8)
    labels[top:bottom, left:right] = PERHAPS_INSIDE
    return labels


def _of_scribble(scribble: NDArray[np.bool_]) -> Labels:
    """Return the labels of a rough stroke over an object, or around it."""
    stroke = scribble.astype(np.uint8)
    filled = _filled(stroke)
    if _is_traced(stroke):  # traced around the object, which so ends at the stroke
        labels = np.where(filled, np.uint8(PERHAPS_INSIDE), np.uint8(OUTSIDE))
        depth = cv2.distanceTransform(filled, cv2.DIST_L2, 3)
        labels[depth > 0.6 * depth.max()] = INSIDE
        return labels
    depth = cv2.distanceTransform(stroke, cv2.DIST_L2, 3)
    labels = np.where(stroke, np.uint8(PERHAPS_INSIDE), np.uint8(PERHAPS_OUTSIDE))
    labels[depth > 0.5 * depth.max()] = INSIDE
    far = cv2.distanceTransform(1 - stroke, cv2.DIST_L2, 3)
    bounds = cv2.boundingRect(stroke)
    labels[far > 0.5 * max(bounds[2:]) + 4] = OUTSIDE
    return labels


def _filled(stroke: Labels) -> Labels:
    outlines, _ = cv2.findContours(stroke, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(stroke), outlines, -1, 1, cv2.FILLED)  # type: ignore[no-any-return]


def _is_traced(stroke: Labels) -> bool:
    return bool(_filled(stroke).sum() > _TRACED * stroke.sum())


def _is_thin(scribble: NDArray[np.bool_]) -> bool:
    """Return whether a scribble is a line through the object, and not roughly the object itself."""
    stroke = scribble.astype(np.uint8)
    depth = cv2.distanceTransform(stroke, cv2.DIST_L2, 3).max()
    return not _is_traced(stroke) and bool(depth < _THIN * max(cv2.boundingRect(stroke)[2:]))


def _of_stroke(small: Small) -> Labels:
    """Return the labels of what looks like the pixels under a line and hangs together with it."""
    features = _features(small.pixels)
    assert small.scribble is not None, "only a scribble is thin"
    near = _opened(_unlikeness(features, features[small.scribble]) < _NEAR) | small.scribble
    likely = _with(near, small.scribble)
    labels = np.where(likely, PERHAPS_INSIDE, PERHAPS_OUTSIDE).astype(np.uint8)
    labels[small.scribble] = INSIDE
    return labels


def _of_points(small: Small) -> Labels:
    """Return the labels of what looks like the pixels around a point and hangs together with them."""
    features = _features(small.pixels)
    shape = features.shape[:2]
    likely = np.zeros(shape, bool)
    for point in small.points:
        if point.inside:
            likely |= _grown(features, discs([point], shape, max(3, min(shape) // 50)) > 0)
    return np.where(likely, PERHAPS_INSIDE, PERHAPS_OUTSIDE).astype(np.uint8)


def _grown(features: NDArray[np.float32], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what looks like the pixels of a seed and hangs together with them."""
    likely = seed
    for _ in range(3):  # the object's own spread is seen only as the region grows
        distance = _unlikeness(features, features[likely])
        near = distance < min(_otsu(np.minimum(distance, _FAR)), 5)
        likely = _with(_opened(near | seed) | seed, seed)
    return likely


def _opened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask without its threads of one or two pixels."""
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0  # type: ignore[no-any-return]


def _with(mask: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected parts of a mask that have a pixel of ``seed``."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return np.isin(parts, np.setdiff1d(parts[seed], 0))


def _add_points(labels: Labels, points: tuple[Point, ...]) -> None:
    radius = max(2, min(labels.shape) // 100)
    for point in points:
        labels[discs([point], labels.shape, radius) > 0] = INSIDE if point.inside else OUTSIDE


def touching(mask: NDArray[np.bool_], points: list[Point]) -> NDArray[np.bool_]:
    """Return the connected parts of a mask that have one of the points."""
    return _with(mask, discs(points, mask.shape, 0) > 0)


def discs(points: list[Point], shape: tuple[int, ...], radius: int) -> NDArray[np.uint8]:
    """Return a mask (h, w) of 0 and 1 with a disc at each point."""
    found = np.zeros(shape, np.uint8)
    for point in points:
        cv2.circle(found, (int(point.x), int(point.y)), radius, 1, cv2.FILLED)
    return found


def _features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a texture looks like around each pixel (h, w, 4): mean colour in Lab and roughness."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float32)
    radius = max(1, min(pixels.shape[:2]) // 100)
    side = (2 * radius + 1, 2 * radius + 1)
    mean = cv2.blur(lab, side)
    light = lab[..., 0]
    rough = np.sqrt(np.maximum(cv2.blur(light * light, side) - mean[..., 0] ** 2, 0))
    return np.dstack([mean, rough]).astype(np.float32)


def _distance(features: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how unlike each pixel is to some pixels (n, 4), in their standard deviations."""
    middle = own.mean(0)
    spread = np.cov(own, rowvar=False) if len(own) > 1 else np.zeros((own.shape[1],) * 2)
    whiten = np.linalg.cholesky(np.linalg.inv(spread + 9 * np.eye(len(spread)))).astype(np.float32)
    return np.sqrt((((features - middle) @ whiten) ** 2).sum(-1))  # type: ignore[no-any-return]


def _clusters(own: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return pixels (n, 4) in up to five groups of alike ones; the same groups every time."""
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    if len(own) < _FEWEST:
        return [own] if len(own) else []
    own = own[:: max(1, len(own) // 8000)]
    _, group, _ = cv2.kmeans(own, min(_GROUPS, len(own)), None, criteria, 1, cv2.KMEANS_PP_CENTERS)
    groups = [own[group[:, 0] == number] for number in range(_GROUPS)]
    return [alike for alike in groups if len(alike) > len(own) // 50]


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the value that splits values into two groups best."""
    top = float(values.max()) or 1.0
    grey = (values * (255 / top)).astype(np.uint8)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    return float(threshold) * top / 255
