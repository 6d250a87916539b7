"""Drawn scenes with a known object: what is seen, and which of its pixels the object has."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.float64]  # (H, W, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture and its object."""

    picture: NDArray[np.uint8]  # (H, W, 3)
    truth: NDArray[np.bool_]  # (H, W)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.truth.shape
        return width, height


def overlap(mask: NDArray[np.uint8], truth: NDArray[np.bool_]) -> float:
    """Return the intersection over union of a mask (255 = selected) and the truth."""
    chosen = mask >= 128
    return float((chosen & truth).sum() / max(1, (chosen | truth).sum()))


def _noise(size: tuple[int, int], rough: float, seed: int) -> Pixels:
    """Blurred noise, -1 to 1; ``rough`` is the size of its grains in thousandths of the width."""
    rng = np.random.default_rng(seed)
    width, height = size
    grain = max(1.0, rough * width / 1000)
    w, h = max(2, round(width / grain)), max(2, round(height / grain))
    small = Image.fromarray((rng.random((h, w)) * 255).astype(np.uint8))
    field = np.asarray(small.resize(size, Image.Resampling.BICUBIC)) / 127.5 - 1
    return np.repeat(field[..., None], 3, axis=2)


def _plane(size: tuple[int, int], colour: tuple[int, int, int]) -> Pixels:
    return np.full((size[1], size[0], 3), colour, float)


def _grass(size: tuple[int, int]) -> Pixels:
    return _plane(size, (70, 125, 50)) + _noise(size, 4, 1) * 35 + _noise(size, 60, 2) * 12


def _wall(size: tuple[int, int]) -> Pixels:
    width, height = size
    y, x = np.mgrid[:height, :width] * (1000 / width)
    row = (y // 45).astype(int)
    joint = ((y % 45) < 5) | (((x + row % 2 * 50) % 100) < 5)
    bricks = _plane(size, (160, 75, 55)) + _noise(size, 30, 3) * 15
    return np.where(joint[..., None], _plane(size, (190, 180, 165)), bricks) + _noise(size, 2, 4) * 8


def _sky(size: tuple[int, int]) -> Pixels:
    y = np.linspace(0, 1, size[1])[:, None, None]
    return _plane(size, (90, 140, 215)) * (1 - y) + _plane(size, (215, 225, 240)) * y + _noise(size, 2, 5) * 5


def _fur(size: tuple[int, int]) -> Pixels:
    return _plane(size, (175, 130, 85)) + _noise(size, 6, 6) * 28


def _check(size: tuple[int, int]) -> Pixels:
    width, height = size
    y, x = np.mgrid[:height, :width] * (1000 / width)
    even = ((x // 35).astype(int) + (y // 35).astype(int)) % 2 == 0
    return np.where(even[..., None], _plane(size, (235, 225, 60)), _plane(size, (40, 60, 150)))


def _steel(size: tuple[int, int]) -> Pixels:
    x = np.linspace(0, 1, size[0])[None, :, None]
    return _plane(size, (60, 65, 75)) * (1 - x) + _plane(size, (110, 115, 125)) * x + _noise(size, 3, 7) * 10


def _red(size: tuple[int, int]) -> Pixels:
    y = np.linspace(0, 1, size[1])[:, None, None]
    return _plane(size, (225, 60, 60)) * (1 - y) + _plane(size, (120, 15, 25)) * y + _noise(size, 3, 8) * 6


def _disc(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    r = 0.22 * min(w, h)
    draw.ellipse((0.55 * w - r, 0.5 * h - r, 0.55 * w + r, 0.5 * h + r), fill=255)


def _star(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    side = min(w, h)
    corners = []
    for k in range(10):
        r = side * (0.34 if k % 2 == 0 else 0.17)
        angle = math.pi * k / 5
        corners.append((0.45 * w + r * math.sin(angle), 0.5 * h - r * math.cos(angle)))
    draw.polygon(corners, fill=255)


def _animal(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """Draw a body with a head, two ears and legs."""
    draw.ellipse((0.3 * w, 0.4 * h, 0.68 * w, 0.7 * h), fill=255)
    draw.ellipse((0.6 * w, 0.25 * h, 0.78 * w, 0.5 * h), fill=255)
    for x in (0.62, 0.71):
        draw.polygon([(x * w, 0.32 * h), ((x + 0.02) * w, 0.17 * h), ((x + 0.06) * w, 0.3 * h)], fill=255)
    for x in (0.34, 0.42, 0.55, 0.61):
        draw.rectangle((x * w, 0.6 * h, (x + 0.045) * w, 0.85 * h), fill=255)


def _cup(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """Draw a cup; its handle has a hole."""
    draw.ellipse((0.55 * w, 0.36 * h, 0.75 * w, 0.66 * h), fill=255)
    draw.ellipse((0.59 * w, 0.43 * h, 0.71 * w, 0.59 * h), fill=0)
    draw.polygon(
        [(0.3 * w, 0.25 * h), (0.66 * w, 0.25 * h), (0.6 * w, 0.8 * h), (0.36 * w, 0.8 * h)], fill=255
    )


Texture = Callable[[tuple[int, int]], Pixels]
Shape = Callable[[ImageDraw.ImageDraw, int, int], None]
_SCENES: dict[str, tuple[Shape, Texture, Texture]] = {
    "red disc on grass": (_disc, _red, _grass),
    "steel star in the sky": (_star, _steel, _sky),
    "animal on grass": (_animal, _fur, _grass),
    "animal before bricks": (_animal, _steel, _wall),
    "chequered cup on steel": (_cup, _check, _steel),
    "red cup before bricks": (_cup, _sky, _wall),
}
SCENES = tuple(_SCENES)


def scene(name: str, size: tuple[int, int] = (900, 700)) -> Scene:
    """Draw a scene in this (width, height)."""
    shape, inner, outer = _SCENES[name]
    width, height = size
    large = Image.new("L", (2 * width, 2 * height))
    shape(ImageDraw.Draw(large), 2 * width, 2 * height)
    mask = large.resize(size, Image.Resampling.BOX)
    # A lens is never quite sharp.
    alpha = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.6)))[..., None] / 255
    picture = inner(size) * alpha + outer(size) * (1 - alpha)
    return Scene(np.clip(picture, 0, 255).astype(np.uint8), np.asarray(mask) >= 128)
