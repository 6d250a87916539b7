"""Visible errors of a repainted patch: the distance of its colours, and the step at its edge.

Distances are CIE76 ΔE, Euclidean in Lab (sRGB, D65). CIE76 and not CIEDE2000, because a step is a difference
of differences, which only a Euclidean space has. 1 is about the least difference visible side by side.

The module also has the colour drifts that users report, and pictures to paint on. It needs no model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter

Floats = NDArray[np.float32]

SIDE = 128  # of the pictures; the demo model's native side
HALF_RING = 8  # pixels on either side of the edge
_WINDOW = 4.0  # sigma in pixels; differences finer than it are texture, not a step
_PHOTOS = Path(__file__).parents[2] / "tools" / "train_demo" / "photos"
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def lab(picture: Image.Image | NDArray[np.uint8]) -> Floats:
    """Return a picture as (H, W, 3) in CIE Lab."""
    colors = np.asarray(picture, np.float32)[..., :3] / 255
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_RGB2LAB), np.float32)


def ring_error(result: Image.Image, ideal: Image.Image, weight: Image.Image) -> float:
    """Return the mean ΔE to the ideal over a 16-pixel ring across the edge of the paste, with texture."""
    ring = np.abs(_beyond_edge(weight)) <= HALF_RING
    return float(np.linalg.norm(lab(result) - lab(ideal), axis=2)[ring].mean())


def step_at_edge(result: Image.Image, ideal: Image.Image, weight: Image.Image) -> float:
    """Return the mean ΔE of the step along the edge of the paste that the ideal does not have.

    At each point of the edge: the mean deviation from the ideal in a window just inside, less the one just
    outside. A deviation that is the same on both sides is no step, nor is an edge that the ideal has, too.

    Args:
        result: the painted picture.
        ideal: the picture that it should be.
        weight: ``L``, the paste mask; its edge is where the painted picture has half the weight.
    """
    deviation, beyond = lab(result) - lab(ideal), _beyond_edge(weight)
    inside = _local_mean(deviation, (beyond < 0) & (beyond >= -HALF_RING))
    outside = _local_mean(deviation, (beyond > 0) & (beyond <= HALF_RING))
    return float(np.linalg.norm(inside - outside, axis=2)[np.abs(beyond) < 1].mean())


def error_inside(result: Image.Image, ideal: Image.Image, weight: Image.Image) -> float:
    """Return the mean ΔE to the ideal where only the painted picture is visible."""
    return float(np.linalg.norm(lab(result) - lab(ideal), axis=2)[np.asarray(weight) == 255].mean())


def _beyond_edge(weight: Image.Image) -> NDArray[np.float64]:
    """Return the pixels from the edge (H, W), negative inside, never 0."""
    inside = np.asarray(weight) >= 128
    distance: NDArray[np.float64] = np.where(
        inside, 0.5 - distance_transform_edt(inside), distance_transform_edt(~inside) - 0.5
    )
    return distance


def _local_mean(field: Floats, selected: NDArray[np.bool_]) -> Floats:
    share = gaussian_filter(selected.astype(np.float32), _WINDOW)
    sums = gaussian_filter(field * selected[..., None], (_WINDOW, _WINDOW, 0))
    return np.asarray(sums / np.maximum(share, 1e-6)[..., None], np.float32)


def pictures() -> dict[str, Image.Image]:
    """Return a flat picture, a gradient and photographs, ``SIDE`` × ``SIDE``."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    gradient = np.dstack([60 + 150 * x, 90 + 90 * y, 190 - 60 * (x + y)]).astype(np.uint8)
    found = {"flat": Image.new("RGB", (SIDE, SIDE), (150, 175, 205)), "gradient": Image.fromarray(gradient)}
    for path in sorted(_PHOTOS.glob("*.jpg")):
        photo = Image.open(path).convert("RGB")
        side, (w, h) = min(photo.size), photo.size
        square = photo.crop(((w - side) // 2, (h - side) // 2, (w + side) // 2, (h + side) // 2))
        found[path.stem] = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return found


def masks() -> dict[str, Image.Image]:
    """Return a disc in the middle and a slanted shape that runs out of the picture."""
    disc, slant = Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(disc).ellipse((35, 35, 93, 93), fill=255)
    ImageDraw.Draw(slant).polygon([(0, 60), (70, 30), (100, 80), (60, 128), (0, 128)], fill=255)
    return {"disc": disc, "slant": slant}


def _greyer(colors: Floats, share: float) -> Floats:
    grey = (colors @ _LUMA)[..., None]
    return grey + share * (colors - grey)


def _uneven(colors: Floats) -> Floats:
    slope = np.linspace(-0.05, 0.05, colors.shape[1], dtype=np.float32)[None, :, None]
    return colors + slope * np.array([1, 0.3, -1], np.float32)


# Drifts that users of SDXL inpainting report, as functions of (H, W, 3) in 0 … 1.
DRIFTS: Mapping[str, Callable[[Floats], Floats]] = {
    "none": lambda colors: colors,  # the VAE's own error remains
    "offset": lambda colors: colors + np.array([0.05, -0.02, 0.03], np.float32),
    "gain": lambda colors: colors * np.array([0.9, 1.0, 1.08], np.float32),
    "desaturated": lambda colors: _greyer(colors, 0.82),
    "washed out": lambda colors: _greyer(colors, 0.9) * 0.87 + 0.09,
    "darker": lambda colors: colors * 0.88,
    "uneven": _uneven,
}
