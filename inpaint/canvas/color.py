"""Painted colours made to agree with the picture's around the mask.

A VAE is lossy, and an inpainting UNet paints paler, darker or greyer than what it sees, most at strength 1.
How it erred just outside the mask, where the truth is known, is how it erred inside.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.canvas.poisson import solve_laplace

LATENT_CELL = (
    8  # pixels; the latent mask is reduced by max, so a cell that the mask touches is repainted whole
)
_RING = 32  # width in working pixels of the ring on which contrast and saturation are compared
_MIN_PIXELS = 128
_PIXELS = 5_000  # of the ring that are looked at, evenly chosen; four gains need no more
_TURNS = 8
_GAIN = (0.8, 1.25)
_MAX_SHIFT = 0.15  # beyond this the model painted something else there, and colours say nothing
_MIN_CORRELATION = 0.7  # below it a gain would only flatten contrast
_TRUST = 0.5  # in one pixel: a seam's colour is the mean of a few, since a VAE errs most on fine texture

# Pillow's own weights (ITU-R 601-2), so that grey in, grey out is the identity.
LUMA = np.array([19595, 38470, 7471], np.float32) / 65536
_CHROMA = np.eye(3, dtype=np.float32) - LUMA[:, None]  # colours @ it: what is left without their grey

Floats = NDArray[np.float32]


def match_colors(painted: Floats, reference: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Floats:
    """``painted`` in the contrast, saturation and colours that ``reference`` has around the mask.

    A gain per channel and one of saturation come from a ring that starts one latent cell outside the mask,
    since nearer pixels may have been repainted. The shift that remains is local: it is taken from all pixels
    outside, the nearest counting most, and carried smoothly into the mask, so that a shift which differs from
    one side of the hole to the other leaves no seam at either. With no or too little ring (everything
    masked), ``painted`` is returned as it is.

    Args:
        painted: (H, W, 3), 0..1; H and W are even.
        reference: (H, W, 3), 0..255, the picture as it was; only read outside the mask.
        mask: (H, W), 255 = repainted.
    """
    outside = cv2.distanceTransform(np.where(mask > 0, 0, 1).astype(np.uint8), cv2.DIST_L2, 5)
    ring = (outside > LATENT_CELL) & (outside <= LATENT_CELL + _RING)
    if np.count_nonzero(ring) < _MIN_PIXELS:
        return painted
    some = slice(None, None, 1 + np.count_nonzero(ring) // _PIXELS)
    x, y = painted[ring][some], reference[ring][some].astype(np.float32) / 255
    middle = np.median(x, axis=0)
    matched: Floats = (painted - middle) @ _gains(x, y) + middle
    shifted: Floats = matched + _shift(matched, reference, np.asarray(outside, np.float32))
    return shifted


def _gains(x: Floats, y: Floats) -> Floats:
    """(3, 3), to be multiplied from the right: contrast per channel, then saturation.

    Contrast alone cannot give back colour that was lost to grey, which went from each channel to the others.
    Each is fitted to what the other leaves, in turns: a pale picture would else look like a flat one.
    """
    contrast, saturation = np.ones(3, np.float32), 1.0
    for _ in range(_TURNS):
        saturation = _gain(
            np.asarray((x * contrast) @ _CHROMA, np.float32), np.asarray(y @ _CHROMA, np.float32)
        )
        unsaturated = y @ _saturating(1 / saturation)
        contrast = np.array([_gain(x[:, [c]], unsaturated[:, [c]]) for c in range(3)], np.float32)
    # Together they may not do more than either: a gain is a guess about colours that the ring may not show.
    saturation = min(max(saturation, _GAIN[0] / contrast.min()), _GAIN[1] / contrast.max())
    return np.diag(contrast) @ _saturating(saturation)


def _saturating(gain: float) -> Floats:
    """(3, 3): colours @ it have ``gain`` times their chroma and the same grey."""
    return np.asarray(np.eye(3) + (gain - 1) * _CHROMA, np.float32)


def _gain(x: Floats, y: Floats) -> float:
    """The gain with y ≈ gain·x + offset by least squares without the outliers; 1 where they say nothing.

    ``x`` and ``y`` are (n, k): with k = 3 it is one gain for all three.
    """
    gain = 1.0
    residual = y - x - np.median(y - x, axis=0)
    for _ in range(3):
        size = np.linalg.norm(residual, axis=1)
        # 2.5 robust deviations, but never below one 8-bit step: a perfect agreement has none.
        kept = size <= max(2.5 * 1.4826 * float(np.median(size)), 1 / 255)
        dx, dy = x - x[kept].mean(0), y - y[kept].mean(0)
        vx, vy, cov = (float(np.mean((a * b)[kept])) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
        correlated = cov > _MIN_CORRELATION * (vx * vy) ** 0.5 > 0
        gain = float(np.clip(cov / vx, *_GAIN)) if correlated else 1.0
        residual = dy - gain * dx
    return gain


def _shift(matched: Floats, reference: NDArray[np.uint8], outside: Floats) -> Floats:
    """What to add, (H, W, 3) within ± ``_MAX_SHIFT``, from the picture's difference outside the mask.

    Pixels that differ otherwise than most, such as a shadow's that was painted beyond the mask, count little.
    """
    # At half the size: the shift is smooth, and a quarter of the pixels takes a quarter of the time.
    beside = (outside > 0).astype(np.float32)
    share = _halved(beside)
    known = np.asarray(reference * (beside / 255)[..., None], np.float32)
    difference = _halved(known) - _halved(matched * beside[..., None])
    difference /= np.maximum(share, 1e-6)[..., None]
    distance = _halved(outside)
    near = (share == 1) & (distance <= LATENT_CELL + _RING)
    typical = np.clip(np.median(difference[near], axis=0), -_MAX_SHIFT, _MAX_SHIFT)
    odd = np.abs(difference - typical).max(axis=2) / _MAX_SHIFT
    trust = _TRUST * share / (1 + (distance / LATENT_CELL) ** 2) / (1 + odd**4)
    field = solve_laplace(np.clip(difference, -_MAX_SHIFT, _MAX_SHIFT), trust)
    return np.asarray(cv2.resize(field, outside.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _halved(field: Floats) -> Floats:
    size = (field.shape[1] // 2, field.shape[0] // 2)
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_AREA), np.float32)
