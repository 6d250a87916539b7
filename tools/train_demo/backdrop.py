"""What every scene is drawn on: backgrounds, distracting shapes, and the mask of a user over a box."""

from collections.abc import Mapping
from functools import lru_cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # pixels, the model's native side
SCALE = 3  # drawn larger and reduced, for smooth edges
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
BACKGROUNDS = {"gradient": 0.4, "stripes": 0.15, "flat": 0.12, "photo": 0.2, "clouds": 0.13}  # shares
_PHOTOS = Path(__file__).parent / "photos"

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of SIZE


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(20, 236, 3))


def background(rng: np.random.Generator, kind: str) -> Image.Image:
    """Draw a background of a kind of ``BACKGROUNDS``, RGB, ``SIZE × SCALE`` pixels a side."""
    side = SIZE * SCALE
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
def photos() -> tuple[Image.Image, ...]:
    """Return the photographs, by name."""
    return tuple(Image.open(path).convert("RGB") for path in sorted(_PHOTOS.glob("*.jpg")))


def _photo_crop(rng: np.random.Generator, side: int) -> Image.Image:
    photo = photos()[rng.integers(len(photos()))]
    crop = int(rng.integers(64, min(photo.size) + 1))
    left, top = (int(rng.integers(0, length - crop + 1)) for length in photo.size)
    picture = photo.crop((left, top, left + crop, top + crop)).resize((side, side), Image.Resampling.BICUBIC)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def draw_mask(rng: np.random.Generator, box: Box, kinds: Mapping[str, float]) -> tuple[Image.Image, str]:
    """Draw a loose mask (L, ``SIZE`` a side) over a box, and return it with its kind, one of ``kinds``.

    Args:
        rng: of the scene.
        box: that the mask covers.
        kinds: shares of ``box``, ``ellipse`` and ``stroke``.
    """
    mask = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(mask)
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    if kind == "box":
        draw.rectangle(box, fill=255)
    elif kind == "ellipse":
        draw.ellipse(box, fill=255)
    else:
        _stroke(rng, draw, box)
    return mask, kind


def _stroke(rng: np.random.Generator, draw: ImageDraw.ImageDraw, box: Box) -> None:
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


def draw_distractors(rng: np.random.Generator, picture: Image.Image, avoid: Box) -> None:
    """Draw up to three other shapes outside the box."""
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 4))):
        radius = rng.uniform(5, 14)
        x, y = rng.uniform(0, SIZE, 2)
        if avoid[0] - radius < x < avoid[2] + radius and avoid[1] - radius < y < avoid[3] + radius:
            continue
        points = outline(str(rng.choice(SHAPES)), rng.uniform(0, 2 * pi))
        draw.polygon(
            [((x + radius * px) * SCALE, (y + radius * py) * SCALE) for px, py in points],
            fill=_colour(rng),
        )


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
