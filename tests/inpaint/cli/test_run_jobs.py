"""``--jobs``: a line a picture, each with its own settings; ``--from``: an earlier picture's settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.cli_runs import QUICK, Done, Run

pytest_plugins = ["tests.support.cli_fixtures"]


@pytest.fixture
def run(inpaint: Run, checkpoint: Callable[[int], Path], photo: Image.Image, grid_mask: Image.Image) -> Run:
    """``inpaint run ARGUMENTS`` on the tiny model, where photo.png and mask.png are."""
    photo.save("photo.png")
    grid_mask.save("mask.png")

    def run(*arguments: object, stdin: bytes = b"") -> Done:
        return inpaint("run", "--model", checkpoint(9), *QUICK[:4], "--json", *arguments, stdin=stdin)

    return run


def write(*lines: object) -> None:
    """``jobs.jsonl``; what is no text is written as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path("jobs.jsonl").write_text("\n".join(texts) + "\n", "utf-8")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_each_line_has_its_own_settings_over_the_options(run: Run, grid_mask: Image.Image) -> None:
    """A program writes down what it wants; what it leaves out are the options, then the defaults."""
    grid_mask.save("photo_mask.png")
    write(
        {"image": "photo.png", "output": "one.png", "seed": 3, "prompt": "a blue star"},
        {"image": "photo.png", "output": "two.webp", "strength": 0.5, "guidance_interval": [0, 0.5]},
        {"image": "photo.png", "output": "three/", "extend": "0,0,64,0", "mask": "mask.png"},
    )
    done = run("--jobs", "jobs.jsonl", "-p", "a red circle", "--seed", "9")
    assert done.code == 0, done.err
    one, two, three = done.answers
    assert (one["settings"]["prompt"], one["seeds"]) == ("a blue star", [3])
    assert (two["settings"]["prompt"], two["seeds"], two["settings"]["strength"]) == (
        "a red circle",
        [9],
        0.5,
    )
    assert (one["mask"], three["mask"]) == ("photo_mask.png", "mask.png")
    assert three["width"] == 192
    assert {p.name for p in Path().rglob("*.*") if p.suffix in (".png", ".webp")} >= {"one.png", "two.webp"}
    assert pixels("three/photo.png").shape == (128, 192, 3)


WRONG_LINES: dict[str, tuple[object, str]] = {
    "no JSON": ("{'image': 'photo.png'}", "jobs: the line is not JSON; write one object in UTF-8"),
    "no object": (["photo.png"], "jobs: the line must be one JSON object"),
    "nested too deep": ("[" * 100_000, "jobs: the line is not JSON"),
    "an unknown key": (
        {"image": "photo.png", "steps": 5},
        "jobs: there is no key 'steps'; the keys are image, mask",
    ),
    "no image": ({"prompt": "x"}, "image: is missing"),
    "an image that is no text": ({"image": 7}, "image: must be the path of a file, not 7"),
    "a mask that is no text": ({"image": "photo.png", "mask": ["m"]}, "mask: must be the path of a file"),
    "a missing picture": ({"image": "lost.png"}, "image: there is no file lost.png"),
    "a wrong setting": ({"image": "photo.png", "num_inference_steps": 0}, "num_inference_steps: must be"),
    "a prompt that is no text": ({"image": "photo.png", "prompt": 5}, "prompt: must be text, not int"),
    "an odd output": ({"image": "photo.png", "output": "{x}.png"}, "output: may hold {stem}"),
    "an input as output": (
        {"image": "photo.png", "output": "mask.png"},
        "output: mask.png is an input of this run",
    ),
    "a wrong extend": ({"image": "photo.png", "extend": [1, 2]}, "extend: must be pixels or percentages"),
}


@pytest.mark.parametrize("wrong", WRONG_LINES)
def test_a_wrong_line_is_one_failure_that_names_its_number(wrong: str, run: Run) -> None:
    """Line 2 of 10 000 is at fault, and the other 9 999 are painted."""
    line, sentence = WRONG_LINES[wrong]
    write({"image": "photo.png", "output": "first.png"}, line, {"image": "photo.png", "output": "third.png"})
    done = run("--jobs", "jobs.jsonl", "-p", "x", "--mask", "mask.png", "--dry-run", "--overwrite")
    assert done.code == 3
    (error,) = [text for text in done.err.splitlines() if "error: " in text]
    assert "error: jobs.jsonl line 2" in error
    assert sentence in error
    assert [answer["state"] for answer in done.answers] == ["planned", "failed", "planned"]
    assert "Traceback" not in done.err


def test_a_line_without_a_prompt_says_so(run: Run) -> None:
    """Where -p gives none for all of them either."""
    write({"image": "photo.png"}, {"image": "photo.png", "prompt": "x", "mask": "mask.png"})
    done = run("--jobs", "jobs.jsonl", "--dry-run")
    assert done.code == 3
    assert "jobs.jsonl line 1: prompt: is missing" in done.err


def test_jobs_come_from_stdin_too_and_blank_lines_do_not_count(run: Run) -> None:
    """A program pipes them in; an editor on Windows puts a mark before them."""
    job = {"image": "photo.png", "mask": "mask.png", "prompt": "ein Hügel"}
    text = b"\xef\xbb\xbf\r\n" + json.dumps(job, ensure_ascii=False).encode() + b"\r\n\r\n"
    done = run("--jobs", "-", "--dry-run", stdin=text)
    assert done.code == 0, done.err
    assert done.answers[0]["task"] == "- line 2 (photo.png)"
    assert run("--jobs", "-", "--dry-run", stdin=b"\n").code == 2
    assert "jobs: lost.jsonl cannot be read: No such file" in run("--jobs", "lost.jsonl").err


def test_jobs_and_pictures_are_not_mixed(run: Run) -> None:
    """Which of them would the output be for?"""
    write({"image": "photo.png"})
    done = run("photo.png", "--jobs", "jobs.jsonl", "-p", "x")
    assert done.code == 2
    assert "error: image: give pictures or --jobs FILE, not both" in done.err


def test_resume_skips_the_lines_that_are_done(run: Run) -> None:
    """Only the line that changed is painted again, to the name that it now has."""
    lines: list[dict[str, Any]] = [{"image": "photo.png", "output": f"{n}.png", "seed": n} for n in range(3)]
    flags = ["--jobs", "jobs.jsonl", "-p", "x", "--mask", "mask.png", "--resume"]
    write(*lines)
    assert run(*flags).code == 0
    lines[1] = {"image": "photo.png", "output": "1b.png", "seed": 10}
    write(*lines)
    done = run(*flags)
    assert [answer["state"] for answer in done.answers] == ["skipped", "done", "skipped"]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_from_paints_an_earlier_picture_again(ending: str, run: Run) -> None:
    """The settings of a result from last month, without having written them down; the seed included."""
    flags = ["--mask", "mask.png", "--grow", "3", "--fill", "telea", "--guidance-interval", "0,0.6"]
    prompt = "a (red:1.2) circle, ünïcode"
    assert run("photo.png", "-p", prompt, *flags, "-o", f"one.{ending}").code == 0
    again = run("photo.png", "--from", f"one.{ending}", "--mask", "mask.png", "-o", f"again.{ending}")
    assert again.code == 0, again.err
    assert np.array_equal(pixels(f"again.{ending}"), pixels(f"one.{ending}"))
    assert again.answers[0]["settings"]["prompt"] == prompt


def test_from_a_later_sample_paints_that_one_alone(run: Run) -> None:
    """The third of four was the good one."""
    flags = ["--mask", "mask.png", "--samples", "3", "-o", "four.png"]
    assert run("photo.png", "-p", "x", *flags).code == 0
    assert run("photo.png", "--from", "four_3.png", "--mask", "mask.png", "-o", "again.png").code == 0
    apart = pixels("again.png").astype(int) - pixels("four_3.png")
    assert np.abs(apart).max() <= 1, "painted alone, so its sums are rounded otherwise"
    assert np.abs(apart).mean() < 0.01


def test_options_win_over_from(run: Run) -> None:
    """The same again, but three other ones."""
    assert run("photo.png", "--mask", "mask.png", "-p", "x", "--strength", "0.7", "-o", "one.png").code == 0
    done = run("photo.png", "--mask", "mask.png", "--from", "one.png", "--seed", "11", "--samples", "3")
    assert done.code == 0, done.err
    assert done.answers[0]["seeds"] == [11, 12, 13]
    assert done.answers[0]["settings"]["strength"] == 0.7
    assert done.answers[0]["settings"]["prompt"] == "x"


def test_from_takes_a_models_name_and_no_path(inpaint: Run, run: Run) -> None:
    """The picture may be a stranger's: what it names must be one of ours."""
    assert run("photo.png", "--mask", "mask.png", "-p", "x", "-o", "one.png").code == 0
    done = inpaint("run", "photo.png", "--mask", "mask.png", "--from", "one.png", "--dry-run")
    assert done.code == 4
    assert (
        "one.png was painted with 'tiny-9', which is not in `inpaint models list`; choose one with --model"
        in done.err
    )


NOT_FROM = {
    "--from photo.png": "error: --from: photo.png does not say how it was made",
    "--from lost.png": "error: --from: there is no file lost.png",
}


@pytest.mark.parametrize("flags", NOT_FROM)
def test_from_says_what_is_missing(flags: str, run: Run) -> None:
    """In one sentence."""
    done = run("photo.png", "--mask", "mask.png", *flags.split())
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(NOT_FROM[flags])


def test_from_alone_asks_for_a_picture(run: Run) -> None:
    """What it holds are settings; which picture to paint is still to be said. Without it, so is a prompt."""
    assert run("photo.png", "--mask", "mask.png", "-p", "x", "-o", "one.png").code == 0
    done = run("--from", "one.png")
    assert (done.code, done.err[:58]) == (2, "error: image: name a picture, a folder or --jobs FILE, for")
    done = run("photo.png", "--mask", "mask.png")
    assert (done.code, done.err) == (2, "error: --prompt: say what to paint, with -p TEXT\n")
