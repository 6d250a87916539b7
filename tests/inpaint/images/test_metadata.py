"""Generation parameters in picture files: written, read back, and left out on request."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from inpaint import InpaintRequest
from inpaint.images import infotext
from inpaint.images.codec import decode
from inpaint.images.encoding import MAX_JPEG_EXIF_BYTES
from inpaint.images.exif import EXIF_IFD, USER_COMMENT, XP_COMMENT
from inpaint.images.made import Made
from inpaint.images.metadata import made_by, read, settings_hash, write
from inpaint.request import RANGES, SETTINGS, InpaintResult
from inpaint.schedulers import SCHEDULERS
from tests.support.examples import examples
from tests.support.metadata_samples import (
    BLANK,
    a1111_text,
    camera_exif,
    chunks,
    exif_in,
    file_of,
    made,
    plain,
    tiff,
)

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# Writing and reading back.


@pytest.mark.parametrize("name", FORMATS)
def test_the_settings_come_back_from_every_format(name: str) -> None:
    """A user who finds a good picture a year later can paint another one like it."""
    was = made(
        seed=123456789012, scheduler="euler a", guidance_scale=6.25, soft=True, fill="telea",
        guidance_interval=(0.1, 0.8), loras="style:0.8,other",
    )  # fmt: skip
    assert read(write(BLANK, plain(name), was)) == was
    assert was.settings["scheduler"] == "Euler a"
    again = InpaintRequest(image=BLANK, mask=BLANK, **was.settings)
    assert {n: getattr(again, n) for n in SETTINGS if n != "samples"} == was.settings


@pytest.mark.parametrize("name", FORMATS)
def test_a_converted_picture_still_says_it(name: str) -> None:
    """The page works with PNGs and downloads in the input's format."""
    png = write(BLANK, plain("PNG"), made())
    converted = write(BLANK, decode(png), read(png), name)
    assert read(converted) == made()
    assert Image.open(io.BytesIO(converted)).format == name


def test_each_sample_says_its_own_seed() -> None:
    """A user may want one of four variations again, alone."""
    request = InpaintRequest(image=BLANK, mask=BLANK, prompt="a cat", samples=3, seed=7)
    each = made_by(
        request, InpaintResult([BLANK] * 3, [7, 8, 9], (0, 0, 48, 32)), "/home/me/secret/styles.safetensors"
    )
    assert [one.settings["seed"] for one in each] == [7, 8, 9]
    assert all("samples" not in one.settings for one in each)
    assert each[0].model == "styles.safetensors", "a folder's name may be private"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0<"), max_size=60)
SETTINGS_OF = st.fixed_dictionaries(
    {"prompt": TEXT},
    optional={
        "negative_prompt": TEXT | st.none(),
        "scheduler": st.sampled_from(list(SCHEDULERS)),
        "guidance_scale": st.floats(0, 50),
        "num_inference_steps": st.integers(20, 150),
        "strength": st.floats(0.1, 1),
        "seed": st.integers(0, RANGES["seed"].high),
        "feather": st.integers(0, 256),
        "color_match": st.booleans(),
        "guidance_interval": st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)),
    },
)


@given(chosen=SETTINGS_OF, name=st.sampled_from(FORMATS))
@examples(60)
def test_any_settings_come_back(chosen: dict[str, Any], name: str) -> None:
    """Prompts in any language and all settings survive."""
    was = made(**chosen)
    data = write(BLANK, plain(name), was)
    assert read(data) == was
    assert infotext.read(a1111_text(data)) is not None


# Metadata of the caller's file.


@pytest.mark.parametrize("name", FORMATS)
def test_the_callers_exif_icc_alpha_and_dpi_stay(name: str) -> None:
    """A photographer keeps camera, place, maker note, profile and resolution."""
    rgba = Image.new("RGBA", (48, 32), (10, 20, 30, 128))
    source = file_of(rgba.convert("RGB"), "JPEG", exif=camera_exif(), icc_profile=SRGB, dpi=(300, 300))
    like = replace(decode(source), image=rgba)
    data = write(rgba, like, made(), name)
    assert read(data) == made()
    image = Image.open(io.BytesIO(data))
    tags = image.getexif()
    assert tags[0x010F] == "Voigtlaender"
    assert 0x0112 not in tags, "it is upright now"
    assert tags.get_ifd(ExifTags.IFD.GPSInfo)[2] == (48.0, 51.0, 29.5)
    assert tags.get_ifd(EXIF_IFD)[0xA434] == "Nokton 50mm"
    assert tiff(exif_in(data))[0x927C] == (7, b"MAKER\0\x01\x02 any bytes at all \xff\xfe")
    assert image.info["icc_profile"] == SRGB
    if name not in ("WEBP", "AVIF"):  # they have no field for it
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    if name != "JPEG":
        assert np.array_equal(np.asarray(image)[..., 3], np.asarray(rgba)[..., 3])


@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
def test_a_comment_of_another_program_is_not_replaced(name: str) -> None:
    """A caption in the file's comment is worth more than our settings, which are stored elsewhere too."""
    tags = Image.Exif()
    tags.get_ifd(EXIF_IFD)[USER_COMMENT] = b"ASCII\0\0\0Grandma, 1962"
    like = decode(file_of(BLANK, "JPEG", exif=tags))
    data = write(BLANK, like, made(), name)
    assert (
        b"UNICODE\0" + "Grandma, 1962".encode("utf-16-be")
        in tiff(Image.open(io.BytesIO(data)).info["exif"])[USER_COMMENT]
    )
    assert read(data) == made()


@pytest.mark.parametrize("name", FORMATS)
def test_switched_off_leaves_nothing(name: str) -> None:
    """Prompts can be private: the file has none, not even that of an earlier painting."""
    for source in FORMATS:
        earlier = decode(write(BLANK, plain(source, exif=camera_exif()), made(prompt="my secret")))
        data = write(BLANK, earlier, None, name)
        assert read(data) is None
        image = Image.open(io.BytesIO(data))
        assert "parameters" not in image.info
        assert "inpaint" not in image.info
        found = tiff(exif_in(data))
        assert {USER_COMMENT, XP_COMMENT}.isdisjoint(found)
        assert 0x010F in found
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert "my secret".encode(encoding) not in data
    assert (
        "exif"
        not in Image.open(io.BytesIO(write(BLANK, decode(write(BLANK, plain(name), made())), None))).info
    )


@pytest.mark.parametrize(
    ("prompt", "kept"), [("猫" * 4_500, "both"), ("猫" * 10_000, "text"), ("🐈" * 10_000, "neither")]
)
def test_a_jpeg_takes_what_fits_into_its_64_kb(prompt: str, kept: str) -> None:
    """A very long prompt must cost neither the picture nor the camera's EXIF."""
    was = made(prompt=prompt, negative_prompt=prompt)
    like = decode(file_of(BLANK, "JPEG", exif=camera_exif()))
    data = write(BLANK, like, was)
    found = decode(data)
    assert found.exif is not None
    assert len(found.exif) <= MAX_JPEG_EXIF_BYTES
    fields = tiff(found.exif)
    assert 0x010F in fields
    assert (XP_COMMENT in fields, USER_COMMENT in fields) == (kept == "both", kept != "neither")
    again = read(data)
    assert (again == was) if kept == "both" else (again is None) == (kept == "neither")
    assert read(write(BLANK, like, was, "WEBP")) == was, "WebP has no such limit"


# Files from strangers.


WRITTEN = {name: write(BLANK, plain(name), made()) for name in FORMATS}


@given(
    name=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    keep=st.floats(0.05, 1),
)
@examples(150)
def test_no_damage_makes_reading_fail(name: str, changes: list[tuple[float, int]], keep: float) -> None:
    """A server reads strangers' files: cut off, with changed bytes of metadata, or no pictures at all."""
    data = bytearray(WRITTEN[name])
    for where, value in changes:
        data[int(where * len(data))] = value
    for damaged in (bytes(data), bytes(data[: int(keep * len(data))]), bytes(data[8:])):
        assert isinstance(read(damaged), Made | None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@given(
    fields=st.dictionaries(
        st.sampled_from(["settings", "box", "model", "settings_hash", "warnings", "version"]), JSON
    ),
    chosen=st.dictionaries(st.sampled_from(SETTINGS), JSON),
)
@examples(60)
def test_only_what_makes_a_valid_request_is_believed(fields: dict[str, Any], chosen: dict[str, Any]) -> None:
    """The settings of a forged picture on the page reach the next request only if they are valid."""
    text = json.dumps({"software": "sdxl-inpaint", "settings": chosen, **fields})
    found = read(file_of(BLANK, "PNG", pnginfo=chunks({"inpaint": text})))
    assert found is not None
    InpaintRequest(image=BLANK, mask=BLANK, **{"prompt": "", **found.settings})
    json.dumps([found.model, found.box, found.warnings, found.settings], ensure_ascii=False).encode()


# The hash.


def test_the_hash_changes_with_what_is_painted_and_with_nothing_else() -> None:
    """``--resume`` skips finished pictures, and repaints those that would now differ."""
    base: dict[str, object] = {"prompt": "a cat", "seed": 7, "guidance_scale": 7}
    files = [b"picture", b"mask"]
    same = settings_hash(base, "demo", files)
    for spelling in (
        {"guidance_scale": 7.0},
        {"samples": 4},
        {"strength": 0.9},
        {"scheduler": "dpm2 karras"},
    ):
        assert settings_hash(base | spelling, "demo", files) == same
    others = [
        settings_hash(base | change, "demo", files)
        for change in (
            {"prompt": "a dog"},
            {"seed": 8},
            {"seed": -1},
            {"soft": True},
            {"extend": (0, 0, 9, 0)},
            {"loras": "a"},
        )
    ]
    others += [settings_hash(base, "other", files), settings_hash(base, "demo", [b"picture"])]
    others += [
        settings_hash(base, "demo", [b"picture!", b"mask"]),
        settings_hash(base, "demo", [b"mask", b"picture"]),
    ]
    assert len({same, *others}) == len(others) + 1
    assert settings_hash({"prompt": "a cat"}, "demo", files) == settings_hash(
        {"prompt": "a cat", "seed": -1}, "demo", files
    )


def test_the_hash_of_today_is_the_hash_of_tomorrow() -> None:
    """An upgrade must not repaint an archive."""
    found = settings_hash({"prompt": "a cat", "seed": 7}, "demo", [b"picture", b"mask"])
    assert found == "2279d653f6d71be1d556b6308932dd5128d7ae3abef925ce4de55b4ab374a31b"


# On the command line.


def test_info_prints_how_a_picture_was_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A user sees which prompt it was, as text or as JSON."""
    from inpaint.cli import main

    path = tmp_path / "painted.webp"
    path.write_bytes(write(BLANK, plain("WEBP"), made(seed=7, prompt="a cat\x1b[31m\nred")))

    def info(*flags: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["info", str(path), *flags])
        assert not ended.value.code
        return capfd.readouterr().out

    text = info()
    assert re.search(r"^prompt +a cat\?\[31m\n +red$", text, re.MULTILINE), (
        "no control character reaches a terminal"
    )
    assert re.search(r"^seed +7$", text, re.MULTILINE)
    assert re.search(r"^made by +inpaint \S+, model demo$", text, re.MULTILINE)
    facts = json.loads(info("--json"))
    assert facts["made"]["settings"]["prompt"] == "a cat\x1b[31m\nred"
    assert facts["made"]["box"] == [0, 0, 48, 32]
    path.write_bytes(write(BLANK, plain("WEBP"), None))
    assert json.loads(info("--json"))["made"] is None
