"""A screened Laplace solver: known values are kept, and the others continue them as smoothly as possible.

It fills a hole from its rim, and carries a colour difference measured outside a hole into it. It takes values
and how far each is to be trusted, and knows nothing of pictures.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_SWEEPS = 12  # per level; 40 come 0.1 ΔE nearer on a gradient, which cannot be seen
_NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4


def solve_laplace(values: Floats, trust: Floats) -> Floats:
    """Find the smoothest field that keeps to ``values`` where they are trusted.

    It minimises the squared steps between neighbours and, weighted by ``trust``, the squared distance from
    ``values``. Where trust is 1 the field is ``values``; where it is 0 every pixel is the mean of its
    neighbours; little trust in many pixels smooths them. Jacobi sweeps from a coarser solution find it in
    time linear in the pixels.
    Source: Pérez et al., "Poisson Image Editing", 2003; the screened form, Bhat et al., 2008.

    Args:
        values: (h, w, c), finite everywhere; read only where trusted.
        trust: (h, w), 0 … 1, above 0 somewhere.

    Returns:
        (h, w, c), between the least and the largest trusted value.
    """
    h, w = trust.shape
    weighted = values * trust[..., None]
    if min(h, w) == 1 or max(h, w) == 2:
        mean = weighted.sum((0, 1)) / trust.sum()
        return np.broadcast_to(mean, values.shape).astype(np.float32)
    half = ((w + 1) // 2, (h + 1) // 2)
    share = _shrunk(trust, half)
    means = np.asarray(_shrunk(weighted, half) / np.maximum(share, 1e-12)[..., None], np.float32)
    # A pixel twice as wide has four times the weight against the same steps to its neighbours.
    coarse = solve_laplace(means, 4 * share / (1 + 3 * share))
    field: Floats = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR).reshape(values.shape)
    free = 1 - trust[..., None]
    for _ in range(_SWEEPS):
        around = cv2.filter2D(field, -1, _NEIGHBOURS, borderType=cv2.BORDER_REPLICATE)
        field = weighted + free * around.reshape(values.shape)
    return field


def _shrunk(field: Floats, size: tuple[int, int]) -> Floats:
    """Shrink (h, w[, c]) to ``size``, which is (width, height), by the mean of each area."""
    smaller = np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_AREA), np.float32)
    return smaller.reshape(size[1], size[0], *field.shape[2:])
