"""A sheet of unseen scenes: the picture with its hole, the painted picture and the prompt."""

from pathlib import Path

from PIL import Image, ImageDraw

from inpaint import Engine
from tools.train_demo.paint import paint
from tools.train_demo.scenes import SIZE, make_scene

_COLUMNS, _ROWS, _GAP, _TEXT = 8, 3, 4, 14


def draw_sheet(model: Path, path: Path, *, columns: int = _COLUMNS, rows: int = _ROWS) -> None:
    """Paint ``columns × rows`` unseen scenes at the API's defaults and save them as one picture."""
    scenes = [make_scene(2 * i + 1) for i in range(columns * rows)]
    with Engine.load(model, device="cpu") as engine:
        painted = paint(engine, scenes)
    height = 2 * SIZE + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * (SIZE + _GAP), rows * height), "white")
    for i, (scene, picture) in enumerate(zip(scenes, painted, strict=True)):
        left, top = i % columns * (SIZE + _GAP), i // columns * height
        hole = Image.composite(Image.new("RGB", scene.clean.size, "white"), scene.target, scene.mask)
        sheet.paste(hole, (left, top))
        sheet.paste(picture, (left, top + SIZE))
        ImageDraw.Draw(sheet).text((left + 2, top + 2 * SIZE + 1), scene.caption, fill="black")
    sheet.save(path)
