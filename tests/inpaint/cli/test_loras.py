"""``inpaint run --lora``: named by flag, in the prompt, in a jobs file and in an earlier picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.images.metadata import read
from inpaint.model.load import Model
from tests.support.cli_runs import Run
from tests.support.lora_making import write_lora

pytest_plugins = ["tests.support.cli_fixtures"]


@pytest.fixture
def folder(tmp_path: Path, model: Model) -> Path:
    """With two LoRAs for the tiny model."""
    made = tmp_path / "styles"
    made.mkdir()
    write_lora(made, "one", model, seed=1)
    write_lora(made, "two", model, ["unet"], seed=2)
    return made


def pixels(path: str) -> np.ndarray:  # type: ignore[type-arg]
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_lora_paints_by_flag_and_by_tag(paint: Run, folder: Path) -> None:
    """The same picture, another than without it; and the picture says how it was made."""
    where = ("--loras", folder)
    assert paint("-o", "base.png", *where).code == 0
    done = paint("--lora", "one:0.5", "--lora", "two", "-o", "flags.png", "--json", *where)
    assert done.answers[0]["settings"]["loras"] == [["one", 0.5], ["two", 1.0]]
    assert paint("-p", "a red circle <lora:one:0.5><lora:two>", "-o", "tags.png", *where).code == 0
    assert np.array_equal(pixels("flags.png"), pixels("tags.png"))
    assert np.abs(pixels("flags.png").astype(int) - pixels("base.png")).max() > 8
    for path in ("flags.png", "tags.png"):
        made = read(Path(path).read_bytes())
        assert made is not None
        assert (made.settings["prompt"], made.settings["loras"]) == (
            "a red circle",
            (("one", 0.5), ("two", 1.0)),
        )


def test_a_picture_is_painted_again_with_its_loras(paint: Run, folder: Path) -> None:
    """``--from`` takes them from the picture, unless others are typed."""
    assert paint("--lora", "one:0.5", "-o", "first.png", "--loras", folder).code == 0
    assert paint("--from", "first.png", "-o", "again.png", "--loras", folder).code == 0
    assert np.array_equal(pixels("first.png"), pixels("again.png"))
    assert paint("--from", "first.png", "--lora", "two", "-o", "other.png", "--loras", folder).code == 0
    made = read(Path("other.png").read_bytes())
    assert made is not None
    assert made.settings["loras"] == (("two", 1.0),)


def test_a_jobs_file_names_loras_line_by_line(
    paint: Run, inpaint: Run, checkpoint: object, folder: Path
) -> None:
    """A night's batch in several styles loads the model once."""
    assert paint("-o", "unused.png", "--dry-run").code == 0  # writes photo.png and mask.png
    lines = [
        {"image": "photo.png", "mask": "mask.png", "loras": loras, "output": f"out{i}.png"}
        for i, loras in enumerate(("one:0.5", [{"name": "one", "scale": 0.5}], ["two"]))
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    common = ["-p", "a red circle", "--steps", "3", "--seed", "5", "--scheduler", "DDIM"]
    done = inpaint("run", "--jobs", "jobs.jsonl", "--model", checkpoint(9), "--loras", folder, *common)  # type: ignore[operator]
    assert done.code == 0, done.err
    same = np.abs(pixels("out0.png").astype(int) - pixels("out1.png")).max()
    other = np.abs(pixels("out0.png").astype(int) - pixels("out2.png")).max()
    assert same <= 1 < 8 < other


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--lora", "stile"), "--lora: there is no LoRA 'stile'; there are one, two"),
        (("-p", "<lora:stile:1>"), "--lora: there is no LoRA 'stile'; there are one, two"),
        (("--lora", "one:5"), "--lora: the scale of the LoRA one must be a number from -4 to 4, not '5'"),
        (("--lora", "../one"), "--lora: must name a LoRA of `inpaint loras list`"),
        (("-p", "<lora:one:0.5:0.7>"), "--prompt: <lora:one:0.5:0.7> must have one scale"),
    ],
)
@pytest.mark.parametrize("rehearsed", [False, True], ids=["run", "dry run"])
def test_a_wrong_lora_is_said_before_a_model_is_loaded(
    flags: tuple[str, ...], says: str, rehearsed: bool, paint: Run, folder: Path
) -> None:
    """One sentence, exit 2, nothing written."""
    done = paint(*flags, "--loras", folder, *(["--dry-run"] if rehearsed else []))
    assert done.code == 2
    assert says in done.err
    assert "loaded" not in done.err
    assert not Path("photo_inpainted.png").exists()


def test_a_lora_for_another_model_is_one_sentence(paint: Run, folder: Path, model: Model) -> None:
    """Exit 4, as for a model that is damaged; the picture is not painted without it instead."""
    good = (folder / "two.safetensors").read_bytes()
    (folder / "foreign.safetensors").write_bytes(good.replace(b"mid_block", b"mid_blokk"))
    done = paint("--lora", "foreign", "--loras", folder)
    assert done.code == 4
    assert "foreign.safetensors is not a LoRA for this model: the model has no layer mid_blokk" in done.err
    assert not Path("photo_inpainted.png").exists()
