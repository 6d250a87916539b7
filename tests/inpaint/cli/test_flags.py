"""Errors of the command line name what was typed: the flag, or the line and the key of a jobs file."""

import json
from pathlib import Path

import pytest
from typer.main import get_command

from inpaint.cli.app import app
from inpaint.cli.flags import called_by, flags_of
from inpaint.request import SETTINGS
from tests.support.cli_runs import Run

pytest_plugins = ["tests.support.cli_fixtures"]

# Each field that an option sets: a wrong value, and what the error begins with.
WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "prompt": (("-p", "((((((((((((((((((((((x))))))))))))))))))))))"), "--prompt: brackets may be nested"),
    "negative_prompt": (("--negative-prompt", "(a:999)"), "--negative-prompt: the weight of 'a'"),
    "samples": (("--samples", "0"), "--samples: must be a whole number from 1 to 64, not 0"),
    "scheduler": (("--scheduler", "Eular"), "--scheduler: unknown name 'Eular'"),
    "num_inference_steps": (("--steps", "0"), "--steps: must be a whole number from 1 to 150, not 0"),
    "guidance_scale": (
        ("--guidance-scale", "-1"),
        "--guidance-scale: must be a number from 0 to 50, not -1.0",
    ),
    "seed": (("--seed", "-2"), "--seed: must be a whole number"),
    "strength": (("--strength", "nan"), "--strength: must be a number above 0, at most 1, not nan"),
    "area": (("--area", "box"), "--area: must be one of auto, whole"),
    "padding": (("--padding", "1025"), "--padding: must be a whole number from 0 to 1024"),
    "grow": (("--grow", "-1"), "--grow: must be a whole number from 0 to 256"),
    "feather": (("--feather", "257"), "--feather: must be a whole number from 0 to 256"),
    "lengths": (("--lengths", "cm"), "--lengths: must be one of box, picture"),
    "fill": (("--fill", "black"), "--fill: must be one of original"),
    "guidance_interval": (("--guidance-interval", "0.8,0.2"), "--guidance-interval: must be two rising"),
    "pace": (("--pace", "fast"), "--pace: must be one of exact, near"),
    "loras": (("--lora", "../x"), "--lora: must name a LoRA"),
    "guidance_rescale": (("--guidance-rescale", "2"), "--guidance-rescale: must be a number from 0 to 1"),
    "mask_channel": (("--mask-channel", "red"), "--mask-channel: must be one of luminance, alpha"),
    "mask": (("--mask", "lost.png"), "--mask: there is no file lost.png"),
    "output": (("-o", "out.gif"), "--output: must end with .png"),
    "extend": (("--extend", "1,2,3"), "--extend: must be pixels or percentages"),
    "select": (("--select", "320"), "--select: must be X,Y in pixels"),
    "select_not": (("--select-not", "3,-4"), "--select-not: must be X,Y in pixels"),
    "select_box": (("--select-box", "1,2,3"), "--select-box: must be L,T,R,B in pixels"),
    "select_with": (("--select-with", "snap"), "--select-with: add what to select"),
    "save_mask": (("--save-mask", "kept.png"), "--save-mask: add what to select"),
    "from": (("--from", "photo.png"), "--from: photo.png does not say how it was made"),
    "report": (("--report", "photo.png"), "--report: photo.png is not the report of an earlier run"),
    "device": (("--device", "gpu"), "--device: must be auto, cpu, cuda or cuda:N"),
    "dtype": (("--dtype", "int8"), "--dtype: must be auto or one of"),
    "memory": (("--memory", "tiny"), "--memory: must be auto or one of"),
    "precision": (("--precision", "int4"), "--precision: must be one of"),
    "without": (("--without", "speed"), "--without: must be one of"),
    "model": (
        ("--model", "~no such user/x"),
        "--model: '~no such user/x' begins with the home of an unknown user",
    ),
}
SWITCHES = {"color_match", "soft", "resize_mask", "invert_mask"}  # click gives them no wrong value


@pytest.mark.parametrize("field", WRONG)
def test_an_error_names_the_flag(field: str, paint: Run) -> None:
    """Who typed ``--steps`` does not know ``num_inference_steps``."""
    flags, says = WRONG[field]
    done = paint(*flags)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"error: {says}")


def test_every_field_is_in_the_table() -> None:
    """A new field needs a flag that errors can name."""
    flags = flags_of(called_by(["run"]))
    assert set(SETTINGS) - SWITCHES <= WRONG.keys()
    for field in (*SETTINGS, *WRONG):
        spelled = flags[field]
        assert spelled.startswith("--"), field
        assert spelled in {name for parameter in called_by(["run"]).params for name in parameter.opts}


def test_the_flag_of_a_field_is_in_its_help(paint: Run, inpaint: Run) -> None:
    """The name in the error can be looked up."""
    shown = inpaint("run", "--help").out
    for flag in set(flags_of(called_by(["run"])).values()):
        assert flag in shown


def test_of_several_pictures_each_error_names_the_flag(paint: Run, inpaint: Run) -> None:
    """In a batch too."""
    assert paint("--dry-run").code == 0
    Path("other.png").write_bytes(Path("photo.png").read_bytes())
    done = inpaint("run", "photo.png", "other.png", "--mask", "lost.png", "-p", "x", "--dry-run")
    assert done.code == 3
    assert "error: photo.png: --mask: there is no file lost.png" in done.err


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_inference_steps", 0, "num_inference_steps: must be a whole number from 1 to 150, not 0"),
        ("guidance_scale", -1, "guidance_scale: must be"),
        ("mask", "lost.png", "mask: there is no file lost.png"),
        ("output", "x.gif", "output: must end with"),
        ("loras", "../x", "loras: must name a LoRA"),
    ],
)
def test_a_jobs_file_is_told_its_line_and_its_key(
    key: str, value: object, says: str, paint: Run, inpaint: Run
) -> None:
    """A program wrote the file, with keys."""
    assert paint("--dry-run").code == 0
    good = {"image": "photo.png", "mask": "mask.png", "prompt": "x"}
    Path("jobs.jsonl").write_text("\n".join(json.dumps(line) for line in (good, {**good, key: value})))
    done = inpaint("run", "--jobs", "jobs.jsonl", "--dry-run")
    assert done.code == 3
    assert f"error: jobs.jsonl line 2 (photo.png): {says}" in done.err


def test_a_wrong_flag_beside_a_jobs_file_is_the_flags_error(paint: Run, inpaint: Run) -> None:
    """It is no line's fault, so it is said once and before the first picture."""
    assert paint("--dry-run").code == 0
    Path("jobs.jsonl").write_text(
        json.dumps({"image": "photo.png", "mask": "mask.png", "prompt": "x"}) + "\n" * 3
    )
    done = inpaint("run", "--jobs", "jobs.jsonl", "--steps", "0")
    assert (done.code, done.err.count("error")) == (2, 1)
    assert done.err.startswith("error: --steps: must be a whole number")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("loras pin stile", "error: NAME: there is no LoRA 'stile'"),
        ("loras verify stile", "error: NAME: there is no LoRA 'stile'"),
        ("serve --port 99999", "error: --port: "),
        ("info lost.png", "error: image: there is no file lost.png"),
        ("models merge demo demo --base demo --alpha nan --name m", "error: --alpha: must be a number"),
    ],
)
def test_other_commands_name_their_own(words: str, says: str, inpaint: Run) -> None:
    """The flags are those of the command that was called."""
    done = inpaint(*words.split())
    assert done.code == 2
    assert done.err.startswith(says)


@pytest.mark.parametrize(
    "words", ["", "run", "run x.png --steps", "models list --json", "loras", "serve --port 1", "top", "no"]
)
def test_the_called_command_is_found(words: str) -> None:
    """By the words that name it, whatever stands between."""
    command = called_by(words.split())
    named = [word for word in words.split() if word in ("run", "models", "list", "loras", "serve", "top")]
    assert command.name == (named[-1] if named else get_command(app).name)
