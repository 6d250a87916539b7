"""Colour correction: the errors that it removes, and the colours that it must leave alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from inpaint.canvas.color import LUMA, match_colors

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
    """A patch that the VAE made paler gets the picture's own colours back."""
    image = texture()
    gain, offset = np.array([0.9, 1.1, 1.0], np.float32), np.array([0.05, -0.03, 0.02], np.float32)
    drifted = floats(image) * gain + offset
    assert np.abs(match_colors(drifted, image, square()) - floats(image)).max() < 1e-3


def test_an_object_in_the_ring_does_not_spoil_the_fit() -> None:
    """Where part of the surroundings really changed, such as by a shadow, the other pixels decide."""
    image = texture()
    drifted = floats(image) * 0.92 + 0.04
    drifted[20:45, 60:80] = 1  # inside the ring, about a tenth of it
    matched = match_colors(drifted, image, square())
    assert np.abs(matched - floats(image))[50:110, 50:110].max() < 0.01


def test_a_flat_ring_moves_colours_but_not_contrast() -> None:
    """A plain wall shows its brightness but no gain; its noise must not be taken for contrast."""
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
    pale = floats(texture()) * 0.3 + 0.35
    steep = match_colors(pale, texture(), square())
    inside = square() > 0
    assert steep[inside].std() / pale[inside].std() == pytest.approx(1.25, rel=0.02)


@pytest.mark.parametrize("mask", [np.full((H, W), 255, np.uint8), square(75)])
def test_without_a_ring_nothing_is_fitted(mask: NDArray[np.uint8]) -> None:
    """Without known pixels there is nothing to compare: all masked, or all but a rim of repainted ones."""
    painted = floats(texture(1))
    assert match_colors(painted, texture(), mask) is painted


def test_the_fit_reads_nothing_inside_the_mask() -> None:
    """The old content must not tint the painted one."""
    image, painted = texture(), floats(texture()) * 0.95
    other = image.copy()
    other[square() > 0] = 0
    assert np.array_equal(match_colors(painted, image, square()), match_colors(painted, other, square()))


def test_colour_lost_to_grey_is_given_back() -> None:
    """The most frequent complaint about SDXL inpainting is that the patch comes out pale and grey."""
    image = texture()
    grey = (floats(image) @ LUMA)[..., None]
    pale = grey + 0.85 * (floats(image) - grey)
    assert np.abs(match_colors(pale, image, square()) - floats(image)).max() < 2e-3


def test_a_shift_that_differs_from_side_to_side_leaves_no_seam_at_either() -> None:
    """A patch may be too warm at the left and too cold at the right; one shift would be wrong at both."""
    image = np.full((H, W, 3), 128, np.uint8)
    uneven = np.linspace(-0.06, 0.06, W, dtype=np.float32)[None, :, None] * np.array([1, 0, -1], np.float32)
    matched = match_colors(floats(image) + uneven, image, square())
    assert np.abs(matched - floats(image))[40:120, 40:120].max() < 0.004
    assert np.abs(uneven[:, 50:110]).max() > 0.02


def test_an_object_unlike_its_surroundings_keeps_its_colour() -> None:
    """A red ball on a grey wall stays red: the wall's noise says nothing about its colour."""
    rng = np.random.default_rng(0)
    image = np.full((H, W, 3), 128, np.uint8)
    painted = (floats(image) + rng.normal(0, 0.01, image.shape)).astype(np.float32)
    painted[65:95, 65:95] = (0.84, 0.16, 0.16)
    assert np.abs(match_colors(painted, image, square()) - painted)[65:95, 65:95].max() < 0.01


def test_an_object_that_touches_the_edge_is_not_tinted() -> None:
    """It is painted beyond the mask as far as its latent pixels reach, where it hides the wall's colour."""
    image = np.full((H, W, 3), 200, np.uint8)
    painted = floats(image).copy()
    painted[44:80, 60:100] = (0.1, 0.2, 0.5)  # six pixels outside the mask
    assert np.abs(match_colors(painted, image, square()) - painted)[50:80, 60:100].max() < 0.03
