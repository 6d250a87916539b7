"""Putting painted pixels over the caller's: the colour fit, and the blend in the caller's own mode.

Both are needed because a VAE is lossy: decode(encode(x)) shifts colours a little all over the picture.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LATENT_CELL = (
    8  # pixels; the latent mask is reduced by max, so a cell that the mask touches is repainted whole
)
_RING = 32  # width in working pixels of the ring on which colours are compared
_MIN_PIXELS = 128
_GAIN = (0.8, 1.25)
_MAX_SHIFT = 0.15  # beyond this the model painted something else there, and colours say nothing
_MIN_CORRELATION = 0.7  # below it a gain would only flatten contrast

# Pillow's own weights (ITU-R 601-2), so that grey in, grey out is the identity.
_LUMA = np.array([19595, 38470, 7471], np.float32) / 65536

Floats = NDArray[np.float32]


def match_colors(painted: Floats, reference: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Floats:
    """``painted`` with the gain and offset per channel that make it agree with ``reference`` around the mask.

    The ring starts one latent cell outside the mask, since nearer pixels may have been repainted. With no
    or too little ring (everything masked), ``painted`` is returned as it is.

    Args:
        painted: (H, W, 3), 0..1.
        reference: (H, W, 3), 0..255, the picture as it was; only read outside the mask.
        mask: (H, W), 255 = repainted.
    """
    outside = cv2.distanceTransform(np.where(mask > 0, 0, 1).astype(np.uint8), cv2.DIST_L2, 5)
    ring = (outside > LATENT_CELL) & (outside <= LATENT_CELL + _RING)
    if np.count_nonzero(ring) < _MIN_PIXELS:
        return painted
    matched = painted.copy()
    for channel in range(3):
        gain, offset = _fit(painted[ring, channel], reference[ring, channel].astype(np.float32) / 255)
        matched[..., channel] = painted[..., channel] * gain + offset
    return matched


def _fit(x: Floats, y: Floats) -> tuple[float, float]:
    """(gain, offset) with y ≈ gain·x + offset, by least squares without the outliers."""
    gain, offset = 1.0, float(np.median(y - x))
    for _ in range(3):
        residual = np.abs(y - (gain * x + offset))
        # 2.5 robust deviations, but never below one 8-bit step: a perfect agreement has none.
        kept = residual <= max(2.5 * 1.4826 * float(np.median(residual)), 1 / 255)
        gain, offset = _least_squares(x[kept], y[kept])
    shift = float(np.clip(np.mean(gain * x[kept] + offset - x[kept]), -_MAX_SHIFT, _MAX_SHIFT))
    return gain, float(shift + (1 - gain) * np.mean(x[kept]))


def _least_squares(x: Floats, y: Floats) -> tuple[float, float]:
    dx, dy = x - x.mean(), y - y.mean()
    vx, vy, cov = float(np.mean(dx * dx)), float(np.mean(dy * dy)), float(np.mean(dx * dy))
    correlated = cov > _MIN_CORRELATION * (vx * vy) ** 0.5 > 0
    gain = float(np.clip(cov / vx, *_GAIN)) if correlated else 1.0
    return gain, float(y.mean() - gain * x.mean())


def feather(distance: Floats, grow_px: int, feather_px: int) -> NDArray[np.uint8]:
    """Weight of the painted pixel by its distance from the mask, (h, w) → (h, w).

    255 up to ``grow_px``, a smooth fall over ``feather_px``, exactly 0 beyond.
    """
    t = np.clip((distance - grow_px) / (feather_px + 1), 0, 1)
    weight = np.rint(255 * (1 - t * t * (3 - 2 * t))).astype(np.uint8)
    weight[distance > grow_px + feather_px] = 0
    return weight


def blend(own: NDArray[Any], painted: Floats, weight: NDArray[np.uint8]) -> NDArray[Any]:
    """The caller's pixels with ``painted`` over them, in the caller's own mode and depth.

    Alpha becomes the larger of the caller's and ``weight``; colours count by what they cover, so that the
    arbitrary colour under full transparency never shows in the feather.

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
        top = (top @ _LUMA)[:, None]
    colors = bottom[:, None] if own.ndim == 2 else bottom[:, : bottom.shape[1] - has_alpha]
    if has_alpha:
        alpha = bottom[:, -1] / 255
        share = w / (w + alpha * (1 - w))  # "over": w > 0 here, so the sum is too
    else:
        share = w
    mixed = np.rint(colors * (1 - share[:, None]) + top * share[:, None])
    if has_alpha:
        mixed = np.column_stack([mixed, np.maximum(bottom[:, -1], weight[touched])])
    result[touched] = mixed.astype(own.dtype).reshape(result[touched].shape)
    return result
