"""``inpaint erase``: files in, files out, without a model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.support.cli_runs import Run
from tests.support.scenes import overlap, scene

pytest_plugins = ["tests.support.cli_fixtures"]


@pytest.fixture
def files(photo: Image.Image, inpaint: Run) -> Run:
    """``inpaint`` in a folder with photo.png and mask.png, which marks a square."""
    photo.save("photo.png")
    marked = Image.new("L", photo.size)
    marked.paste(255, (10, 10, 22, 22))
    marked.save("mask.png")
    return inpaint


def test_a_square_is_erased_and_everything_else_stays(files: Run) -> None:
    """The first use: one picture, one mask."""
    done = files("erase", "photo.png", "--mask", "mask.png", "--grow", "2", "--json")
    assert done.code == 0, done.err
    (answer,) = done.answers
    assert (answer["output"], answer["box"]) == ("photo_erased.png", [8, 8, 24, 24])
    before, after = np.asarray(Image.open("photo.png")), np.asarray(Image.open("photo_erased.png"))
    changed = (before != after).any(2)
    assert changed.any()
    changed[8:24, 8:24] = False
    assert not changed.any()


def test_profile_exif_and_format_stay(files: Run, photo: Image.Image) -> None:
    """A photograph goes back to where it came from."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    photo.convert("RGB").save("holiday.jpg", quality=90, icc_profile=profile, exif=exif)
    assert files("erase", "holiday.jpg", "--mask", "mask.png").code == 0
    with Image.open("holiday_erased.jpg") as erased:
        assert erased.format == "JPEG"
        assert erased.info["icc_profile"] == profile
        assert erased.getexif()[0x010F] == "A camera"


def test_options_of_the_mask_are_those_of_run(files: Run, photo: Image.Image) -> None:
    """Inverted, small, or the picture's own transparency."""
    Image.open("mask.png").point(lambda v: 255 - v).save("kept.png")
    assert files("erase", "photo.png", "--mask", "mask.png", "-o", "a.png").code == 0
    assert files("erase", "photo.png", "--mask", "kept.png", "--invert-mask", "-o", "b.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    clear = photo.convert("RGBA")
    clear.putalpha(Image.open("kept.png").point(lambda v: max(v, 1)))
    clear.save("clear.png")
    assert files("erase", "clear.png", "--mask", "alpha", "-o", "c.png").code == 0


def test_an_object_is_erased_where_it_is_selected(inpaint: Run) -> None:
    """Without a mask: a click on the object, or its box."""
    drawn = scene("red disc on grass", (300, 200))
    Image.fromarray(drawn.picture).save("disc.png")
    y, x = np.argwhere(drawn.truth).mean(0)
    where = ("--select", f"{x:.0f},{y:.0f}", "--select-with", "snap", "--save-mask", "found.png")
    done = inpaint("erase", "disc.png", *where, "--json")
    assert done.code == 0, done.err
    (answer,) = done.answers
    assert answer["mask"] == "found.png"
    assert "disc.png: selected the box " in done.err
    assert overlap(np.asarray(Image.open("found.png")), drawn.truth) > 0.9
    assert inpaint("erase", "disc.png", "--mask", "found.png", "-o", "by_mask.png").code == 0
    assert Path("by_mask.png").read_bytes() == Path("disc_erased.png").read_bytes()


def test_a_folder_is_erased_and_a_broken_picture_is_reported(files: Run, photo: Image.Image) -> None:
    """Exit code 3, and every other picture is done; results and masks in the folder are left out."""
    Path("in").mkdir()
    for name in ("a", "b"):
        photo.save(f"in/{name}.png")
        Image.open("mask.png").save(f"in/{name}_mask.png")
    photo.save("in/old_erased.png")
    Path("in/broken.png").write_bytes(b"no picture")
    Image.open("mask.png").save("in/broken_mask.png")
    done = files("erase", "in", "-o", "out")
    assert done.code == 3, done.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png"]
    assert "error: in/broken.png: " in done.err
    assert "2 of 3 pictures done" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["photo.png"],
            "--mask: give --mask PICTURE (white = erase) or --select X,Y, or put photo_mask.png next to it",
        ),
        (["photo.png", "--mask", "mask.png", "--select", "3,4"], "--mask: give either --mask or --select,"),
        (
            ["photo.png", "--mask", "mask.png", "--grow", "257"],
            "--grow: must be a whole number from 0 to 256",
        ),
        (["photo.png", "--mask", "mask.png", "--mask-channel", "x"], "--mask-channel: must be one of"),
        (["photo.png", "--mask", "mask.png", "-o", "photo.png"], "--output: photo.png is an input"),
        (["photo.png", "--mask", "mask.png", "-o", "x.gif"], "--output: must end with"),
        (["lost.png", "--mask", "mask.png"], "image: there is no file lost.png"),
        (["--grow", "3"], "image: name a picture or a folder"),
    ],
)
def test_mistakes_are_one_sentence(files: Run, arguments: list[str], says: str) -> None:
    """Exit code 2, and the flag by its name."""
    done = files("erase", *arguments)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"error: {says}"), done.err


def test_an_existing_file_is_replaced_only_if_asked(files: Run) -> None:
    """As every command that writes."""
    assert files("erase", "photo.png", "--mask", "mask.png").code == 0
    refused = files("erase", "photo.png", "--mask", "mask.png")
    assert (refused.code, "add --overwrite" in refused.err) == (2, True)
    assert files("erase", "photo.png", "--mask", "mask.png", "--overwrite").code == 0


def test_it_runs_without_torch(files: Run) -> None:
    """It starts within a second, and where torch is broken."""
    assert files("--version").code == 0
    program = (
        "import sys; sys.modules['torch'] = None; from inpaint.cli import main; "
        "main(['erase', 'photo.png', '--mask', 'mask.png', '-o', 'x.png'])"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert Path("x.png").exists()
