"""The colour fit and the blend, down to rounding."""

import numpy as np
import pytest
from numpy.typing import NDArray

from inpaint.blend import blend, feather, match_colors

H = W = 160


def texture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


def square(half: int = 30) -> NDArray[np.uint8]:
    mask = np.zeros((H, W), np.uint8)
    mask[H // 2 - half : H // 2 + half, W // 2 - half : W // 2 + half] = 255
    return mask


def floats(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image.astype(np.float32) / 255


def test_a_known_gain_and_offset_per_channel_are_taken_back() -> None:
    """A patch that the VAE made paler comes out in the picture's own colours."""
    image = texture()
    gain, offset = np.array([0.9, 1.1, 1.0], np.float32), np.array([0.05, -0.03, 0.02], np.float32)
    drifted = floats(image) * gain + offset
    assert np.abs(match_colors(drifted, image, square()) - floats(image)).max() < 1e-4


def test_an_object_in_the_ring_does_not_spoil_the_fit() -> None:
    """Part of the surroundings changed for good reason, such as a shadow: the rest decides."""
    image = texture()
    drifted = floats(image) * 0.92 + 0.04
    drifted[20:45, 60:80] = 1  # inside the ring, about a tenth of it
    matched = match_colors(drifted, image, square())
    assert np.abs(matched - floats(image))[50:110, 50:110].max() < 0.01


def test_a_flat_ring_moves_colours_but_not_contrast() -> None:
    """A wall says how bright, and nothing about gain; noise must not be taken for contrast."""
    rng = np.random.default_rng(0)
    image = np.full((H, W, 3), 100, np.uint8)
    painted = (floats(image) + 0.03 + rng.normal(0, 0.004, image.shape)).astype(np.float32)
    painted[70:90, 70:90] = 0.9
    matched = match_colors(painted, image, square())
    assert matched[80, 80] == pytest.approx(0.87, abs=0.005)


def test_gain_and_shift_are_bounded_when_the_model_painted_something_else() -> None:
    """An unrelated ring must not turn the patch black or grey."""
    painted, image = floats(texture(1)), np.zeros((H, W, 3), np.uint8)
    matched = match_colors(painted, image, square())
    assert np.abs(matched - painted).max() <= 0.15 + 1e-5
    steep = match_colors(floats(texture()) * 0.3 + 0.35, texture(), square())
    assert (steep.max() - steep.min()) / 0.3 == pytest.approx(1.25, rel=0.01)


@pytest.mark.parametrize("mask", [np.full((H, W), 255, np.uint8), square(75)])
def test_without_a_ring_nothing_is_fitted(mask: NDArray[np.uint8]) -> None:
    """Everything masked, or all but a rim that lies in repainted cells."""
    painted = floats(texture(1))
    assert match_colors(painted, texture(), mask) is painted


def test_the_fit_reads_nothing_inside_the_mask() -> None:
    """What was there before must not tint what is painted."""
    image, painted = texture(), floats(texture()) * 0.95
    other = image.copy()
    other[square() > 0] = 0
    assert np.array_equal(match_colors(painted, image, square()), match_colors(painted, other, square()))


@pytest.mark.parametrize(("channels", "dtype"), [(0, "u1"), (0, "u2"), (2, "u1"), (3, "u1"), (4, "u1")])
def test_weight_0_copies_255_replaces_and_between_is_rounded(channels: int, dtype: str) -> None:
    """Exact at both ends in every mode, and never off by the rounding of a truncation."""
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
    """The smallest settings do what they say: nothing, and one pixel of blend."""
    distance = np.array([[0, 1, 2, 3, 4]], np.float32)
    assert feather(distance, 1, 0).tolist() == [[255, 255, 0, 0, 0]]
    assert feather(distance, 1, 1).tolist() == [[255, 255, 128, 0, 0]]
