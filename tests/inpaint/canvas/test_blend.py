"""Blending of painted pixels over the caller's, exact to the rounding."""

import numpy as np
import pytest

from inpaint.canvas.blend import blend, feather


@pytest.mark.parametrize(("channels", "dtype"), [(0, "u1"), (0, "u2"), (2, "u1"), (3, "u1"), (4, "u1")])
def test_weight_0_copies_255_replaces_and_between_is_rounded(channels: int, dtype: str) -> None:
    """Pixels outside the mask are the caller's in every mode, and a blend is rounded, not truncated."""
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    own = rng.integers(0, top + 1, (20, 30, channels)[: 2 + (channels > 0)], dtype=dtype)
    if channels in (2, 4):
        own[..., -1] = top
    grey = rng.random((20, 30), np.float32)
    painted = np.repeat(grey[..., None], 3, 2)
    weight = np.repeat(np.array([0, 128, 255], np.uint8), 10)[None].repeat(20, 0)
    before = own.copy()
    result = blend(own, painted, weight)
    color = slice(None) if channels in (0, 3) else slice(0, -1)
    expected = grey.astype(np.float64) * top
    colors, old = (a if channels == 0 else a[..., color] for a in (result, own))
    if channels:
        expected = expected[..., None]
    mixed = (old + (expected - old) * (128 / 255))[:, 10:20]
    assert result.dtype == own.dtype
    assert result.shape == own.shape
    assert np.array_equal(result[:, :10], own[:, :10])
    assert np.abs(colors[:, 10:20] - mixed).max() <= 0.51  # half a step of the caller's own depth
    assert np.abs(colors[:, 20:] - (expected + 0 * old)[:, 20:]).max() <= 0.51
    assert np.array_equal(own, before)


def test_painting_over_transparency_makes_it_opaque_without_its_hidden_colour() -> None:
    """A sticker's transparent parts hide arbitrary colours, which must not fringe the painted edge."""
    own = np.zeros((1, 4, 4), np.uint8)
    own[..., 1] = 255  # green, hidden
    own[0, 3] = (0, 255, 0, 255)  # green, visible
    painted = np.zeros((1, 4, 3), np.float32)
    painted[..., 0] = 1
    result = blend(own, painted, np.array([[0, 51, 255, 51]], np.uint8))
    assert result[0].tolist() == [[0, 255, 0, 0], [255, 0, 0, 51], [255, 0, 0, 255], [51, 204, 0, 255]]


def test_colours_outside_0_to_1_are_clipped_not_wrapped() -> None:
    """An overshooting resize or colour fit must not turn white into black."""
    painted = np.array([[[-0.1, 1.2, 0.5]]], np.float32)
    result = blend(np.zeros((1, 1, 3), np.uint8), painted, np.full((1, 1), 255, np.uint8))
    assert result[0, 0].tolist() == [0, 255, 128]


def test_feather_of_0_and_1_pixels() -> None:
    """A feather of 0 blends nothing, and one of 1 blends one pixel."""
    distance = np.array([[0, 1, 2, 3, 4]], np.float32)
    assert feather(distance, 1, 0).tolist() == [[255, 255, 0, 0, 0]]
    assert feather(distance, 1, 1).tolist() == [[255, 255, 128, 0, 0]]
