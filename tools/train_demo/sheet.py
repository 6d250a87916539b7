"""Sheets of pictures that the model painted for unseen scenes, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from inpaint import Engine
from tools.train_demo.backdrop import SIZE
from tools.train_demo.judge import unseen
from tools.train_demo.paint import paint
from tools.train_demo.things import THINGS
from tools.train_demo.things.judge import unseen_things

_COLUMNS, _GAP, _TEXT = 14, 4, 14


def draw_sheet(model: Path | str, path: Path, *, each: int = 2) -> None:
    """Paint a row of unseen coloured shapes and ``each`` scenes of every thing at the API's defaults."""
    scenes = [*unseen(_COLUMNS, start=48), *unseen_things(each * len(THINGS))]
    with Engine.load(model, device="cpu", max_rows=16) as engine:
        pictures = paint(engine, scenes)
    tiled(pictures, [scene.caption for scene in scenes]).save(path, quality=88)


def tiled(pictures: Sequence[Image.Image], texts: Sequence[str], columns: int = _COLUMNS) -> Image.Image:
    """Return pictures of ``SIZE`` in rows, each above its text."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (SIZE + _GAP) - _GAP, rows * (SIZE + _TEXT)), "white")
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left, top = i % columns * (SIZE + _GAP), i // columns * (SIZE + _TEXT)
        sheet.paste(picture, (left, top))
        ImageDraw.Draw(sheet).text((left + 2, top + SIZE + 1), text, fill="black")
    return sheet
