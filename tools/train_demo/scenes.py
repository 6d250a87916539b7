"""Synthetic scenes: a background, distractors, one object to paint, a mask over it, and a caption.

Every scene is a function of its seed alone. Even seeds are for training, odd ones for judging, so that no
test sees a training picture.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from tools.train_demo.backdrop import (
    BACKGROUNDS,
    SCALE,
    SHAPES,
    SIZE,
    Box,
    background,
    draw_distractors,
    draw_mask,
    outline,
)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (245, 221, 66),
    "green": (46, 160, 67),
    "cyan": (64, 201, 211),
    "blue": (45, 85, 205),
    "purple": (128, 60, 175),
    "pink": (245, 135, 185),
}
BACKGROUND_CAPTIONS = ("background", "empty background", "nothing", "nothing, just the background")
_NAMED = (0.88, 0.92)  # shares of captions with the colour, and with the shape; all have one of them
_SIZES = {"small ": (0.42, 0.58), "": (0.5, 0.95), "big ": (0.82, 0.97)}
_MASKS = {"box": 0.4, "ellipse": 0.35, "stroke": 0.25}  # shares


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An example, all pictures RGB or L of ``SIZE`` × ``SIZE``."""

    clean: Image.Image  # background and distractors, without the object
    target: Image.Image  # with the caption's object inside the mask
    mask: Image.Image  # L, 255 = repaint; covers the object
    caption: str
    colour: str  # of ``COLOURS``, "" for a thing
    shape: str  # of ``SHAPES``, "" for a thing
    background: str  # its kind, of ``BACKGROUNDS`` or "face"
    thing: str = ""  # of ``THINGS``, where it is no coloured shape


def make_scene(seed: int, *, colour: str | None = None, shape: str | None = None) -> Scene:
    """Make the scene of a seed, with a given or a random colour and shape.

    Args:
        seed: even for training, odd for judging.
        colour: of the object; then the caption names it.
        shape: of the object; then the caption names it.
    """
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(BACKGROUNDS), p=list(BACKGROUNDS.values())))
    clean = background(rng, kind)
    mask, box = _mask(rng)
    draw_distractors(rng, clean, avoid=box)
    draws = rng.random(2) < _NAMED
    named_colour = colour is not None or draws[0]
    named_shape = shape is not None or draws[1] or not named_colour
    colour = colour or str(rng.choice(list(COLOURS)))
    shape = shape or str(rng.choice(SHAPES))
    size = str(rng.choice(list(_SIZES), p=(0.2, 0.6, 0.2)))
    target = _with_object(rng, clean, box, colour, shape, _SIZES[size])
    caption = _caption(rng, size, colour if named_colour else "", shape if named_shape else "")
    small = clean.resize((SIZE, SIZE), Image.Resampling.BOX)
    return Scene(small, target, mask, caption, colour, shape, kind)


def _caption(rng: np.random.Generator, size: str, colour: str, shape: str) -> str:
    """Write a caption: "a big red circle", "red circle", "a star", "something red" or "red"."""
    article = rng.random() < 0.8
    if not shape:
        return f"something {colour}" if article else colour
    words = f"{size}{colour} {shape}".replace("  ", " ").strip()
    return f"{'an' if words.startswith('orange') else 'a'} {words}" if article else words


def _mask(rng: np.random.Generator) -> tuple[Image.Image, Box]:
    """Draw a loose mask; return it with the box of its object."""
    side = rng.uniform(0.34, 0.8, 2) if rng.random() < 0.3 else np.full(2, rng.uniform(0.34, 0.8))
    width, height = side * SIZE
    left, top = (rng.uniform(2, SIZE - 2 - length) for length in (width, height))
    box = (left, top, left + width, top + height)
    mask, _ = draw_mask(rng, box, _MASKS)
    return mask, box


def _with_object(
    rng: np.random.Generator,
    clean: Image.Image,
    box: Box,
    colour: str,
    shape: str,
    sizes: tuple[float, float],
) -> Image.Image:
    """Return the scene with the object, ``SIZE`` × ``SIZE``."""
    left, top, right, bottom = box
    radius = min(right - left, bottom - top) / 2 * rng.uniform(*sizes) * 0.94
    x, y = (left + right) / 2 + rng.normal(0, 1), (top + bottom) / 2 + rng.normal(0, 1)
    points = [
        ((x + radius * px) * SCALE, (y + radius * py) * SCALE)
        for px, py in outline(shape, rng.normal(0, 0.06))
    ]
    own = Image.new("L", clean.size)
    ImageDraw.Draw(own).polygon(points, fill=255)
    shade = np.array(COLOURS[colour]) + rng.normal(0, 7, 3)
    paint = Image.new("RGB", clean.size, tuple(int(v) for v in shade.clip(0, 255)))
    return Image.composite(paint, clean, own).resize((SIZE, SIZE), Image.Resampling.BOX)
