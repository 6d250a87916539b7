"""``inpaint run --select``: the mask is made of the picture, by the edges in it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.cli_runs import QUICK, Done, Run
from tests.support.scenes import overlap, scene

pytest_plugins = ["tests.support.cli_fixtures"]

DRAWN = scene("red disc on grass", (300, 200))
Y, X = np.argwhere(DRAWN.truth).mean(0)
CENTRE = f"{X:.0f},{Y:.0f}"


@pytest.fixture
def select(inpaint: Run, checkpoint: Callable[[int], Path]) -> Run:
    """``inpaint run disc.png …`` on the tiny model, with a prompt and without a mask."""
    Image.fromarray(DRAWN.picture).save("disc.png")

    def run(*arguments: object) -> Done:
        return inpaint("run", "disc.png", "-p", "a ball", "--model", checkpoint(9), *QUICK, *arguments)

    return run


def kept(path: str = "found.png") -> float:
    """How well a mask that was kept fits the disc."""
    return overlap(np.asarray(Image.open(path)), DRAWN.truth)


@pytest.mark.parametrize(
    "where",
    [
        ("--select", CENTRE),
        ("--select", CENTRE, "--select", f"{X + 5:.0f},{Y:.0f}", "--select-not", "3,3"),
        ("--select-box", ",".join(map(str, Image.fromarray(DRAWN.truth).getbbox() or ()))),
        ("--select-subject",),
    ],
)
def test_the_object_is_repainted_and_its_mask_kept(select: Run, where: tuple[str, ...]) -> None:
    """A saved mask gives the same picture as the selection that made it."""
    done = select(*where, "--save-mask", "found.png", "--json", "--seed", 3)
    assert done.code == 0, done.err
    assert "disc.png: selected the box " in done.err
    assert done.answers[0]["mask"] == "found.png"
    assert kept() > 0.9
    again = select("--mask", "found.png", "--seed", 3, "-o", "again.png")
    assert again.code == 0, again.err
    painted = [np.asarray(Image.open(name)) for name in ("disc_inpainted.png", "again.png")]
    assert (painted[0] == painted[1]).all()


def test_a_dry_run_shows_the_box_and_keeps_nothing(select: Run) -> None:
    """To try a place in a second."""
    done = select("--select", CENTRE, "--save-mask", "found.png", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert "selected the box " in done.err
    assert "(snap, " in done.err
    assert done.answers[0]["state"] == "planned"
    assert not Path("found.png").exists()


def test_the_background_of_several_pictures_is_selected_in_each(select: Run, inpaint: Run) -> None:
    """A place means one picture; the subject is found in each."""
    assert select("--select-subject", "--dry-run").code == 0
    Path("in").mkdir()
    for name in "ab":
        Image.fromarray(DRAWN.picture).save(f"in/{name}.png")
    done = inpaint("run", "in", "-p", "the sea", "--select-background", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert [answer["mask"] for answer in done.answers] == ["selection", "selection"]
    refused = inpaint("run", "in", "-p", "the sea", "--select", CENTRE)
    assert refused.code == 2
    assert refused.err.startswith("error: --select: means a place in one picture")


def test_a_run_is_resumed_only_with_the_same_selection(select: Run) -> None:
    """Another place is another mask, so the result is not the one that was asked for."""
    report = ("--report", "r.jsonl", "--seed", 3)
    assert select("--select", CENTRE, *report).code == 0
    assert json.loads(Path("r.jsonl").read_text("utf-8"))["mask"] == "selection"
    same = select("--select", CENTRE, *report, "--resume")
    assert (same.code, "painted already" in same.err) == (0, True)
    other = select("--select-background", *report, "--resume")
    assert other.code == 2, other.err


def test_the_same_mask_may_be_kept_again_and_another_file_stays(select: Run) -> None:
    """The same command with another seed needs no --overwrite for its mask."""
    where = ("--select", CENTRE, "--save-mask", "found.png")
    assert select(*where, "--seed", 1, "-o", "a.png").code == 0
    assert select(*where, "--seed", 2, "-o", "b.png").code == 0
    Path("found.png").write_bytes(b"another thing")
    refused = select(*where, "-o", "c.png")
    assert refused.code == 2
    assert refused.err.splitlines()[-1].startswith("error: --save-mask: found.png exists already; add --over")
    assert Path("found.png").read_bytes() == b"another thing"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--select", "300,10"], "--select: (300, 10) is outside the picture of 300×200"),
        (["--select", CENTRE, "--select-not", "1,200"], "--select-not: (1, 200) is outside the picture"),
        (["--select-box", "10,10,301,50"], "--select-box: must be left, top, right, bottom in the picture"),
        (["--select", "a,b"], "--select: must be X,Y in pixels"),
        (["--select", CENTRE, "--mask", "x.png"], "--mask: give either --mask or --select, not both"),
        (["--select-subject", "--mask", "x.png"], "--mask: give either --mask or --select-subject, not both"),
        (["--select-not", "3,3"], "--select-not: takes away from --select X,Y or --select-box"),
        (
            ["--select-subject", "--select", CENTRE],
            "--select-subject: give either --select-subject or --select, not both",
        ),
        (
            ["--select-subject", "--select-background"],
            "--select-subject: give either --select-subject or --select-background, not both",
        ),
        (["--select", CENTRE, "--select-with", "magic"], "--select-with: must be one of auto, snap, sam"),
        (
            ["--select", CENTRE, "--select-with", "sam"],
            "--select-with: sam is not installed; run: inpaint models fetch sam2-tiny",
        ),
        (["--select", CENTRE, "--save-mask", "m.jpg"], "--save-mask: must end with .png, not 'm.jpg'"),
        (["--select", CENTRE, "--save-mask", "disc.png"], "--save-mask: disc.png is an input of this run"),
        (
            ["--select", CENTRE, "--save-mask", "o.png", "-o", "./o.png"],
            "--save-mask: o.png is the name of the result",
        ),
    ],
)
def test_mistakes_are_one_sentence(select: Run, arguments: list[str], says: str) -> None:
    """Exit code 2, and the flag by its name."""
    done = select(*arguments)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"error: {says}"), done.err


def test_a_jobs_file_names_its_own_masks(select: Run, inpaint: Run) -> None:
    """A place would mean another thing in each of its pictures."""
    assert select("--select", CENTRE, "--dry-run").code == 0
    done = inpaint("run", "--jobs", "jobs.jsonl", "--select-subject", "-p", "x")
    assert done.code == 2
    assert done.err == "error: --jobs: its lines name their own masks; leave --select-subject out\n"
