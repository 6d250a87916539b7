"""Fills of the masked hole, which touch nothing else."""

import numpy as np
import pytest
from numpy.typing import NDArray

from inpaint.canvas.fill import NEUTRAL, fill_hole
from inpaint.request import FILLS, Fill


def scene(h: int = 128, w: int = 192) -> NDArray[np.uint8]:
    """Make a horizontal ramp with a red square in its middle, and a mask that covers the square."""
    image = np.broadcast_to(np.linspace(60, 180, w)[None, :, None], (h, w, 3)).astype(np.uint8).copy()
    image[h // 2 - 16 : h // 2 + 16, w // 2 - 16 : w // 2 + 16] = (255, 0, 0)
    return image


def hole(h: int = 128, w: int = 192, half: int = 20) -> NDArray[np.uint8]:
    mask = np.zeros((h, w), np.uint8)
    mask[h // 2 - half : h // 2 + half, w // 2 - half : w // 2 + half] = 255
    return mask


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("scale", [1, 5])
def test_a_fill_touches_no_pixel_outside_the_mask(fill: Fill, scale: int) -> None:
    """The model sees the caller's own picture around the hole, at small and at large sizes."""
    image, mask = scene(128 * scale, 192 * scale), hole(128 * scale, 192 * scale, 20 * scale)
    before = image.copy()
    filled = fill_hole(image, mask, fill)
    assert np.array_equal(filled[mask == 0], image[mask == 0])
    assert np.array_equal(image, before)
    assert np.array_equal(filled, image) is (fill == "original")


@pytest.mark.parametrize("fill", ["telea", "blur"])
@pytest.mark.parametrize("scale", [1, 5])
def test_telea_and_blur_remove_the_object_and_continue_the_surroundings(fill: Fill, scale: int) -> None:
    """Below strength 1 the colour of a removed object would show through."""
    mask = hole(128 * scale, 192 * scale, 20 * scale)
    filled = fill_hole(scene(128 * scale, 192 * scale), mask, fill)[mask > 0].astype(int)
    assert np.abs(filled[:, 0] - filled[:, 1]).max() <= 12  # no red left
    assert 95 < filled.min() <= filled.max() < 145  # the ramp runs from 107 to 133 there


def test_neutral_is_grey_and_noise_is_noise_and_the_same_each_time() -> None:
    """The same request prepared twice is the same picture."""
    image, mask = scene(), hole()
    assert (fill_hole(image, mask, "neutral")[mask > 0] == NEUTRAL).all()
    noise = fill_hole(image, mask, "noise")
    assert np.array_equal(noise, fill_hole(image, mask, "noise"))
    inside, outside = noise[mask > 0], image[mask == 0]
    assert np.abs(inside.mean(0) - outside.mean(0)).max() < 3
    assert np.abs(inside.std(0) - outside.std(0)).max() < 3
    assert np.abs(np.corrcoef(inside[:-1, 0], inside[1:, 0])[0, 1]) < 0.1  # no order is left


def test_noise_has_no_colour_that_the_surroundings_lack() -> None:
    """At a medium strength bright noise would be painted as confetti; and no red of the object may stay."""
    noise = fill_hole(scene(), hole(), "noise")[hole() > 0]
    assert (noise.max(1) == noise.min(1)).all()  # the ramp is grey
    everything = fill_hole(scene(), np.full((128, 192), 255, np.uint8), "noise")
    assert everything.std() > 60  # with nothing to take colours from: any


@pytest.mark.parametrize("scale", [1, 5])
def test_a_slope_goes_on_in_the_blur(scale: int) -> None:
    """A step at the rim of the hole would be painted as an edge in the sky."""
    mask = hole(128 * scale, 192 * scale, 20 * scale)
    image = scene(128 * scale, 192 * scale)
    ramp = image[:1].repeat(128 * scale, 0)
    assert np.abs(fill_hole(image, mask, "blur").astype(int) - ramp)[mask > 0].max() <= 3


@pytest.mark.parametrize("fill", ["telea", "blur", "neutral"])
def test_without_surroundings_the_fill_is_neutral(fill: Fill) -> None:
    """An all-white mask leaves nothing to continue."""
    assert (fill_hole(scene(), np.full((128, 192), 255, np.uint8), fill) == NEUTRAL).all()


@pytest.mark.parametrize("fill", FILLS)
def test_one_known_pixel_is_enough(fill: Fill) -> None:
    """A mask over nearly everything must not divide by zero or leave undefined pixels."""
    mask = np.full((640, 448), 255, np.uint8)
    mask[0, 0] = 0
    image = np.full((640, 448, 3), (255, 0, 0), np.uint8)
    image[0, 0] = (10, 200, 90)
    filled = fill_hole(image, mask, fill)
    if fill in ("blur", "telea"):
        assert np.abs(filled.astype(int) - (10, 200, 90)).max() <= 2
    assert (filled[0, 0] == (10, 200, 90)).all()
