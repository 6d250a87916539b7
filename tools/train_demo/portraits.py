"""Sunglasses on two faces at the API's defaults: ``python -m tools.train_demo.portraits [--output SHEET]``.

One face is on a photograph from which the model's scenes were cut, the other it has never seen.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from inpaint import Engine, InpaintRequest
from tools.train_demo.backdrop import SIZE
from tools.train_demo.paint import run
from tools.train_demo.sheet import tiled
from tools.train_demo.things.judge import ThingVerdict, judge_picture

PROMPT, THING, SEEDS = "black sunglasses", "sunglasses", range(1, 13)
_ROOT = Path(__file__).parents[2]
_GLASSES = (70, 158, 264, 240)  # in pixels of the unseen face


@dataclass(frozen=True, slots=True)
class Portrait:
    """A face, and a mask over its eyes."""

    picture: Image.Image
    mask: Image.Image


def portraits() -> dict[str, Portrait]:
    """Return the README's portrait and the face that was not among the training photographs."""
    images = _ROOT / "docs" / "images"
    unseen = Image.open(Path(__file__).parent / "unseen" / "hopper.jpg").convert("RGB")
    mask = Image.new("L", unseen.size)
    ImageDraw.Draw(mask).rounded_rectangle(_GLASSES, 20, fill=255)
    known = Image.open(images / "portrait.jpg").convert("RGB")
    eyes = Image.open(images / "portrait_eyes_mask.png").convert("L")
    return {"portrait": Portrait(known, eyes), "unseen face": Portrait(unseen, mask)}


def paint_portrait(engine: Engine, one: Portrait, prompt: str = PROMPT) -> list[Image.Image]:
    """Paint a portrait with each of ``SEEDS``."""
    return run(engine, [InpaintRequest(one.picture, one.mask, prompt, seed=seed) for seed in SEEDS])


def judged(one: Portrait, pictures: Sequence[Image.Image]) -> list[ThingVerdict]:
    """Judge whether each picture shows sunglasses."""
    return [judge_picture(picture, one.picture, one.mask, THING) for picture in pictures]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo.portraits", description=__doc__)
    parser.add_argument("--model", default="demo", help="a model's name or folder (default demo)")
    parser.add_argument("--output", type=Path, help="file for a sheet of the pictures")
    options = parser.parse_args()
    tiles, texts = [], []
    with Engine.load(options.model, device="cpu", max_rows=16) as engine:
        for name, one in portraits().items():
            pictures = paint_portrait(engine, one)
            found = judged(one, pictures)
            right, named = (sum(getattr(verdict, what) for verdict in found) for what in ("right", "named"))
            print(f"{name}: {right} of {len(found)} are nearest to sunglasses, {named} with cosine >= 0.8")
            tiles += [_head(picture, one.mask) for picture in pictures]
            texts += [f"{seed}: {verdict.cosine:.2f}" for seed, verdict in zip(SEEDS, found, strict=True)]
    if options.output:
        tiled(tiles, texts, columns=len(SEEDS)).save(options.output, quality=88)


def _head(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Cut the picture to the square around the mask."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    half, x, y = 0.8 * (right - left), (left + right) / 2, (top + bottom) / 2
    box = (round(x - half), round(y - half), round(x + half), round(y + half))
    return picture.crop(box).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
