"""A judge of the demo model's pictures: colour, shape, edge, and the distance to a finer solution.

It needs no model: pictures in, verdicts out. The tests and ``python -m tools.train_demo.evaluate`` use it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, label

from tools.train_demo.backdrop import SHAPES, outline
from tools.train_demo.scenes import COLOURS, Scene, make_scene

_SIDE = 32  # pixels of a normalised silhouette
_MIDDLE = 0.15  # radius of a mask's middle, of its shorter side
_ALIKE = 0.45  # colour distance within one painted object, of full scale
_CHANGED = 0.11  # of full scale, mean over the channels: above the VAE's own error
_EDGE = (2, 8)  # pixels from what was painted: nearer ones are the smooth edge itself


@dataclass(frozen=True, slots=True)
class Verdict:
    """The colour and shape of a painted picture, compared with its scene."""

    colour: str | None  # the nearest named colour, None if nothing was painted
    shape: str | None
    colour_right: bool
    shape_right: bool


def unseen(count: int, *, start: int = 0) -> list[Scene]:
    """Return ``count`` scenes outside the training set, over all colours and shapes in turn."""
    colours, shapes = list(COLOURS), list(SHAPES)
    return [
        make_scene(
            2 * (start + i) + 1,
            colour=colours[i % len(colours)],
            shape=shapes[(i + i // len(colours)) % len(shapes)],
        )
        for i in range(count)
    ]


def judge(scene: Scene, painted: Image.Image) -> Verdict:
    """Judge a picture painted for an unseen scene."""
    own = painted_pixels(scene, painted)
    if own.sum() < 30:
        return Verdict(None, None, colour_right=False, shape_right=False)
    mean = as_floats(painted)[own].mean(axis=0)
    names = list(COLOURS)
    distances = [np.linalg.norm(mean - np.array(COLOURS[name]) / 255) for name in names]
    colour = names[int(np.argmin(distances))]
    shape = recognise(own)
    return Verdict(colour, shape, colour == scene.colour, shape == scene.shape)


def painted_pixels(scene: Scene, painted: Image.Image) -> NDArray[np.bool_]:
    """Return the pixels (H, W) in the mask that are nearer to its middle's colour than to the background."""
    picture, clean = as_floats(painted), as_floats(scene.clean)
    inside = np.asarray(scene.mask) > 0
    changed = inside & (np.abs(picture - clean).mean(axis=2) > _CHANGED)
    middle = changed & _middle(inside)
    if middle.sum() < 10:
        return np.zeros_like(inside)
    colour = np.median(picture[middle], axis=0)
    nearer = np.linalg.norm(picture - colour, axis=2) < np.linalg.norm(picture - clean, axis=2)
    alike = np.linalg.norm(picture - colour, axis=2) < _ALIKE
    return _largest(inside & nearer & alike)


def _largest(own: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part: specks of a like colour in a photograph are no object."""
    parts, count = label(own)
    if not count:
        return own
    largest: NDArray[np.bool_] = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return largest


def _middle(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the middle (H, W) of the mask's box, where its object should be."""
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    y, x = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
    radius = _MIDDLE * min(len(rows), len(columns))
    grid_y, grid_x = np.ogrid[: inside.shape[0], : inside.shape[1]]
    disc: NDArray[np.bool_] = (grid_y - y) ** 2 + (grid_x - x) ** 2 <= radius**2
    return disc


def recognise(own: NDArray[np.bool_]) -> str:
    """Return the shape whose silhouette, in its own bounding box, overlaps most with this one's."""
    silhouette = _normalised(own)
    overlaps = {
        shape: max(_overlap(silhouette, template) for template in _templates(shape)) for shape in SHAPES
    }
    return max(overlaps, key=lambda shape: overlaps[shape])


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


def _normalised(own: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Cut a silhouette to its box; a few stray pixels must not widen the box."""
    rows, columns = (np.flatnonzero(own.sum(axis=axis) > 1) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return np.zeros((_SIDE, _SIDE), np.float32)
    cut = own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    picture = Image.fromarray((cut * 255).astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.float32) / 255


@lru_cache(maxsize=len(SHAPES))
def _templates(shape: str) -> tuple[NDArray[np.float32], ...]:
    found = []
    for angle in (-0.12, -0.06, 0.0, 0.06, 0.12):
        picture = Image.new("L", (256, 256))
        points = [(128 + 120 * x, 128 + 120 * y) for x, y in outline(shape, angle)]
        ImageDraw.Draw(picture).polygon(points, fill=255)
        found.append(_normalised(np.asarray(picture) > 127))
    return tuple(found)


def edge_error(scene: Scene, painted: Image.Image) -> float | None:
    """Return the mean difference to the clean scene in the ring around what was painted, of full scale.

    Inside the mask, where nothing should have changed; None if nothing was painted or no ring is left.
    """
    inside = np.asarray(scene.mask) > 0
    difference = np.abs(as_floats(painted) - as_floats(scene.clean)).mean(axis=2)
    own = _largest(inside & (difference > _CHANGED))
    nearer, farther = (binary_dilation(own, iterations=pixels) for pixels in _EDGE)
    ring = inside & farther & ~nearer
    return float(difference[ring].mean()) if own.any() and ring.any() else None


def distance(one: Image.Image, other: Image.Image, mask: Image.Image) -> float:
    """Return the mean absolute difference inside the mask, as a share of full scale."""
    inside = np.asarray(mask) > 0
    return float(np.abs(as_floats(one) - as_floats(other))[inside].mean())


def as_floats(image: Image.Image) -> NDArray[np.float32]:
    """Return a picture as (H, W, 3) in 0 … 1."""
    return np.asarray(image.convert("RGB"), np.float32) / 255
