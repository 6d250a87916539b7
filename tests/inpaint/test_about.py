"""What is said of a model to people, and of prompts that a model with few words cannot follow."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from inpaint.about import about, native_size
from inpaint.demo import demo_folder
from inpaint.engine import Engine
from inpaint.request import InpaintRequest
from inpaint.weights import import_model
from tools.train_demo.backdrop import SHAPES
from tools.train_demo.things import THINGS
from tools.train_demo.words import words

DEMO = about("demo")


def test_the_demo_model_says_what_it_paints_and_what_photographs_need() -> None:
    """A first try with "a giraffe" must not look like a broken product."""
    assert (DEMO.photographs, native_size("demo")) == (False, 128)
    for word in ("shapes", "128 px", "inpaint models fetch sdxl-inpainting"):
        assert word in DEMO.text


def test_a_real_model_paints_photographs_installed_or_not(tmp_path: Path) -> None:
    """SDXL needs no file that says so."""
    for model in ("sdxl-inpainting", tmp_path / "gone.safetensors"):
        told = about(model)
        assert (told.photographs, told.things, told.words, native_size(model)) == (True, None, None, 1024)
        assert told.text.startswith("Paints photographs")


def test_a_copy_of_the_demo_under_another_name_is_known_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the name decides what is said, but the model's files."""
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path))
    import_model(demo_folder(), "mine", tmp_path)
    assert (about("mine").photographs, native_size("mine")) == (False, 128)
    assert "128 px" in about("mine").text


def test_a_folder_may_say_it_itself(tmp_path: Path) -> None:
    """A model's maker knows best what it paints."""
    shutil.copytree(demo_folder() / "unet", tmp_path / "unet", ignore=shutil.ignore_patterns("*.safetensors"))
    own = {"text": "Paints maps.", "photographs": False, "things": ["a river"], "words": ["river", "lake"]}
    (tmp_path / "about.json").write_text(json.dumps(own))
    told = about(tmp_path)
    assert (told.text, told.things, told.words) == ("Paints maps.", ("a river",), ("river", "lake"))
    (tmp_path / "about.json").write_text("no JSON")
    assert about(tmp_path).words is None


@pytest.mark.parametrize(
    "prompt",
    [
        *("a red circle", "A BIG blue star", "background", "(red:1.2) heart, small"),
        *("A man with black sun glasses", "a slice of pizza", "an ice cream"),
    ],
)
def test_nothing_is_said_of_prompts_that_it_can_paint(prompt: str) -> None:
    """A warning at every picture would be read by no one."""
    assert DEMO.doubts("demo", prompt) == []


def test_words_that_it_does_not_know_are_named() -> None:
    """What is painted for them is arbitrary."""
    (said,) = DEMO.doubts("demo", "a giraffe sitting on the sofa, photo <lora:cute:0.5>")
    assert said.startswith(
        "prompt: the demo model does not know 'giraffe', 'sitting', 'sofa' and 1 more; it paints a circle,"
    )
    assert said.endswith("a cross, a heart and 28 more")  # all are in what the command line and the API say
    (said,) = DEMO.doubts("demo", "")
    assert said.startswith("prompt: nothing is asked for")
    assert about("sdxl-inpainting").doubts("sdxl-inpainting", "a giraffe") == []


def test_the_demo_knows_what_it_was_trained_on() -> None:
    """What is trained and not listed is never tried; what is listed and not trained disappoints."""
    assert DEMO.things is not None
    assert DEMO.things == (*(f"a {shape}" for shape in SHAPES), *(t.captions[0] for t in THINGS.values()))
    for prompt in (*DEMO.things, *(caption for thing in THINGS.values() for caption in thing.captions)):
        assert DEMO.doubts("demo", prompt) == []
    assert set(DEMO.words or ()) <= set(words())


def test_a_request_says_it_in_its_warnings(request_for: Callable[..., InpaintRequest]) -> None:
    """Every way to the engine gets the sentence with the picture."""
    with Engine.load("demo") as engine:
        warnings = engine.paint(request_for(prompt="a giraffe", num_inference_steps=2)).warnings
    assert any("does not know 'giraffe'" in each for each in warnings)
