"""Blending of painted pixels over the caller's, in the caller's own mode and bit depth."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inpaint.canvas.color import LUMA

_FULL_STRENGTH = 64  # of 255: a quarter of the steps

Floats = NDArray[np.float32]


def feather(distance: Floats, grow_px: int, feather_px: int) -> NDArray[np.uint8]:
    """Return the painted picture's weight per pixel (h, w): 255 near the mask, falling smoothly to 0.

    Args:
        distance: (h, w), each pixel's distance from the mask in pixels.
        grow_px: the distance up to which the weight is 255.
        feather_px: the width of the fall after that; beyond it the weight is exactly 0.
    """
    t = np.clip((distance - grow_px) / (feather_px + 1), 0, 1)
    weight = np.rint(255 * (1 - t * t * (3 - 2 * t))).astype(np.uint8)
    weight[distance > grow_px + feather_px] = 0
    return weight


def fade(weight: NDArray[np.uint8], strength: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce ``weight`` (h, w) smoothly where fewer than a quarter of the steps repaint.

    The painted picture shows there the same as the caller's, only through a lossy VAE.

    Args:
        weight: (h, w), as ``feather`` returns it.
        strength: (h, w), 255 where every step repaints.
    """
    t = np.clip(strength / _FULL_STRENGTH, 0, 1)
    return np.asarray(np.rint(weight * t * t * (3 - 2 * t)), np.uint8)


def blend(own: NDArray[Any], painted: Floats, weight: NDArray[np.uint8]) -> NDArray[Any]:
    """Lay ``painted`` over the caller's pixels, in the caller's own mode and bit depth.

    Alpha becomes the larger of the caller's and ``weight``; colours are weighted by the alpha they cover, so
    that the arbitrary colour under full transparency never shows in the feather.

    Args:
        own: (h, w) grey, (h, w, 2) grey + alpha, (h, w, 3) or (h, w, 4), uint8; or (h, w) uint16.
        painted: (h, w, 3), 0..1 (clipped here).
        weight: (h, w), 255 = painted, 0 = the caller's pixel, copied exactly.

    Returns:
        A new array of the shape and type of ``own``.
    """
    touched = weight > 0
    result = own.copy()
    bottom: NDArray[Any] = own[touched].astype(np.float32)  # (n,) or (n, channels)
    top: NDArray[Any] = painted[touched].clip(0, 1) * np.float32(np.iinfo(own.dtype).max)  # (n, 3)
    w: NDArray[Any] = weight[touched].astype(np.float32) / 255
    has_alpha = own.ndim == 3 and own.shape[2] in (2, 4)
    if own.ndim == 2 or own.shape[2] == 2:
        top = (top @ LUMA)[:, None]
    colors = bottom[:, None] if own.ndim == 2 else bottom[:, : bottom.shape[1] - has_alpha]
    if has_alpha:
        alpha = bottom[:, -1] / 255
        share = w / (w + alpha * (1 - w))  # Porter and Duff's "over"; w > 0 here, so the sum is too
    else:
        share = w
    mixed = np.rint(colors * (1 - share[:, None]) + top * share[:, None])
    if has_alpha:
        mixed = np.column_stack([mixed, np.maximum(bottom[:, -1], weight[touched])])
    result[touched] = mixed.astype(own.dtype).reshape(result[touched].shape)
    return result
