"""Synthetic scenes: a background, distractors, one object to paint, a mask over it, and a caption.

Every scene is a function of its seed alone. Even seeds are for training, odd ones for judging, so that no
test sees a training picture.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # pixels, the model's native side
_SCALE = 3  # drawn larger and reduced, for smooth edges

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
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
BACKGROUND_CAPTIONS = ("background", "empty background", "nothing", "nothing, just the background")
BACKGROUNDS = {"gradient": 0.4, "stripes": 0.15, "flat": 0.12, "photo": 0.2, "clouds": 0.13}  # shares
_NAMED = (0.88, 0.92)  # shares of captions with the colour, and with the shape; all have one of them
_SIZES = {"small ": (0.42, 0.58), "": (0.5, 0.95), "big ": (0.82, 0.97)}
_PHOTOS = Path(__file__).parent / "photos"

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An example, all pictures RGB or L of ``SIZE`` × ``SIZE``."""

    clean: Image.Image  # background and distractors, without the object
    target: Image.Image  # with the caption's object inside the mask
    mask: Image.Image  # L, 255 = repaint; covers the object
    caption: str
    colour: str
    shape: str
    background: str  # its kind, of ``BACKGROUNDS``


def make_scene(seed: int, *, colour: str | None = None, shape: str | None = None) -> Scene:
    """Make the scene of a seed, with a given or a random colour and shape.

    Args:
        seed: even for training, odd for judging.
        colour: of the object; then the caption names it.
        shape: of the object; then the caption names it.
    """
    rng = np.random.default_rng(seed)
    background = str(rng.choice(list(BACKGROUNDS), p=list(BACKGROUNDS.values())))
    clean = _background(rng, background)
    mask, box = _mask(rng)
    _draw_distractors(rng, clean, avoid=box)
    draws = rng.random(2) < _NAMED
    named_colour = colour is not None or draws[0]
    named_shape = shape is not None or draws[1] or not named_colour
    colour = colour or str(rng.choice(list(COLOURS)))
    shape = shape or str(rng.choice(SHAPES))
    size = str(rng.choice(list(_SIZES), p=(0.2, 0.6, 0.2)))
    target = _with_object(rng, clean, box, colour, shape, _SIZES[size])
    caption = _caption(rng, size, colour if named_colour else "", shape if named_shape else "")
    small = clean.resize((SIZE, SIZE), Image.Resampling.BOX)
    return Scene(small, target, mask, caption, colour, shape, background)


def _caption(rng: np.random.Generator, size: str, colour: str, shape: str) -> str:
    """Write a caption: "a big red circle", "red circle", "a star", "something red" or "red"."""
    article = rng.random() < 0.8
    if not shape:
        return f"something {colour}" if article else colour
    words = f"{size}{colour} {shape}".replace("  ", " ").strip()
    return f"{'an' if words.startswith('orange') else 'a'} {words}" if article else words


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(20, 236, 3))


def _background(rng: np.random.Generator, kind: str) -> Image.Image:
    side = SIZE * _SCALE
    if kind == "photo":
        return _photo_crop(rng, side)
    first, second = (np.array(_colour(rng), np.float32) for _ in range(2))
    if kind == "clouds":
        points = int(rng.integers(3, 7))
        noise = Image.fromarray(rng.integers(0, 256, (points, points), dtype=np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        t = np.asarray(noise, np.float32) / 255
    else:
        angle = rng.uniform(0, pi)
        y, x = np.mgrid[0:side, 0:side] / side
        t = x * cos(angle) + y * sin(angle)
        t = (t - t.min()) / (t.max() - t.min())
        if kind == "stripes":
            t = (np.sin(t * pi * rng.integers(4, 12)) > 0).astype(np.float32)
            second = 0.6 * first + 0.4 * second  # gentle ones: the object must stand out
        elif kind == "flat":
            t = np.zeros_like(t)
    return Image.fromarray((first + (second - first) * t[..., None]).astype(np.uint8))


@lru_cache(maxsize=1)
def _photos() -> tuple[Image.Image, ...]:
    return tuple(Image.open(path).convert("RGB") for path in sorted(_PHOTOS.glob("*.jpg")))


def _photo_crop(rng: np.random.Generator, side: int) -> Image.Image:
    photo = _photos()[rng.integers(len(_photos()))]
    crop = int(rng.integers(64, min(photo.size) + 1))
    left, top = (int(rng.integers(0, length - crop + 1)) for length in photo.size)
    picture = photo.crop((left, top, left + crop, top + crop)).resize((side, side), Image.Resampling.BICUBIC)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def _mask(rng: np.random.Generator) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Draw a loose mask; return it with the box, in pixels of ``SIZE``, of its object."""
    side = rng.uniform(0.34, 0.8, 2) if rng.random() < 0.3 else np.full(2, rng.uniform(0.34, 0.8))
    width, height = side * SIZE
    left, top = (rng.uniform(2, SIZE - 2 - length) for length in (width, height))
    box = (left, top, left + width, top + height)
    mask = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(mask)
    kind = rng.choice(("box", "ellipse", "stroke"), p=(0.4, 0.35, 0.25))
    if kind == "box":
        draw.rectangle(box, fill=255)
    elif kind == "ellipse":
        draw.ellipse(box, fill=255)
    else:
        _stroke(rng, draw, box)
    return mask, box


def _stroke(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float]
) -> None:
    """Draw a thick scribble that fills most of the box, like a user's brush over an object."""
    left, top, right, bottom = box
    brush = min(right - left, bottom - top) * rng.uniform(0.3, 0.45)
    rows = int(np.ceil((bottom - top) / (brush * 0.8)))
    points: list[Point] = []
    for i, y in enumerate(np.linspace(top + brush / 2, bottom - brush / 2, max(rows, 2))):
        ends = [(left + brush / 2, y), (right - brush / 2, y)]
        points += [
            (x + rng.normal(0, brush / 10), y + rng.normal(0, brush / 10))
            for x, y in (ends if i % 2 else ends[::-1])
        ]
    draw.line(points, fill=255, width=int(brush), joint="curve")
    for x, y in points:
        draw.ellipse((x - brush / 2, y - brush / 2, x + brush / 2, y + brush / 2), fill=255)


def _draw_distractors(
    rng: np.random.Generator, picture: Image.Image, avoid: tuple[float, float, float, float]
) -> None:
    """Draw up to three other shapes outside the box."""
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 4))):
        radius = rng.uniform(5, 14)
        x, y = rng.uniform(0, SIZE, 2)
        if avoid[0] - radius < x < avoid[2] + radius and avoid[1] - radius < y < avoid[3] + radius:
            continue
        points = outline(str(rng.choice(SHAPES)), rng.uniform(0, 2 * pi))
        draw.polygon(
            [((x + radius * px) * _SCALE, (y + radius * py) * _SCALE) for px, py in points],
            fill=_colour(rng),
        )


def _with_object(
    rng: np.random.Generator,
    clean: Image.Image,
    box: tuple[float, float, float, float],
    colour: str,
    shape: str,
    sizes: tuple[float, float],
) -> Image.Image:
    """Return the scene with the object, ``SIZE`` × ``SIZE``."""
    left, top, right, bottom = box
    radius = min(right - left, bottom - top) / 2 * rng.uniform(*sizes) * 0.94
    x, y = (left + right) / 2 + rng.normal(0, 1), (top + bottom) / 2 + rng.normal(0, 1)
    points = [
        ((x + radius * px) * _SCALE, (y + radius * py) * _SCALE)
        for px, py in outline(shape, rng.normal(0, 0.06))
    ]
    own = Image.new("L", clean.size)
    ImageDraw.Draw(own).polygon(points, fill=255)
    shade = np.array(COLOURS[colour]) + rng.normal(0, 7, 3)
    paint = Image.new("RGB", clean.size, tuple(int(v) for v in shade.clip(0, 255)))
    return Image.composite(paint, clean, own).resize((SIZE, SIZE), Image.Resampling.BOX)


@lru_cache(maxsize=64)
def _unit_outline(shape: str) -> tuple[Point, ...]:
    """Return a shape's outline in the unit circle, y downwards."""
    if shape == "circle":
        return tuple((cos(a), sin(a)) for a in np.linspace(0, 2 * pi, 64, endpoint=False))
    if shape == "square":
        return ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
    if shape == "triangle":
        return ((0, -0.95), (0.95, 0.75), (-0.95, 0.75))
    if shape == "star":
        spokes = [(1.0 if i % 2 == 0 else 0.42, -pi / 2 + i * pi / 5) for i in range(10)]
        return tuple((r * cos(a), r * sin(a)) for r, a in spokes)
    if shape == "cross":
        w, r = 0.3, 0.95
        return (
            (-w, -r),
            (w, -r),
            (w, -w),
            (r, -w),
            (r, w),
            (w, w),
            (w, r),
            (-w, r),
            (-w, w),
            (-r, w),
            (-r, -w),
            (-w, -w),
        )
    assert shape == "heart", shape
    t = np.linspace(0, 2 * pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3 / 17
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    return tuple(zip(x.tolist(), (y - 0.12).tolist(), strict=True))


def outline(shape: str, angle: float) -> list[Point]:
    """Return a shape's outline in the unit circle, turned by ``angle`` radians."""
    return [
        (x * cos(angle) - y * sin(angle), x * sin(angle) + y * cos(angle)) for x, y in _unit_outline(shape)
    ]
