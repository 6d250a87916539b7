"""What a file is, by its bytes: which are read, and what the others are called."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import RequestError
from inpaint.images import codec
from inpaint.images.codec import decode, header_size
from inpaint.images.formats import OTHER_ENDINGS, read_format
from inpaint.request import InpaintRequest, orientation, upright_size
from tests.support.odd_pictures import (
    XMP,
    H,
    Make,
    W,
    chunk,
    exif,
    file_of,
    photo,
    png_with,
    rgb16_png,
    tiff_of,
)

READ = "PNG, JPEG, WebP, TIFF or AVIF"


def ftyp(*brands: bytes) -> bytes:
    body = brands[0] + bytes(4) + b"".join(brands)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(64)


RAW = "is a camera's RAW photo"
NAMED: dict[str, tuple[Make, str]] = {
    "gif": (lambda: file_of(photo("P"), "GIF"), f"is a GIF picture; save it as {READ}"),
    "bmp": (lambda: file_of(photo(), "BMP"), "is a BMP picture"),
    "ico": (lambda: file_of(photo("RGB", (32, 32)), "ICO"), "is an icon (ICO)"),
    "ppm": (lambda: file_of(photo(), "PPM"), "is a PNM picture"),
    "jp2": (lambda: file_of(photo(), "JPEG2000"), "is a JPEG 2000 picture"),
    "j2k": (lambda: b"\xff\x4f\xff\x51" + bytes(64), "is a JPEG 2000 picture"),
    "jxl": (lambda: b"\xff\x0a" + bytes(64), "is a JPEG XL picture"),
    "jxl in boxes": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "is a JPEG XL picture"),
    "psd": (lambda: b"8BPS\0\1" + bytes(64), "is a Photoshop document (PSD)"),
    "pdf": (lambda: file_of(photo(), "PDF"), "is a PDF document"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "is a PostScript document (EPS)"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
    "svg after xml": (lambda: b"\xef\xbb\xbf \n<?xml version='1.0'?><svg/>", "perhaps an SVG drawing"),
    "html": (lambda: b"\r\n<!DOCTYPE html><title>404</title>", "is a web page (HTML), not a picture"),
    "html in capitals": (lambda: b"<HTML><BODY>", "is a web page (HTML), not a picture"),
    "json": (lambda: b'{"error": "not found"}', "is JSON text, not a picture"),
    "a list of json": (lambda: b"[1, 2]", "is JSON text, not a picture"),
    "safetensors": (lambda: struct.pack("<Q", 64) + b'{"__metadata__":{}}', "is a file of model weights"),
    "zip": (lambda: b"PK\3\4" + bytes(64), "is a ZIP archive"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    "mp4": (lambda: ftyp(b"isom", b"mp42"), "is a video (MP4 or MOV), not a picture"),
    "mov": (lambda: ftyp(b"qt  "), "is a video (MP4 or MOV), not a picture"),
    "webm": (lambda: b"\x1a\x45\xdf\xa3" + bytes(64), "is a video (WebM or Matroska)"),
    "cr2": (lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(64), RAW),
    "cr3": (lambda: ftyp(b"crx ", b"isom"), RAW),
    "raf": (lambda: b"FUJIFILMCCD-RAW 0201", RAW),
    "rw2": (lambda: b"IIU\0" + bytes(64), RAW),
    "dng": (lambda: tiff_of({254: (4, 1, 0), 256: (4, 1, 64), 50706: (1, 4, 0x0401)}), RAW),
    "nef": (lambda: tiff_of({254: (4, 1, 1), 256: (4, 1, 64), 330: (4, 1, 8)}), RAW),
    "nef by Motorola": (lambda: tiff_of({254: (4, 1, 1), 330: (4, 1, 8)}, order=">"), RAW),
    "text": (lambda: b"hello, I am a picture", f"is not a picture in a format that is read ({READ})"),
    "nothing": (lambda: b"", f"is empty; give a {READ} picture"),
}  # fmt: skip
HEIC = {
    "IMG_0001.HEIC": (b"heic", b"mif1"),
    "hevc": (b"hevc",),
    "heif": (b"mif1", b"heic"),
    "heix": (b"heix",),
}


def refusal(data: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        decode(data)
    return caught.value.problem


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_is_not_read_is_named_as_what_it_is(name: str) -> None:
    """A newcomer with the wrong file reads which it is and what to do, and never that it is damaged."""
    make, problem = NAMED[name]
    assert problem in refusal(make())


@pytest.mark.parametrize("name", HEIC)
def test_heic_without_its_reader_is_named_with_the_way_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone's photo: the sentence says how to have it read, and what to do without."""
    monkeypatch.setattr("inpaint.images.formats.find_spec", lambda _: None)
    assert refusal(ftyp(*HEIC[name])) == (
        "is a HEIC picture; install the reader with: pip install 'sdxl-inpaint[heic]', or save it as JPEG"
    )


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_every_format_is_read_by_its_bytes(name: str, mode: str) -> None:
    """A PNG called .jpg, or an AVIF that a page calls a PNG, is what it is."""
    image = photo("RGB" if name == "JPEG" and mode == "RGBA" else mode)
    data = file_of(image, name)
    assert read_format(data) == name
    picture = decode(data)
    assert (picture.format, picture.image.size) == (name, (W, H))
    assert header_size(data) == (W, H)


def test_avif_of_either_brand_is_read() -> None:
    """Some writers call the container mif1, and name avif among its kinds only."""
    data = file_of(photo(), "AVIF")
    assert b"mif1" in data[16:40]
    renamed = data[:8] + b"mif1" + data[12:]
    assert decode(renamed).image.tobytes() == decode(data).image.tobytes()


def test_only_picture_endings_are_counted_as_other_formats() -> None:
    """A folder's notes and databases are nobody's pictures."""
    assert {".gif", ".bmp", ".psd", ".cr2", ".jxl"} <= OTHER_ENDINGS
    assert not {".txt", ".db", ".json", ".xmp", ".mp4", ".png", ".avif"} & OTHER_ENDINGS


NOTES: dict[str, tuple[Make, tuple[str, ...]]] = {
    "a plain picture": (lambda: file_of(photo(), "PNG"), ()),
    "anim.webp": (
        lambda: file_of(photo(), "WEBP", save_all=True, append_images=[photo("L")]),
        ("is animated",),
    ),
    "apng.png": (
        lambda: file_of(photo(), "PNG", save_all=True, append_images=[photo("L")]),
        ("is animated",),
    ),
    "anim.avif": (
        lambda: file_of(photo(), "AVIF", save_all=True, append_images=[photo("L")]),
        ("is animated",),
    ),
    "pages.tif": (
        lambda: file_of(photo(), "TIFF", save_all=True, append_images=[photo("L")]),
        ("several pages",),
    ),
    "cmyk.jpg": (lambda: file_of(photo("CMYK"), "JPEG"), ("is CMYK and becomes RGB",)),
    "cmyk.tif": (lambda: file_of(photo("CMYK"), "TIFF"), ("is CMYK and becomes RGB",)),
    "lab.tif": (lambda: file_of(photo("RGB").convert("YCbCr"), "TIFF"), ("is YCbCr and becomes RGB",)),
    "rgb16.png": (rgb16_png, ("more than 8 bits",)),
    "gray16.png": (lambda: file_of(photo("I;16"), "PNG"), ()),
    "layers.tif": (lambda: file_of(photo(), "TIFF", exif=layers()), ("has layers",)),
}


def layers() -> Image.Exif:
    tags = Image.Exif()
    tags[37724] = b"Adobe Photoshop Document Data Block\0"
    return tags


@pytest.mark.parametrize("name", NOTES)
def test_what_is_not_painted_or_kept_is_said(name: str) -> None:
    """An animation's other frames, a file's other pages and its inks are not lost without a word."""
    make, expected = NOTES[name]
    notes = decode(make()).notes
    assert len(notes) == len(expected)
    assert all(words in note for words, note in zip(expected, notes, strict=True))


def test_the_first_frame_of_every_animation_is_painted() -> None:
    """Also where the file calls itself a film."""
    for name in ("PNG", "WEBP", "AVIF"):
        data = file_of(
            Image.new("RGB", (W, H), "red"),
            name,
            save_all=True,
            append_images=[Image.new("RGB", (W, H), "blue")],
        )
        red, green, blue = decode(data).image.convert("RGB").getpixel((3, 3))
        assert red > 250 > 5 > max(green, blue), name


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_alone_turns_nothing(name: str) -> None:
    """``xmp_orient_only.jpg``: browsers look into EXIF only, and masks are drawn on what they show."""
    data = {
        "PNG": lambda: png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        "TIFF": lambda: file_of(photo(), "TIFF", exif=tags_of({700: XMP})),
    }.get(name, lambda: file_of(photo(), name, xmp=XMP))()
    assert decode(data).image.size == (W, H)
    assert header_size(data) == (W, H)
    opened = Image.open(io.BytesIO(data))
    assert (orientation(opened), upright_size(opened)) == (1, (W, H))


def tags_of(values: dict[int, bytes]) -> Image.Exif:
    tags = Image.Exif()
    for tag, value in values.items():
        tags[tag] = value
    return tags


@pytest.mark.parametrize(("exif_says", "size"), [(1, (W, H)), (6, (H, W))])
def test_exif_wins_over_xmp(exif_says: int, size: tuple[int, int]) -> None:
    """And what is written says upright in every place that a viewer looks into."""
    picture = decode(file_of(photo(), "JPEG", xmp=XMP, exif=exif(exif_says)))
    assert picture.image.size == size
    assert b'tiff:Orientation="1"' in (picture.xmp or b"")


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_tiff_is_turned_once(turn: int) -> None:
    """Pillow turns it while it is loaded and says so in no place."""
    data = file_of(photo(), "TIFF", exif=exif(turn))
    expected = decode(file_of(photo(), "PNG", exif=exif(turn))).image
    assert decode(data).image.tobytes() == expected.tobytes()
    assert header_size(data) == expected.size
    opened = Image.open(io.BytesIO(data))
    mask = Image.new("L", expected.size, 255)
    assert InpaintRequest(image=opened, mask=mask, prompt="x").image.size == expected.size


def test_white_is_zero_in_16_bits_is_turned_round() -> None:
    """A scanner's negative was read as such: Pillow heeds the tag at 8 bits only."""
    levels = np.arange(32 * 16, dtype="<u2").reshape(16, 32)
    tags = {
        256: (4, 1, 32),
        257: (4, 1, 16),
        258: (3, 1, 16),
        259: (3, 1, 1),
        277: (3, 1, 1),
        278: (4, 1, 16),
    }
    tags |= {273: (4, 1, 8), 279: (4, 1, 1024)}
    for photometric, expected in ((0, 65_535 - levels), (1, levels)):
        data = tiff_of(tags | {262: (3, 1, photometric)}, levels.tobytes())
        assert np.array_equal(np.asarray(decode(data).image), expected)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (Image.new("I", (W, H), 70_000), "has grey of more than 16 bits"),
        (Image.new("I", (W, H), -1), "has grey of more than 16 bits, or below 0"),
        (Image.new("F", (W, H), 0.5), "must be a picture of whole numbers"),
    ],
)
def test_grey_that_16_bits_cannot_hold_is_refused(image: Image.Image, problem: str) -> None:
    """Clipped, it would be another picture."""
    assert problem in refusal(file_of(image, "TIFF"))
    assert decode(file_of(Image.new("I", (W, H), 65_535), "TIFF")).image.mode == "I;16"


def test_a_compression_that_is_not_read_is_named() -> None:
    """Not as damage: the file is good."""
    tags = {256: (4, 1, 32), 257: (4, 1, 16), 273: (4, 1, 8)}
    for number, name in ((6, "old-style JPEG"), (50000, "Zstandard"), (50001, "WebP"), (999, "number 999")):
        assert f"compression ({name}) is not read" in refusal(
            tiff_of(tags | {259: (3, 1, number)}, bytes(64))
        )


def test_colours_of_an_avif_without_a_profile_are_kept() -> None:
    """A phone's Display P3 is three numbers in a box; PNG has a chunk for them."""
    data = file_of(photo(), "AVIF")
    at = data.index(b"nclx") + 4
    p3 = data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]
    assert decode(p3).colour == ((b"cICP", bytes([12, 13, 0, 1])),)
    assert decode(data).colour == ()


def test_a_picture_in_python_is_what_its_bytes_are() -> None:
    """The module's own lists agree: what is recognised can be followed, and opened."""
    for name in codec._INSPECT:
        if name != "HEIF":
            assert read_format(file_of(photo(), name)) == name
    assert chunk(b"IEND", b"").endswith(b"\xae\x42\x60\x82")
