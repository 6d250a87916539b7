"""What an erased part looks like next to what was there: texture, gradients, colours; pictures to cut from.

A fill cannot know what was behind a hole, so that the distance of its pixels says little in a photograph. It
should look like its surroundings: as much texture, gradients as often of each size. It needs no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.lib.blending import lab
from bench.lib.contenders import PORTRAIT, ROOT
from tools.train_demo.judge import unseen
from tools.train_demo.scenes import Scene

Pixels = NDArray[np.uint8]
Marks = NDArray[np.bool_]

PHOTOS = tuple(sorted((ROOT / "tools" / "train_demo" / "photos").glob("*.jpg")))
_PLACES = ((0.2, 0.25), (0.7, 0.7), (0.55, 0.3))  # of a hole's corner, as shares of height and width
_RIM = 3  # pixels of a hole in which a filter still sees its surroundings
_PLAIN = 2.0  # grey levels; below this spread there is no texture to compare
_CELL = 128  # pixels of a picture in the sheet


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A picture with a hole; what was in the hole is known."""

    name: str
    image: Pixels  # (H, W, 3)
    hole: Marks  # (H, W)

    def inside(self) -> Marks:
        """Return the hole without its rim."""
        return np.asarray(cv2.erode(self.hole.astype(np.uint8), np.ones((2 * _RIM + 1,) * 2, np.uint8)) > 0)


def photographs() -> Iterator[Cutout]:
    """Yield three square holes in each photograph, an eighth of its shorter side."""
    for path in PHOTOS:
        with Image.open(path) as opened:
            image = np.asarray(opened.convert("RGB"))
        for down, right in _PLACES:
            cutout = Cutout(path.stem, image, _square(image, down, right))
            if _spread(image, cutout.inside()) >= _PLAIN:
                yield cutout


def drawn(number: int) -> Iterator[Cutout]:
    """Yield the masks of the demo model's unseen scenes, without their objects and without photographs."""
    for scene in drawn_scenes(number):
        yield Cutout(scene.background, np.asarray(scene.clean), np.asarray(scene.mask) > 0)


def drawn_scenes(number: int) -> list[Scene]:
    """Return unseen scenes whose background is drawn: what is behind the object can be inferred."""
    return [scene for scene in unseen(4 * number) if scene.background != "photo"][:number]


def _square(image: Pixels, down: float, right: float) -> Marks:
    height, width = image.shape[:2]
    side, top, left = max(24, min(height, width) // 8), int(height * down), int(width * right)
    hole = np.zeros((height, width), bool)
    hole[top : top + side, left : left + side] = True
    return hole


def figures(cutout: Cutout, filled: Pixels) -> dict[str, float | None]:
    """Return the texture for the original's, the distance of gradients, and the mean ΔE to the original."""
    inside = cutout.inside()
    own = _spread(cutout.image, inside)
    return {
        "texture": _spread(filled, inside) / own if own >= _PLAIN else None,
        "gradients": float(np.abs(_gradients(filled, inside) - _gradients(cutout.image, inside)).mean()),
        "error": float(np.linalg.norm(lab(filled) - lab(cutout.image), axis=2)[cutout.hole].mean()),
    }


def _spread(image: Pixels, inside: Marks) -> float:
    """Return the standard deviation of the Laplacian, in grey levels."""
    return float(cv2.Laplacian(_grey(image), cv2.CV_32F)[inside].std())


def _gradients(image: Pixels, inside: Marks) -> NDArray[np.float64]:
    """Return the share of gradients up to each of 32 sizes."""
    grey = _grey(image)
    sizes = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))[inside]
    counts = np.histogram(np.minimum(sizes, 255), 32, (0, 256))[0]
    return np.asarray(np.cumsum(counts / counts.sum()))


def _grey(image: Pixels) -> Any:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def large(height: int, width: int) -> Pixels:
    """Return the portrait enlarged, with a camera's noise: an enlargement alone would be too smooth."""
    with Image.open(PORTRAIT) as opened:
        picture = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).integers(-12, 13, (height, width, 1))
    return np.asarray((np.asarray(picture) + noise).clip(0, 255), np.uint8)


def sheet(rows: Sequence[tuple[Cutout, Sequence[Pixels]]], names: Sequence[str]) -> Image.Image:
    """Return the holes and their surroundings: as they were, marked, and by each method; two groups a row."""
    titles = ["picture", "marked", *names]
    groups = 2
    lines = -(-len(rows) // groups)
    picture = Image.new("RGB", (groups * len(titles) * _CELL, 20 + lines * _CELL), "white")
    draw = ImageDraw.Draw(picture)
    for place, title in enumerate(titles * groups):
        draw.text((place * _CELL + 6, 4), title, fill="black")
    for i, (cutout, fills) in enumerate(rows):
        marked = cutout.image.copy()
        marked[cutout.hole] = (255, 0, 255)
        column = (i // lines) * len(titles)
        for j, pixels in enumerate((cutout.image, marked, *fills)):
            picture.paste(_close_up(pixels, cutout.hole), ((column + j) * _CELL, 20 + i % lines * _CELL))
    return picture


def _close_up(pixels: Pixels, hole: Marks) -> Image.Image:
    """Return the hole and as much around it as it is wide."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    side = min(3 * max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1, *hole.shape)
    top, left = (
        int(np.clip((at[0] + at[-1] - side) // 2, 0, length - side))
        for at, length in zip((rows, columns), hole.shape, strict=True)
    )
    close = Image.fromarray(pixels[top : top + side, left : left + side])
    return close.resize((_CELL - 2, _CELL - 2), Image.Resampling.LANCZOS)
