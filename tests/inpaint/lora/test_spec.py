"""Notations of LoRAs in a request: all mean the same, and a mistake gets one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from inpaint import InpaintRequest, RequestError
from inpaint.lora.spec import MAX_LORAS, LoraUse, combine, parse_loras, tags
from inpaint.request import check_settings

Make = Callable[..., InpaintRequest]
BOTH = (LoraUse("other", 1.0), LoraUse("style", 0.8))


@pytest.mark.parametrize(
    "given",
    [
        "style:0.8,other",
        " other , style:0.8 ",
        ["style:0.8", "other"],
        [{"name": "style", "scale": 0.8}, {"name": "other"}],
        [{"name": "style", "scale": "0.8"}, {"name": "other"}],
        [["style", 0.8], ["other", 1]],
        json.loads(json.dumps(BOTH)),
        BOTH,
    ],
    ids=repr,
)
def test_every_notation_means_the_same(given: object) -> None:
    """A form sends text, JSON objects, the command line one LoRA per option, worker processes pairs."""
    assert parse_loras(given) == BOTH


def test_a_prompts_tags_are_taken_out_and_used(request_for: Make) -> None:
    """A1111's users paste prompts with tags; the text encoders must not read file names."""
    request = request_for(prompt="a red circle <lora:style:0.8> on sand<lyco:other>")
    assert request.prompt == "a red circle  on sand"
    assert request.loras == BOTH


@pytest.mark.parametrize(
    ("prompt", "loras", "expected"),
    [
        ("<lora:a:0.5><lora:a:0.25>", (), (("a", 0.75),)),
        ("<lora:a:0.5>", "a:2,b", (("a", 0.5), ("b", 1.0))),
        ("x", "a:1,a:-0.5", (("a", 0.5),)),
        ("<lora:b><lora:a:-1>", (), (("a", -1.0), ("b", 1.0))),
    ],
)
def test_tags_add_up_and_win_over_the_field(
    prompt: str, loras: object, expected: tuple[LoraUse, ...]
) -> None:
    """In A1111 too, the default LoRA is left out if the prompt names it."""
    assert combine(prompt, loras)[1] == expected


def test_a_request_made_from_a_request_is_the_same(request_for: Make) -> None:
    """Sent to a worker or given another seed, a request neither loses nor doubles its LoRAs."""
    first = request_for(prompt="<lora:style:0.8>circle", loras=["other"])
    again = request_for(prompt=first.prompt, loras=json.loads(json.dumps(first.loras)))
    for other in (again, replace(first, seed=9)):
        assert (other.prompt, other.loras) == ("circle", BOTH)


def test_the_tags_of_loras_stand_for_them() -> None:
    """Tags are written into a picture's metadata and read back from it."""
    assert combine(f"a circle{tags(BOTH)}", ()) == ("a circle", BOTH)


@pytest.mark.parametrize("scale", [0.1, 0.123456789, 3.999999999, -0.000000001, 1 / 3])
@pytest.mark.parametrize("times", [1, 3])
def test_a_scale_is_read_back_as_it_was_used(scale: float, times: int) -> None:
    """Three tags of 0.8 were 2.4000000000000004 and were written as 2.4 (found by fuzzing)."""
    if abs(scale * times) <= 4:
        uses = parse_loras([["a", scale]] * times)
        assert combine(f"x{tags(uses)}", ())[1] == uses


def test_other_angle_brackets_are_the_prompts_own() -> None:
    """``<3`` and HTML are words."""
    prompt = "I <3 <b>LoRA</b>, <Lora:x:1>"
    assert combine(prompt, ()) == (prompt, ())


WRONG: dict[str, tuple[object, str]] = {
    "a path": ("../secret", "loras: must name a LoRA of .*'../secret'"),
    "a drive": ([{"name": "C:style"}], "must name a LoRA"),
    "a hidden file": (".pin", "must name a LoRA"),
    "no name": (":0.5", "must name a LoRA"),
    "no text": ([[5, 0.5]], "must name a LoRA"),
    "a control character": (["a\nb"], "must name a LoRA"),
    "a long name": ("x" * 201, "must name a LoRA"),
    "too strong": ("style:4.5", "scale of the LoRA style must be a number from -4 to 4, not '4.5'"),
    "NaN": ("style:nan", "must be a number from -4 to 4"),
    "a word": ("style:much", "not 'much'"),
    "a boolean": ([{"name": "style", "scale": True}], "not True"),
    "too strong together": ("style:3,style:3", "not 6.0"),
    "a number": (7, "must be a list of names and scales, not int"),
    "a list of numbers": ([7], "must be items such as style:0.8, not int"),
    "an unknown key": ([{"name": "style", "weight": 1}], "not 'weight'"),
    "too many": ([f"style{i}" for i in range(MAX_LORAS + 1)], "must be at most 8 LoRAs"),
    "eight million": ("a," * 8_000_000, "must name a LoRA|must be at most 8 LoRAs"),
    "too many times one": ("a," * 9, "must be at most 8 LoRAs"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_reported_before_a_picture_is_read(what: str) -> None:
    """The error is one sentence with the field's name."""
    given, says = WRONG[what]
    with pytest.raises(RequestError, match=says) as refused:
        check_settings({"loras": given})
    assert refused.value.field == "loras"
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "tag",
    ["<lora:>", "<lora:style:>", "<lora:style:0.8:0.5>", "<lora:../b:1>", "<lora:/b:1>", "<lora:a//b:1>"],
)
def test_a_tag_that_cannot_be_read_is_refused(tag: str, request_for: Make) -> None:
    """Otherwise it would be painted without the style, or with the tag as words."""
    with pytest.raises(RequestError) as refused:
        request_for(prompt=f"a circle {tag}")
    assert refused.value.field == "prompt"
