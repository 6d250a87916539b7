"""Colour correction: painted colours are fitted to those of the picture around the mask.

A VAE is lossy, and an inpainting UNet paints paler, darker or greyer than what it sees, most at strength 1.
Its error just outside the mask, where the original is known, is taken to be its error inside.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.canvas.mask import VAE_FACTOR
from inpaint.canvas.poisson import solve_laplace

_RING = 32  # width in working pixels of the ring on which contrast and saturation are compared
_MIN_PIXELS = 128
_PIXELS = 5_000  # of the ring that are measured, evenly chosen; four gains need no more
_ROUNDS = 8  # of fitting contrast and saturation in turn
_GAIN = (0.8, 1.25)  # the smallest and largest gain that is applied
_MAX_SHIFT = 0.15  # a larger one means that something else was painted there, so colours cannot be compared
_MIN_CORRELATION = 0.7  # below it a gain would only flatten contrast
_TRUST = 0.5  # in one pixel: at the seam a few are averaged, since a VAE errs most on fine texture

# Pillow's own weights (ITU-R 601-2), so that grey in, grey out is the identity.
LUMA = np.array([19595, 38470, 7471], np.float32) / 65536
_CHROMA = np.eye(3, dtype=np.float32) - LUMA[:, None]  # colours @ _CHROMA: colours minus their grey

Floats = NDArray[np.float32]


def match_colors(painted: Floats, reference: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Floats:
    """Give ``painted`` the contrast, saturation and colours that ``reference`` has around the mask.

    A gain per channel and one of saturation come from a ring that starts one latent pixel outside the mask,
    since a latent pixel is repainted as a whole if the mask touches it. The shift that remains is local: it
    is taken from all pixels outside, the nearest counting most, and carried smoothly into the mask, so that a
    shift which differs from one side of the hole to the other leaves no seam at either. With no ring or too
    small a one (everything masked), ``painted`` is returned unchanged.

    Args:
        painted: (H, W, 3), 0..1; H and W are even.
        reference: (H, W, 3), 0..255, the original picture; only read outside the mask.
        mask: (H, W), 255 = repainted.
    """
    outside = cv2.distanceTransform(np.where(mask > 0, 0, 1).astype(np.uint8), cv2.DIST_L2, 5)
    ring = (outside > VAE_FACTOR) & (outside <= VAE_FACTOR + _RING)
    if np.count_nonzero(ring) < _MIN_PIXELS:
        return painted
    some = slice(None, None, 1 + np.count_nonzero(ring) // _PIXELS)
    x, y = painted[ring][some], reference[ring][some].astype(np.float32) / 255
    middle = np.median(x, axis=0)
    matched: Floats = (painted - middle) @ _gains(x, y) + middle
    shifted: Floats = matched + _shift(matched, reference, np.asarray(outside, np.float32))
    return shifted


def _gains(x: Floats, y: Floats) -> Floats:
    """Fit contrast per channel and saturation, as one (3, 3) to be multiplied from the right.

    Contrast alone cannot restore colour that was lost to grey, which went from each channel to the others.
    Each is fitted in turn to what the other leaves: otherwise a pale picture would be taken for a flat one.

    Args:
        x: (n, 3), painted colours.
        y: (n, 3), the original colours of the same pixels.
    """
    contrast, saturation = np.ones(3, np.float32), 1.0
    for _ in range(_ROUNDS):
        saturation = _gain(
            np.asarray((x * contrast) @ _CHROMA, np.float32), np.asarray(y @ _CHROMA, np.float32)
        )
        unsaturated = y @ _saturating(1 / saturation)
        contrast = np.array([_gain(x[:, [c]], unsaturated[:, [c]]) for c in range(3)], np.float32)
    # Together they stay within the limits of one: a gain is a guess about colours that the ring may not have.
    saturation = min(max(saturation, _GAIN[0] / contrast.min()), _GAIN[1] / contrast.max())
    return np.diag(contrast) @ _saturating(saturation)


def _saturating(gain: float) -> Floats:
    """Return the (3, 3) by which colours get ``gain`` times their chroma and keep their grey."""
    return np.asarray(np.eye(3) + (gain - 1) * _CHROMA, np.float32)


def _gain(x: Floats, y: Floats) -> float:
    """Fit the gain of y ≈ gain·x + offset by least squares without outliers; 1 if x and y do not correlate.

    ``x`` and ``y`` are (n, k): with k = 3 it is one gain for all three.
    """
    gain = 1.0
    residual = y - x - np.median(y - x, axis=0)
    for _ in range(3):
        size = np.linalg.norm(residual, axis=1)
        # 2.5 robust deviations, but never below one 8-bit step: in perfect agreement the deviation is 0.
        kept = size <= max(2.5 * 1.4826 * float(np.median(size)), 1 / 255)
        dx, dy = x - x[kept].mean(0), y - y[kept].mean(0)
        vx, vy, cov = (float(np.mean((a * b)[kept])) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
        correlated = cov > _MIN_CORRELATION * (vx * vy) ** 0.5 > 0
        gain = float(np.clip(cov / vx, *_GAIN)) if correlated else 1.0
        residual = dy - gain * dx
    return gain


def _shift(matched: Floats, reference: NDArray[np.uint8], outside: Floats) -> Floats:
    """Return the shift to add, (H, W, 3) within ± ``_MAX_SHIFT``, from the differences outside the mask.

    Pixels that differ in another way than most, such as those of a painted shadow, count little.

    Args:
        matched: (H, W, 3), 0..1, painted colours after the gains.
        reference: (H, W, 3), 0..255, the original picture.
        outside: (H, W), each pixel's distance from the mask in pixels; 0 in the mask.
    """
    # At half the size: the shift is smooth, and a quarter of the pixels takes a quarter of the time.
    unmasked = (outside > 0).astype(np.float32)
    share = _halved(unmasked)
    known = np.asarray(reference * (unmasked / 255)[..., None], np.float32)
    difference = _halved(known) - _halved(matched * unmasked[..., None])
    difference /= np.maximum(share, 1e-6)[..., None]
    distance = _halved(outside)
    near = (share == 1) & (distance <= VAE_FACTOR + _RING)
    typical = np.clip(np.median(difference[near], axis=0), -_MAX_SHIFT, _MAX_SHIFT)
    odd = np.abs(difference - typical).max(axis=2) / _MAX_SHIFT
    trust = _TRUST * share / (1 + (distance / VAE_FACTOR) ** 2) / (1 + odd**4)
    field = solve_laplace(np.clip(difference, -_MAX_SHIFT, _MAX_SHIFT), trust)
    return np.asarray(cv2.resize(field, outside.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _halved(field: Floats) -> Floats:
    size = (field.shape[1] // 2, field.shape[0] // 2)
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_AREA), np.float32)
