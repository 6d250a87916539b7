"""The parameters text: A1111 and its relatives read ours, and we read theirs."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inpaint.images import infotext
from inpaint.images.exif import EXIF_IFD, USER_COMMENT
from inpaint.images.foreign_metadata.found import settings_of
from inpaint.images.metadata import read, write
from inpaint.schedulers import SCHEDULERS
from tests.support.examples import examples
from tests.support.metadata_samples import BLANK, HARD, a1111_text, chunks, file_of, made, plain

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")


def upstream(text: str) -> dict[str, str]:
    """Parse a text by the rules of A1111's ``parse_generation_parameters``, without options and fallbacks."""
    pair = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    assert len(pair.findall(last)) >= 3, "upstream would take the line for a part of the prompt"
    texts = {"Prompt": "", "Negative prompt": ""}
    into = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            into, line = "Negative prompt", line[16:].strip()
        texts[into] += ("\n" if texts[into] else "") + line
    values = {key: json.loads(v) if v[:1] == v[-1:] == '"' else v for key, v in pair.findall(last)}
    return texts | values


def settings_in(text: str) -> dict[str, object]:
    """Read a text."""
    found = infotext.read(text)
    assert found is not None
    return settings_of(found)[0]


@pytest.mark.parametrize("name", FORMATS)
def test_a1111_reads_it_where_it_looks(name: str) -> None:
    """A user of A1111, Forge or a picture manager sees our settings there."""
    was = made(seed=7, strength=0.75, guidance_scale=7.0, fill="noise", loras="style:0.5")
    found = upstream(a1111_text(write(BLANK, plain(name), replace(was, model='my, "best": model'))))
    assert found["Prompt"] == HARD + " <lora:style:0.5>"
    assert found["Negative prompt"] == "bad,\nugly"
    wanted = {
        "Steps": "25", "Sampler": "DPM2", "Schedule type": "Karras", "CFG scale": "7", "Seed": "7",
        "Size": "48x32", "Denoising strength": "0.75", "Mask blur": "6", "Inpaint area": "Only masked",
        "Masked area padding": "32", "Masked content": "latent noise", "Model": 'my, "best": model',
    }  # fmt: skip
    assert {key: found.get(key) for key in wanted} == wanted


def test_another_programs_text_becomes_a_valid_request() -> None:
    """From a picture of A1111 that is dropped on the page, known settings are taken, within our ranges."""
    text = (
        "a girl\nin a garden <lora:style:0.6>\nNegative prompt: ugly,\nblurry\nSteps: 500, "
        "Sampler: DPM++ 2M Karras, "
        'CFG scale: 99, Seed: 965400086, Size: 512x512, Model hash: 45dee52b, Model: "a, b", '
        'Denoising strength: 0, Mask blur: 4, Inpaint area: Whole picture, Lora hashes: "x: 1, y: 2"'
    )
    found = read(file_of(BLANK, "PNG", pnginfo=chunks({"parameters": text})))
    assert found is not None
    assert found.model == "a, b"
    assert found.settings == {
        "prompt": "a girl\nin a garden", "negative_prompt": "ugly,\nblurry", "loras": (("style", 0.6),),
        "num_inference_steps": 150, "scheduler": "DPM Multi Karras", "guidance_scale": 50.0,
        "seed": 965400086, "feather": 10, "area": "whole",
    }  # fmt: skip
    assert found.settings_hash is None
    assert [each.field for each in found.left_out] == ["num_inference_steps", "guidance_scale", "strength"]


def test_every_scheduler_has_a_name_that_leads_back_to_it() -> None:
    """A1111's name where it has another, else ours; two schedulers may not share one."""
    for name in SCHEDULERS:
        text = infotext.write({"prompt": "x", "scheduler": name, "num_inference_steps": 9}, (8, 8), None, "1")
        assert settings_in(text)["scheduler"] == name


def test_a_near_picture_says_so_and_is_painted_again_as_it_was() -> None:
    """Else a picture's own settings would paint another one."""
    settings = {
        "prompt": "x",
        "scheduler": "DDIM",
        "num_inference_steps": 25,
        "strength": 0.9,
        "pace": "near",
    }
    text = infotext.write(settings, (8, 8), None, "1")
    assert "Pace: near (13 of 22 UNet calls)" in text
    assert settings_in(text)["pace"] == "near"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("DPM++ 2M Karras", "DPM Multi Karras"),
        ("DPM++ 2M, Schedule type: Karras", "DPM Multi Karras"),
        ("DPM++ 2M, Schedule type: Automatic", "DPM Multi Karras"),
        ("DPM++ 2M, Schedule type: Uniform", "DPM Multi"),
        ("DPM++ 2M", "DPM Multi"),
        ("DPM++ 2M SDE, Schedule type: Karras", "DPM Multi SDE Karras"),
        ("DPM2 Karras, Schedule type: Karras", "DPM2 Karras"),
        ("DPM2, Schedule type: Automatic", "DPM2 Karras"),
        ("Euler, Schedule type: Automatic", "Euler"),
        ("Euler Karras", "Euler"),
        ("Restart", None),
    ],
)
def test_a_sampler_and_its_schedule_type_are_one_name(theirs: str, ours: str | None) -> None:
    """Before 1.9 A1111 wrote one name, and later two; a picture of either is painted again alike."""
    text = f"x\nSteps: 20, Sampler: {theirs}, CFG scale: 7, Seed: 1"
    assert settings_in(text).get("scheduler") == ours


@pytest.mark.parametrize("negative", [None, "rain", 'two\nlines, "quoted"'])
def test_its_pairs_are_those_that_a1111_finds(negative: str | None) -> None:
    """A client of the web API asks for the pairs of a picture's text."""
    settings = {
        "prompt": "a cat\n(red:1.2)", "negative_prompt": negative, "num_inference_steps": 9,
        "scheduler": "DPM Multi Karras", "seed": 5,
    }  # fmt: skip
    text = infotext.write(settings, (64, 32), "a, model: of mine", "1")
    assert infotext.pairs_of(text) == upstream(text)
    assert infotext.pairs_of(text)["Model"] == "a, model: of mine"
    assert infotext.pairs_of("a cat\nSteps: 9, Seed: 5") == {}


def test_what_is_evenly_spaced_here_is_so_there() -> None:
    """A1111 takes Karras spacing for DPM++ where a picture names no schedule type."""
    written = {
        name: upstream(infotext.write({"scheduler": name, "num_inference_steps": 9}, (8, 8), None, "1"))
        for name in ("DPM Multi", "DPM Multi Karras", "Euler")
    }
    assert {name: found.get("Schedule type") for name, found in written.items()} == {
        "DPM Multi": "Uniform", "DPM Multi Karras": "Karras", "Euler": None,
    }  # fmt: skip


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_comment_is_read_in_either_byte_order(order: str) -> None:
    """Programs disagree on the order, because EXIF does not define it."""
    tags = Image.Exif()
    text = infotext.write({"prompt": "a cat", "num_inference_steps": 30, "seed": 1}, (8, 8), None, "1")
    tags.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + text.encode(order)
    found = read(file_of(BLANK, "JPEG", exif=tags))
    assert found is not None
    assert found.settings == {"prompt": "a cat", "num_inference_steps": 30, "seed": 1}


@given(text=st.text(alphabet=' ,:"\\\nStepsNegative prompt:19', max_size=80))
@examples(150)
def test_no_text_makes_parsing_fail(text: str) -> None:
    """The comments of all cameras are parsed here."""
    found = infotext.read(
        text + "\nSteps: 20, Sampler: Euler, Seed: 3, CFG scale: 4" if len(text) % 2 else text
    )
    assert found is None or isinstance(found.values["prompt"], str)


@pytest.mark.parametrize(
    "part", ["a" * 50_000, 'a: "b, ' * 20_000, "a:" * 60_000, '"\\' * 60_000, "[" * 150_000, " " * 150_000]
)
@pytest.mark.timeout(10)
def test_hostile_texts_are_read_quickly(part: str) -> None:
    """A1111's own regular expression takes minutes for these patterns."""
    line = f"Steps: 1, Seed: 2, Size: 3x3, {part}"
    for keyword, text in (("parameters", line), ("inpaint", part), ("inpaint", '{"software":' + part)):
        read(file_of(BLANK, "PNG", pnginfo=chunks({keyword: text})))
