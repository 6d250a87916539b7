"""Scenes whose object is a thing: on the backgrounds of the other scenes, or worn on a face."""

import numpy as np
from PIL import Image

from tools.train_demo.backdrop import SCALE, SIZE, Box, background, draw_distractors, draw_mask
from tools.train_demo.scenes import Scene
from tools.train_demo.things import THINGS, drawing
from tools.train_demo.things.faces import faces

_STREAM = 77  # of random numbers: a thing's scene shares its seed with a shape's
_BACKGROUNDS = {"gradient": 0.3, "stripes": 0.08, "flat": 0.12, "photo": 0.38, "clouds": 0.12}  # shares
_MASKS = {"box": 0.45, "ellipse": 0.35, "stroke": 0.2}  # shares
_FIT = {"box": (0.86, 1.0), "ellipse": (0.78, 0.92), "stroke": (0.82, 0.96)}  # of the mask's box
_LENGTH = (0.52, 0.92)  # of the mask's longer side, of SIZE: smaller drawings do not survive the VAE
_SQUARE = 0.35  # share of square masks: people do not know a drawing's proportions
_WORN = 0.5  # share of the scenes of what can be worn
_PHOTOGRAPH = 0.4  # share of the photograph among the faces
_NO_ARTICLE = 0.15


def make_thing_scene(seed: int, thing: str, *, caption: str | None = None, worn: bool | None = None) -> Scene:
    """Make the scene of a seed with a thing.

    Args:
        seed: even for training, odd for judging.
        thing: of ``THINGS``.
        caption: instead of a random one of the thing's.
        worn: whether it is on a face; by default half of what can be worn is.
    """
    rng = np.random.default_rng([seed, _STREAM])
    if worn is None:
        worn = bool(THINGS[thing].worn) and rng.random() < _WORN
    if worn:
        kind = "face"
        clean, box = _on_a_face(rng, THINGS[thing].worn)
        mask, how = draw_mask(rng, box, {"box": 0.7, "ellipse": 0.3})
    else:
        kind = str(rng.choice(list(_BACKGROUNDS), p=list(_BACKGROUNDS.values())))
        clean, box = background(rng, kind), _box(rng, drawing(thing))
        mask, how = draw_mask(rng, box, _MASKS)
        draw_distractors(rng, clean, avoid=box)
    target = _with_thing(rng, clean, box, thing, how)
    text = caption or _caption(rng, THINGS[thing].captions)
    small = clean.resize((SIZE, SIZE), Image.Resampling.BOX)
    return Scene(small, target, mask, text, "", "", kind, thing)


def _box(rng: np.random.Generator, own: Image.Image) -> Box:
    """Place a box of about the drawing's proportions, or a square."""
    aspect = 1.0 if rng.random() < _SQUARE else own.width / own.height * float(np.exp(rng.normal(0, 0.12)))
    length = rng.uniform(*_LENGTH) * SIZE
    width, height = (length, length / aspect) if aspect > 1 else (length * aspect, length)
    left, top = (rng.uniform(1, SIZE - 1 - side) for side in (width, height))
    return (left, top, left + width, top + height)


def _on_a_face(rng: np.random.Generator, place: str) -> tuple[Image.Image, Box]:
    """Draw a face so near that the place is as long as other masks; return it with the place's box."""
    photograph, *drawings = faces()
    face = photograph if rng.random() < _PHOTOGRAPH else drawings[rng.integers(len(drawings))]
    left, top, right, bottom = face.places[place]
    zoom = rng.uniform(*_LENGTH) * SIZE / max(right - left, bottom - top)
    width, height = (
        side * zoom * float(np.exp(rng.normal(0, 0.06))) for side in (right - left, bottom - top)
    )
    middle = ((left + right) / 2, (top + bottom) / 2)
    x, y = _where(rng, width, height, face.picture, middle, zoom)
    offset = (x - middle[0] * zoom, y - middle[1] * zoom)
    clean = _drawn_at(rng, face.picture, zoom, offset)
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if rng.random() < 0.5:
        clean = clean.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        box = (SIZE - box[2], box[1], SIZE - box[0], box[3])
    return clean, (max(box[0], 0), max(box[1], 0), min(box[2], SIZE), min(box[3], SIZE))


def _where(
    rng: np.random.Generator,
    width: float,
    height: float,
    picture: Image.Image,
    middle: tuple[float, float],
    zoom: float,
) -> tuple[float, float]:
    """Return where the place's middle goes: anywhere inside, but a photograph must fill the scene."""
    found = []
    for at, own, side in zip(middle, (width, height), picture.size, strict=True):
        margin = min(own / 2 + 1, SIZE / 2)
        value = rng.uniform(margin, SIZE - margin)
        if picture.mode == "RGB":
            value = min(max(value, SIZE - (side - at) * zoom), at * zoom)
        found.append(value)
    return found[0], found[1]


def _drawn_at(
    rng: np.random.Generator, picture: Image.Image, zoom: float, offset: tuple[float, float]
) -> Image.Image:
    """Return a scene's ground (RGB, ``SIZE × SCALE``) with the face at an offset in pixels of the scene."""
    side, factor = SIZE * SCALE, zoom * SCALE
    matrix = (1 / factor, 0, -offset[0] * SCALE / factor, 0, 1 / factor, -offset[1] * SCALE / factor)
    moved = picture.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    if picture.mode == "RGB":
        return moved
    ground = background(rng, str(rng.choice(("gradient", "flat", "clouds"))))
    ground.paste(moved, (0, 0), moved)
    return ground


def _with_thing(rng: np.random.Generator, clean: Image.Image, box: Box, thing: str, how: str) -> Image.Image:
    """Return the scene with the thing, slightly turned, in the middle of the box, ``SIZE`` × ``SIZE``."""
    own = drawing(thing).rotate(rng.normal(0, 5), Image.Resampling.BICUBIC, expand=True)
    left, top, right, bottom = box
    scale = min((right - left) / own.width, (bottom - top) / own.height) * rng.uniform(*_FIT[how]) * SCALE
    size = (max(1, round(own.width * scale)), max(1, round(own.height * scale)))
    own = _shaded(own.resize(size, Image.Resampling.LANCZOS), 1 + rng.normal(0, 0.04))
    x, y = (left + right) / 2 + rng.normal(0, 1), (top + bottom) / 2 + rng.normal(0, 1)
    target = clean.copy()
    target.paste(own, (round(x * SCALE - own.width / 2), round(y * SCALE - own.height / 2)), own)
    return target.resize((SIZE, SIZE), Image.Resampling.BOX)


def _shaded(own: Image.Image, brightness: float) -> Image.Image:
    shaded = own.convert("RGB").point([min(255, int(v * brightness)) for v in range(256)] * 3)
    shaded.putalpha(own.getchannel("A"))
    return shaded


def _caption(rng: np.random.Generator, captions: tuple[str, ...]) -> str:
    """Take the usual wording in half of the cases, and leave some articles out, as prompts do."""
    text = captions[0 if rng.random() < 0.5 else int(rng.integers(len(captions)))]
    article, _, rest = text.partition(" ")
    return rest if article in ("a", "an", "the") and rng.random() < _NO_ARTICLE else text
