"""``inpaint run`` with masks of other programs, masks that are none, and islands far apart."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inpaint.images import metadata
from tests.support.cli_runs import QUICK, Run

pytest_plugins = ["tests.support.cli_fixtures"]

SIZE = (128, 128)
BOX = (40, 32, 104, 96)  # of ``grid_mask``


def boxed(mode: str, back: object, front: object, size: tuple[int, int] = SIZE) -> Image.Image:
    """The fixture's mask in other colours, and perhaps another size."""
    mask = Image.new(mode, SIZE, back)  # type: ignore[arg-type]
    mask.paste(front, BOX)  # type: ignore[arg-type]
    return mask.resize(size, Image.Resampling.NEAREST)


def pixels(path: str) -> NDArray[np.int64]:
    return np.asarray(Image.open(path)).astype(np.int64)


MASKS: dict[str, tuple[Callable[[], Image.Image], list[str]]] = {
    "black box": (lambda: boxed("L", 255, 0), ["--invert-mask"]),
    "transparent box": (
        lambda: boxed("RGBA", (9, 99, 9, 255), (0, 0, 0, 0)),
        ["--mask-channel", "alpha"],
    ),
    "opaque box": (
        lambda: boxed("LA", (0, 0), (0, 255)),
        ["--mask-channel", "alpha", "--invert-mask"],
    ),
    "twice the size": (lambda: boxed("L", 0, 255, (256, 256)), ["--resize-mask"]),
    "black box, half the size": (lambda: boxed("L", 255, 0, (64, 64)), ["--resize-mask", "--invert-mask"]),
}


@pytest.mark.parametrize("name", MASKS)
def test_every_way_to_say_the_same_box_paints_the_same(name: str, paint: Run) -> None:
    """And the result remembers which, so that ``--from`` paints it again."""
    assert paint("-o", "expected.png").code == 0
    make, flags = MASKS[name]
    make().save("other.png")
    done = paint(*flags, "-o", "found.png", mask="other.png")
    assert done.code == 0, done.err
    assert np.array_equal(pixels("found.png"), pixels("expected.png"))
    assert paint("--from", "found.png", "-o", "again.png", mask="other.png").code == 0
    assert np.array_equal(pixels("again.png"), pixels("expected.png"))


def test_the_pictures_own_transparency_can_be_inverted(paint: Run, photo: Image.Image) -> None:
    """A cut-out: repaint the thing itself, and keep what is transparent."""
    seen = photo.convert("RGBA")
    seen.putalpha(boxed("L", 0, 255))
    seen.save("cutout.png")
    for flags in (["--invert-mask"], ["--invert-mask", "--mask-channel", "alpha"]):
        done = paint(*flags, "--overwrite", "-o", "found.png", image="cutout.png", mask="alpha")
        assert done.code == 0, done.err
        changed = np.abs(pixels("found.png") - np.asarray(seen)).max(2) > 0
        assert changed[64, 72]
        assert not changed[0, 0]


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_read_before_its_picture_is_extended(name: str, paint: Run) -> None:
    """The new pixels are painted in any case."""
    assert paint("--extend", "0,0,32,0", "-o", "expected.png").code == 0
    make, flags = MASKS[name]
    make().save("other.png")
    done = paint(*flags, "--extend", "0,0,32,0", "-o", "found.png", mask="other.png")
    assert done.code == 0, done.err
    assert np.array_equal(pixels("found.png"), pixels("expected.png"))


def test_a_jobs_file_can_say_it_for_each_picture(
    paint: Run, inpaint: Run, checkpoint: Callable[[int], Path]
) -> None:
    """Half of a batch may come from another program."""
    paint("-o", "expected.png")
    boxed("L", 255, 0).save("black.png")
    lines = [
        {"image": "photo.png", "mask": "mask.png", "output": "one.png"},
        {"image": "photo.png", "mask": "black.png", "output": "two.png", "invert_mask": True},
        {"image": "photo.png", "mask": "black.png", "output": "three.png", "invert_mask": "yes"},
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = inpaint("run", "--jobs", "jobs.jsonl", "-p", "a red circle", "--model", checkpoint(9), *QUICK)
    assert done.code == 3
    assert "invert_mask: must be true or false" in done.err
    for path in ("one.png", "two.png"):
        apart = np.abs(pixels(path) - pixels("expected.png"))
        assert apart.max() <= 1, "painted in one batch, so its sums are rounded otherwise (seen with AVX2)"


@pytest.fixture
def far_apart(paint: Run, photo: Image.Image) -> Run:
    """``paint`` with a large photo, and a mask with a square and, far from it, a speck of 4 pixels."""
    photo.resize((640, 640)).save("large.png")
    mask = Image.new("L", (640, 640))
    mask.paste(255, (20, 20, 60, 60))
    mask.paste(255, (600, 600, 602, 602))
    mask.save("islands.png")
    return paint


def test_islands_and_specks_are_reported(far_apart: Run) -> None:
    """Which boxes, in the dry run too; and where the stray speck is."""
    planned = far_apart("--dry-run", image="large.png", mask="islands.png")
    assert planned.err.count("the box ") == 2, "as it is painted; for a model of 1024 it would be one"
    done = far_apart("--json", "-o", "found.png", image="large.png", mask="islands.png")
    assert done.code == 0, done.err
    (answer,) = done.answers
    assert len(answer["boxes"]) == 2
    assert "a stray speck of 4 pixels at (600, 600)" in done.err
    made = metadata.read(Path("found.png").read_bytes())
    assert made is not None
    assert (made.boxes, list(made.box or ())) == (2, answer["box"])
    changed = np.abs(pixels("found.png") - pixels("large.png")).max(2) > 0
    assert changed[20:60, 20:60].mean() > 0.5
    assert changed[600:602, 600:602].any()
    assert not changed[200:400, 200:400].any()


def test_one_box_is_reported_as_before(paint: Run) -> None:
    """A script that reads the box finds no new keys."""
    (answer,) = paint("--json").answers
    assert "boxes" not in answer
    made = metadata.read(Path("photo_inpainted.png").read_bytes())
    assert made is not None
    assert made.boxes == 1
    assert b'"boxes"' not in Path("photo_inpainted.png").read_bytes()


def test_a_dry_run_names_every_box_and_doubt(paint: Run, photo: Image.Image) -> None:
    """Before an hour's batch."""
    photo.resize((4000, 1200)).save("large.png")
    mask = Image.new("L", (4000, 1200))
    for x in (20, 3900):
        mask.paste(255, (x, 20, x + 60, 80))
    mask.save("islands.png")
    done = paint("--dry-run", "--json", image="large.png", mask="islands.png")
    assert done.code == 0, done.err
    assert done.err.count("the box ") == 2
    assert len(done.answers[0]["boxes"]) == 2
    inverted = paint("--dry-run", "--invert-mask", image="large.png", mask="islands.png")
    assert "99 % of the picture would be repainted" in inverted.err
