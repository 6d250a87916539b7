"""A judge of painted things: which of them is nearest to what was changed inside the mask.

It needs no model. Each thing is laid over the scene at some sizes, angles and places; what it would have
changed is compared with what was changed, as directions (cosine). A scene's own target scores about 0.97, a
wrong thing of like colours up to 0.9, and from about 0.8 people name the thing without help.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tools.train_demo.backdrop import SIZE, Box
from tools.train_demo.scenes import Scene
from tools.train_demo.things import THINGS, drawing
from tools.train_demo.things.scenes import make_thing_scene

NAMED = 0.8  # cosine from which people name a thing
_SIDE = 64  # pixels of the compared pictures
_FITS, _ANGLES = (0.78, 0.86, 0.95), (-6, 0, 6)  # shares of the box, degrees
_SHIFT = 3  # pixels in each direction
_BLUR = ImageFilter.GaussianBlur(1.0)
_SCENE, _FILLED = (SIZE, SIZE), 0.76  # a scene, and the part of its side that its mask fills
_UNSEEN = 90_000  # seeds behind those of any training

Pixels = NDArray[np.float32]
Complex = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class ThingVerdict:
    """The thing that a picture shows, compared with the one that was asked for."""

    nearest: str
    cosine: float  # of the one that was asked for
    right: bool

    @property
    def named(self) -> bool:
        """Whether it is the right one, and so much like it that people name it."""
        return self.right and self.cosine >= NAMED


def unseen_things(count: int, *, start: int = 0) -> list[Scene]:
    """Return ``count`` scenes outside the training set, over all things in turn, by their usual names."""
    names = list(THINGS)
    chosen = [(i, names[i % len(names)]) for i in range(start, start + count)]
    return [
        make_thing_scene(2 * (_UNSEEN + i) + 1, name, caption=THINGS[name].captions[0]) for i, name in chosen
    ]


def judge_thing(scene: Scene, painted: Image.Image) -> ThingVerdict:
    """Judge a picture painted for an unseen scene with a thing."""
    return judge_picture(painted, scene.clean, scene.mask, scene.thing)


def judge_picture(painted: Image.Image, clean: Image.Image, mask: Image.Image, thing: str) -> ThingVerdict:
    """Judge a picture of any size by the square around its mask."""
    window = _window(mask)
    cosines = _cosines(*(_seen(picture, window) for picture in (painted, clean, mask)))
    nearest = max(cosines, key=lambda name: cosines[name])
    return ThingVerdict(nearest, cosines[thing], nearest == thing)


def _window(mask: Image.Image) -> Box:
    """Return the whole of a scene; of another picture, a square that the mask fills as much as in scenes."""
    if mask.size == _SCENE:
        return (0, 0, *_SCENE)
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    half = max(right - left, bottom - top) / _FILLED / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return (x - half, y - half, x + half, y + half)


def _seen(picture: Image.Image, window: Box) -> Image.Image:
    """Return a window of a picture as a scene."""
    zoom = (window[2] - window[0]) / SIZE
    matrix = (zoom, 0, window[0], 0, zoom, window[1])
    return picture.transform(_SCENE, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _cosines(painted: Image.Image, clean: Image.Image, mask: Image.Image) -> dict[str, float]:
    """Return for each thing how well it explains what was changed, at most 1.

    A thing with premultiplied colours P and alpha A would change the scene C by P - A C. The cosines at all
    places come from two correlations, of that with the change and with itself, both by Fourier transforms.
    """
    inside = np.asarray(mask.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)[..., None] > 127
    before = _pixels(clean)
    changed = (_pixels(painted) - before) * inside
    dot = _transformed(changed, -(before * changed).sum(2))
    square = _transformed(inside, -2 * before * inside, (before**2 * inside).sum(2))
    box, length = mask.getbbox() or (0, 0, SIZE, SIZE), float(np.linalg.norm(changed)) + 1e-6
    return {name: _best(_layers(name, box), dot, square) / length for name in THINGS}


def _best(layers: Complex, dot: Complex, square: Complex) -> float:
    """Return the largest projection of a change on a thing: over its sizes and angles, and the shifts."""
    products = (layers[:, :4].conj() * dot).sum(1), (layers[:, 4:].conj() * square).sum(1)
    near = np.r_[0 : _SHIFT + 1, -_SHIFT:0]
    dots, squares = (np.fft.irfft2(one, (_SIDE, _SIDE))[:, near[:, None], near] for one in products)
    return float((dots / np.sqrt(np.maximum(squares, 1e-6))).max())


def _transformed(*planes: NDArray[Any]) -> Complex:
    """Return the transforms (n, 64, 33) of planes (64, 64) or (64, 64, channels)."""
    flat = np.dstack(planes).astype(np.float32).transpose(2, 0, 1)
    return np.fft.rfft2(flat).astype(np.complex64)


def _pixels(picture: Image.Image) -> Pixels:
    small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small.filter(_BLUR), np.float32) / 255


def _layers(name: str, box: Box) -> Complex:
    """Return the transforms (9, 4 + 5, 64, 33) of a thing in a box of the scene, at all sizes and angles.

    First of P and A, then of the planes of (P - A C)²: P² of 1, P A of C and A² of C².
    """
    found = []
    for fit, angle in product(_FITS, _ANGLES):
        layer = _layer(name, box, fit, angle)
        colours, alpha = layer[..., :3], layer[..., 3:]
        found.append(_transformed(layer, (colours**2).sum(2), colours * alpha, alpha**2))
    return np.stack(found)


def _layer(name: str, box: Box, fit: float, angle: float) -> Pixels:
    left, top, right, bottom = (side * _SIDE / SIZE for side in box)
    own = drawing(name)
    scale = min((right - left) / own.width, (bottom - top) / own.height) * fit
    size = (max(2, round(own.width * scale)), max(2, round(own.height * scale)))
    own = own.resize(size, Image.Resampling.BOX).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    canvas = Image.new("RGBA", (_SIDE, _SIDE))
    canvas.paste(own, (round((left + right - own.width) / 2), round((top + bottom - own.height) / 2)))
    # Premultiplied before the blur, which otherwise would mix in the black of what is transparent.
    planes = np.asarray(canvas, np.float32)
    planes[..., :3] *= planes[..., 3:] / 255
    blurred = Image.fromarray(planes.round().astype(np.uint8)).filter(_BLUR)
    return np.asarray(blurred, np.float32) / 255
