"""Refinement of a small mask's edge on the picture itself: a guided filter, only where the edge is.

The guide is one channel: the colour direction that separates inside from outside best in each tile (Fisher),
so that two colours of equal brightness are told apart as well as black and white.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.selection.hints import Box

_TILE = 256  # pixels a side; an edge crosses few of a picture's tiles
_BAND = 2  # pixels of the small mask on both sides of its edge in which it may move
_SMOOTH = 0.02  # the variance of the guide below which it counts as flat; inside and outside are 1 apart
_STEEP = 2.5  # by which the filtered edge is made steeper: it is as wide as the filter otherwise

Floats = NDArray[np.float32]


def refined(picture: NDArray[np.uint8], small: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a mask (H, W), 0 to 255, of a picture (H, W, 3) from a smaller mask (h, w) of it."""
    height, width = picture.shape[:2]
    scale = max(height / small.shape[0], width / small.shape[1])
    small_mask = small.astype(np.uint8) * 255
    mask = cv2.resize(small_mask, (width, height), interpolation=cv2.INTER_LINEAR)
    kernel = np.ones((2 * _BAND + 1, 2 * _BAND + 1), np.uint8)
    band = cv2.morphologyEx(small_mask, cv2.MORPH_GRADIENT, kernel)
    found = np.where(mask >= 128, np.uint8(255), np.uint8(0))
    radius = max(2, round(_BAND * scale))
    for left, top, right, bottom in _tiles(band, (width, height)):
        x, y = max(left - 2 * radius, 0), max(top - 2 * radius, 0)
        wide = np.s_[y : bottom + 2 * radius, x : right + 2 * radius]
        inner = np.s_[top - y : bottom - y, left - x : right - x]
        edge = _filtered(picture[wide], mask[wide].astype(np.float32) / 255, radius)[inner]
        near = _part(band, (left, top, right, bottom), (width, height))
        tile = found[top:bottom, left:right]
        np.copyto(tile, edge, where=near)
    return found


def _tiles(band: NDArray[np.uint8], size: tuple[int, int]) -> Iterator[Box]:
    """Yield the tiles of a picture of this (width, height) in which the band has pixels."""
    width, height = size
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            box = (left, top, min(left + _TILE, width), min(top + _TILE, height))
            h, w = band.shape
            rows = slice(top * h // height, -(-box[3] * h // height))
            if band[rows, left * w // width : -(-box[2] * w // width)].any():
                yield box


def _part(band: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the band in a box of the picture, each of its pixels enlarged."""
    (h, w), (width, height) = band.shape, size
    rows = np.arange(box[1], box[3]) * h // height
    columns = np.arange(box[0], box[2]) * w // width
    found: NDArray[np.bool_] = band[np.ix_(rows, columns)] > 0
    return found


def _filtered(pixels: NDArray[np.uint8], mask: Floats, radius: int) -> NDArray[np.uint8]:
    """Return a tile's mask (h, w), its edge moved to the edge in the pixels (h, w, 3)."""
    guide = _guide(pixels, mask)
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(values: NDArray[Any]) -> Floats:
        return cv2.blur(values, side, borderType=cv2.BORDER_REFLECT)  # type: ignore[no-any-return]

    mean_guide, mean_mask = mean(guide), mean(mask)
    covariance = mean(guide * mask) - mean_guide * mean_mask
    variance = mean(guide * guide) - mean_guide * mean_guide
    slope = covariance / (variance + _SMOOTH)
    found = mean(slope) * guide + mean(mean_mask - slope * mean_guide)
    steep: NDArray[np.uint8] = np.clip((found - 0.5) * (_STEEP * 255) + 127.5, 0, 255).astype(np.uint8)
    return steep


def _guide(pixels: NDArray[np.uint8], mask: Floats) -> Floats:
    """Project pixels onto the direction in which inside and outside differ most; they are 1 apart there."""
    colours = pixels.astype(np.float32)
    flat, weight = colours.reshape(-1, 3), mask.reshape(-1)
    inside, outside = float(weight.sum()), float((1 - weight).sum())
    if min(inside, outside) < 1:
        return _grey(colours)
    middle_in = weight @ flat / inside
    middle_out = (1 - weight) @ flat / outside
    step = max(1, len(flat) // 20_000)
    spread = flat[::step] - np.where(weight[::step, None] > 0.5, middle_in, middle_out)
    within = spread.T @ spread / len(spread) + 4 * np.eye(3, dtype=np.float32)
    direction = np.linalg.solve(within, middle_in - middle_out)
    apart = float(direction @ (middle_in - middle_out))
    if apart < 1e-6:
        return _grey(colours)
    guide: Floats = colours @ (direction / apart).astype(np.float32)
    return guide


def _grey(colours: Floats) -> Floats:
    grey: Floats = colours.mean(2) / 255
    return grey
