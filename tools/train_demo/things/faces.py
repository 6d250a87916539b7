"""Faces on which hats, crowns, sunglasses and moustaches are worn: one photograph, eight drawings."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from tools.train_demo.backdrop import Box

_HERE = Path(__file__).parent
# Where things are worn, as parts of a face's picture. All the drawings have one layout.
PLACES: dict[str, Box] = {
    "eyes": (0.2, 0.48, 0.8, 0.71),
    "lip": (0.27, 0.67, 0.73, 0.85),
    "head": (0.06, -0.2, 0.94, 0.42),
}
_PHOTOGRAPH = "astronaut.jpg"
_IN_PHOTOGRAPH: dict[str, Box] = {
    "eyes": (0.348, 0.168, 0.537, 0.240),
    "lip": (0.367, 0.246, 0.512, 0.305),
    "head": (0.289, 0.0, 0.598, 0.18),
}


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face, RGBA if it needs a background, and where things are worn on it, in its pixels."""

    picture: Image.Image
    places: dict[str, Box]


@cache
def faces() -> tuple[Face, ...]:
    """Return the photograph and the drawings."""
    photograph = Image.open(_HERE.parent / "photos" / _PHOTOGRAPH).convert("RGB")
    drawings = [Image.open(path).convert("RGBA") for path in sorted((_HERE / "faces").glob("*.png"))]
    return (
        Face(photograph, {name: _scaled(box, photograph) for name, box in _IN_PHOTOGRAPH.items()}),
        *(Face(one, {name: _scaled(box, one) for name, box in PLACES.items()}) for one in drawings),
    )


def _scaled(box: Box, picture: Image.Image) -> Box:
    left, top, right, bottom = box
    return (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
