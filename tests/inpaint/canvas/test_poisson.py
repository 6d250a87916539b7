"""The screened Laplace solver, compared with known solutions."""

import numpy as np
import pytest
from numpy.typing import NDArray

from inpaint.canvas.poisson import solve_laplace

H, W = 96, 130


def plane() -> NDArray[np.float32]:
    """Make a slope in two channels and a constant; they are harmonic, so each is its own continuation."""
    y, x = np.mgrid[0:H, 0:W].astype(np.float32)
    return np.dstack([x / W, (x + 2 * y) / W, np.full_like(x, 0.3)])


def trust_outside(top: int, left: int, bottom: int, right: int) -> NDArray[np.float32]:
    trust = np.ones((H, W), np.float32)
    trust[top:bottom, left:right] = 0
    return trust


def test_a_hole_in_a_slope_is_filled_by_the_slope() -> None:
    """A sky that gets lighter towards the horizon goes on doing so in the hole."""
    trust = trust_outside(30, 40, 70, 100)
    values = np.where(trust[..., None] > 0, plane(), -9).astype(np.float32)
    field = solve_laplace(values, trust)
    assert np.array_equal(field[trust == 1], plane()[trust == 1])
    assert np.abs(field - plane()).max() < 0.03  # of slopes that rise by 0.46 and 1.08 across the hole


def test_it_never_leaves_the_range_of_what_is_known() -> None:
    """Colours may be spread, but none may appear that was not there."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 0.7, (H, W, 3)).astype(np.float32)
    trust = rng.uniform(0, 1, (H, W)).astype(np.float32) * trust_outside(0, 0, 60, 130)
    field = solve_laplace(values, trust)
    assert 0.2 - 1e-5 <= field.min() <= field.max() <= 0.7 + 1e-5


def test_little_trust_smooths_what_much_trust_keeps() -> None:
    """Noise in the known pixels must not be drawn into the hole as stripes."""
    noise = np.random.default_rng(0).normal(0, 1, (H, W, 3)).astype(np.float32)
    little, much = (solve_laplace(noise, np.full((H, W), trust, np.float32)).std() for trust in (0.05, 1))
    assert little < 0.2 < 0.9 < much


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 2), (3, 5), (1, 40), (16, 256), (97, 64)])
def test_any_size_and_one_known_pixel_give_its_value_everywhere(h: int, w: int) -> None:
    """A mask over nearly everything still has a solution."""
    values, trust = np.zeros((h, w, 3), np.float32), np.zeros((h, w), np.float32)
    values[h // 2, w // 3], trust[h // 2, w // 3] = (0.1, 0.5, 0.9), 1
    assert np.abs(solve_laplace(values, trust) - np.float32([0.1, 0.5, 0.9])).max() < 1e-4
