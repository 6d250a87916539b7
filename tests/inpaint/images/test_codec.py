"""Decoding and encoding of pictures: refusals, kept metadata, and pixels neither clipped nor turned twice."""

import io
import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from inpaint.errors import RequestError
from inpaint.images.codec import MAX_ENCODED_BYTES, Picture, decode, header_size
from inpaint.images.encoding import encode
from inpaint.images.pixels import mask_to_grey, mask_to_l, to_rgb, upright
from inpaint.request import EXIF_ORIENTATION

Patch = pytest.MonkeyPatch

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKE = 0x010F


def texture(mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8))
    return image.convert("RGB").quantize(64) if mode == "P" else image.convert(mode)


def saved(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def exif(orientation: int | None = None) -> Image.Exif:
    tags = Image.Exif()
    tags[MAKE] = "Voigtländer".encode("ascii", "replace").decode()
    if orientation is not None:
        tags[EXIF_ORIENTATION] = orientation
    return tags


def png_header(width: int, height: int) -> bytes:
    """Make a PNG whose header promises width × height pixels and that holds a few bytes of them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", ihdr)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def refusal(data: bytes | Path, field: str = "image") -> str:
    with pytest.raises(RequestError) as caught:
        decode(data, field)
    assert caught.value.field == field
    return caught.value.problem


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_each_allowed_format_is_read_and_written_back_as_itself(name: str) -> None:
    """A folder of JPEGs stays one, instead of growing sevenfold as PNGs."""
    picture = decode(saved(texture(), name))
    assert picture.format == name
    assert decode(encode(picture.image, picture)).format == name


@pytest.mark.parametrize("name", ["GIF", "BMP", "PPM", "ICO"])
def test_other_formats_are_refused_before_their_readers_run(name: str, monkeypatch: Patch) -> None:
    """Readers that nobody needs are no way into a server."""
    data = saved(texture(), name)
    monkeypatch.setattr("inpaint.images.codec.Image.open", lambda *_, **__: pytest.fail("it was opened"))
    assert "PNG, JPEG, WebP, TIFF or AVIF" in refusal(data)


@pytest.mark.parametrize("data", [b"hello, I am a picture", b"<svg/>", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_what_is_no_picture_gets_one_sentence(data: bytes) -> None:
    """A newcomer who gave the wrong file gets one clear sentence."""
    assert re.search("picture|drawing", refusal(data, "mask"))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_file_cut_off_is_refused_rather_than_half_painted(name: str, share: float) -> None:
    """A broken download must be found: verify() passes a JPEG cut to 60 %, load() does not."""
    data = saved(texture(size=(200, 200)), name)
    assert "cut off" in refusal(data[: int(len(data) * share)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_size_is_judged_from_the_header_before_any_pixel_is_decoded() -> None:
    """A bomb costs no more than its header; if it were decoded first, this one would be 'damaged' instead."""
    assert "25 megapixels, but it is 6000×6000" in refusal(png_header(6000, 6000))
    assert "8192 pixels, but it is 9000×20" in refusal(png_header(9000, 20))
    assert "1:16" in refusal(png_header(2000, 20))
    assert "sides must be 16" in refusal(png_header(1, 50))


@pytest.mark.parametrize("side", [12_000, 100_000])  # Pillow warns of the first and raises for the second
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pillows_own_bomb_check_becomes_our_sentence(side: int) -> None:
    """Operators see one kind of refusal for bombs of every size."""
    assert refusal(png_header(side, side)).startswith(("must have at most 25", "sides must be"))


def test_a_bomb_warning_turned_into_an_error_is_a_refusal_too() -> None:
    """A program may run Python with -W error."""
    assert "25 megapixels" in refusal(png_header(12_000, 12_000))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A newcomer who mistyped a path sees it in the error."""
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe")
    assert "there is no file" in refusal(tmp_path / "nothing.png")
    assert "there is no file" in refusal(tmp_path / "empty.png" / "x.png")
    assert "is a folder" in refusal(tmp_path)
    assert "is empty" in refusal(tmp_path / "empty.png")
    assert "not a regular file" in refusal(tmp_path / "pipe")  # and reading does not wait for a writer
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    """A newcomer's photos may belong to another user."""
    path = tmp_path / "private.png"
    path.touch(mode=0)
    assert "private.png cannot be read by this user" in refusal(path)


def test_a_file_of_more_than_20_mb_is_refused(tmp_path: Path) -> None:
    """It would fill an operator's memory, so it is not even read to its end."""
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(10 * MAX_ENCODED_BYTES)
    tracemalloc.start()
    assert "20 MB" in refusal(huge)
    assert tracemalloc.get_traced_memory()[1] < 3 * MAX_ENCODED_BYTES
    tracemalloc.stop()
    assert "20 MB" in refusal(bytes(MAX_ENCODED_BYTES + 1))


def test_a_path_and_its_bytes_give_the_same_picture(tmp_path: Path) -> None:
    """The command line and the server read pictures in the same way."""
    data = saved(texture("RGBA"))
    (tmp_path / "a.png").write_bytes(data)
    assert decode(tmp_path / "a.png").image.tobytes() == decode(data).image.tobytes()


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("I;16", "I;16")],
)
def test_every_png_mode_is_read_without_loss(mode: str, becomes: str) -> None:
    """Pixels can only stay the caller's own if they are read correctly."""
    image = texture(mode)
    got = decode(saved(image)).image
    assert got.mode == becomes
    assert np.array_equal(np.asarray(got), np.asarray(image.convert(becomes) if becomes != mode else image))


def test_transparency_of_palette_and_key_colour_becomes_alpha() -> None:
    """An old 8-bit PNG may have a transparent background."""
    palette = texture("RGB").quantize(8)
    keyed = Image.new("RGB", (20, 20), (1, 2, 3))
    assert decode(saved(palette, transparency=3)).image.mode == "RGBA"
    assert decode(saved(palette, transparency=bytes([0, 128] * 4))).image.mode == "RGBA"
    assert decode(saved(keyed, transparency=(1, 2, 3))).image.getpixel((0, 0)) == (1, 2, 3, 0)
    assert decode(saved(Image.new("L", (20, 20), 9), transparency=9)).image.getpixel((0, 0)) == (9, 0)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    """Scanners write 16-bit grey, and Pillow's convert turns everything above 255 into white."""
    levels = np.tile(np.array([0, 257, 128 * 257, 65535, 384], np.uint16), (20, 4))
    image = decode(saved(Image.fromarray(levels))).image
    assert np.array_equal(np.asarray(image), levels)
    assert np.asarray(to_rgb(image))[0, :5, 0].tolist() == [0, 1, 128, 255, 1]


@pytest.mark.parametrize("mode", ["I", "I;16B", "YCbCr", "HSV", "LAB", "CMYK", "PA", "La", "RGBa", "RGBX"])
def test_any_mode_of_a_python_callers_picture_is_accepted(mode: str) -> None:
    """A Python caller's pictures may come from another library and not from a file."""
    image = Image.new(mode, (20, 20))
    assert upright(image).mode in ("L", "LA", "RGB", "RGBA", "I;16")


def test_float_pictures_are_refused_because_their_range_is_unknown() -> None:
    """1.0 may be white or nearly black, and a wrong guess would paint a wrong picture silently."""
    with pytest.raises(RequestError, match="mode F"):
        upright(Image.new("F", (20, 20)))


def test_a_lazily_opened_file_that_is_damaged_is_the_requests_fault(tmp_path: Path) -> None:
    """A Python caller may pass Image.open(...) on without loading it."""
    path = tmp_path / "cut.png"
    path.write_bytes(saved(texture(size=(200, 200)))[:5000])
    with Image.open(path) as image, pytest.raises(RequestError, match="mask"):
        upright(image, "mask")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_every_exif_orientation_is_applied_once(orientation: int, name: str) -> None:
    """A phone's portrait photo must neither come out lying nor be turned again by the next viewer."""
    data = saved(texture(), name, exif=exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = decode(data)
    assert picture.image.size == expected.size
    assert picture.image.tobytes() == expected.convert(picture.image.mode).tobytes()
    assert upright(picture.image) is picture.image
    again = decode(encode(picture.image, picture, "PNG"))
    assert again.image.tobytes() == picture.image.tobytes()


def test_upright_leaves_the_callers_picture_alone() -> None:
    """A Python caller may go on using the picture that was passed in."""
    image = Image.open(io.BytesIO(saved(texture(), exif=exif(6))))
    before = (image.size, image.tobytes(), dict(image.info))
    turned = upright(image)
    assert turned.size == (30, 40)
    assert upright(turned) is turned
    assert (image.size, image.tobytes(), image.info) == before


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_icc_exif_and_dpi_survive_a_round(name: str) -> None:
    """A photographer keeps calibrated colours, date and camera."""
    tags = exif(6)
    tags.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    picture = decode(saved(texture(), name, icc_profile=SRGB, exif=tags, dpi=(300, 300)))
    again = decode(encode(picture.image, picture))
    found = Image.Exif()
    found.load(again.exif)
    assert again.icc_profile == SRGB
    assert picture.image.info == {}  # so that nothing the Picture does not name can leak into outputs
    assert found[MAKE] == tags[MAKE]
    assert EXIF_ORIENTATION not in found
    assert found.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    if name != "WEBP":  # WebP has no field for it
        assert again.dpi == pytest.approx((300, 300), abs=0.1)


def test_the_thumbnail_in_exif_is_dropped() -> None:
    """A face that was painted over must not remain in the thumbnail."""
    tiff = struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, MAKE, 2, 4, b"abc\0", 26)
    ifd1 = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, 9, 0)
    picture = decode(saved(texture(), "JPEG", exif=b"Exif\0\0" + tiff + ifd1 + b"thumbnail"))
    assert b"abc" in (picture.exif or b"")
    assert b"thumbnail" not in (picture.exif or b"")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about it
def test_broken_exif_does_not_cost_the_picture() -> None:
    """Some cameras write broken maker notes, but the pixels are fine."""
    for broken in (
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(9),
    ):
        assert decode(saved(texture(), "JPEG", exif=broken)).image.size == (40, 30)


def test_exif_too_long_for_jpeg_is_left_out() -> None:
    """A PNG with 100 kB of notes can still be written as JPEG."""
    tags = exif()
    tags[0x9286] = "x" * 100_000
    picture = decode(saved(texture(), exif=tags))
    assert decode(encode(picture.image, picture)).exif == picture.exif
    assert decode(encode(picture.image, picture, "JPEG")).exif is None


def test_a_profile_for_other_channels_is_not_written() -> None:
    """A grey profile in a colour file makes viewers refuse it or show wrong colours."""
    like = Picture(texture("L"), "PNG", b"\0" * 16 + b"GRAY" + SRGB[20:])
    assert "icc_profile" in Image.open(io.BytesIO(encode(texture("L"), like))).info
    assert "icc_profile" not in Image.open(io.BytesIO(encode(texture("RGB"), like))).info
    assert "icc_profile" not in Image.open(io.BytesIO(encode(texture("L"), like, "WEBP"))).info


@pytest.mark.parametrize("icc", [None, b"not a profile", SRGB])
def test_cmyk_jpeg_becomes_rgb_without_its_ink_profile(icc: bytes | None) -> None:
    """A print shop's JPEG is accepted even with an unusable profile."""
    options = {} if icc is None else {"icc_profile": icc}
    picture = decode(saved(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG", quality=95, **options))
    red, green, blue = picture.image.getpixel((5, 5))
    assert picture.image.mode == "RGB"
    assert red > 200 > 60 > max(green, blue)
    assert picture.icc_profile is None


def test_a_phones_mpo_is_a_jpeg() -> None:
    """Phones write JPEGs with a second frame, which Pillow calls MPO even if only JPEG is allowed."""
    data = saved(texture("RGB"), "MPO", save_all=True, append_images=[texture("RGB", seed=1)])
    picture = decode(data)
    assert picture.format == "JPEG"
    assert encode(picture.image, picture)[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(name: str) -> None:
    """An animated sticker is painted as a still picture."""
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    data = saved(red, name, save_all=True, append_images=[blue], lossless=True)
    assert decode(data).image.convert("RGB").getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_png_and_other_formats_keep_what_they_can(mode: str) -> None:
    """PNG loses nothing; JPEG and WebP get 8 bits, JPEG no alpha, and none of them raises."""
    image = texture(mode)
    like = Picture(image, "PNG")
    assert decode(encode(image, like)).image.tobytes() == image.tobytes()
    assert decode(encode(image, like, "jpg")).image.mode == ("L" if mode in ("L", "LA", "I;16") else "RGB")
    assert decode(encode(image, like, "WEBP")).image.mode == ("RGBA" if "A" in mode else "RGB")


def test_jpeg_is_written_without_chroma_subsampling_and_over_white() -> None:
    """Red on blue stays sharp, and a cut-out comes back on white, not on black."""
    data = encode(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), Picture(texture(), "JPEG"))
    image = Image.open(io.BytesIO(data))
    assert image.getpixel((9, 9)) == (255, 255, 255)
    assert {layer[1:3] for layer in image.layer} == {(1, 1)}


def test_webp_keeps_the_colour_under_transparency() -> None:
    """A user may raise the alpha again in an image editor."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[::4, :, :3] = pixels[1::4, :, :3] = 200  # stripes
    pixels[:, 32:, 3] = 255
    image = Image.fromarray(pixels)
    again = np.asarray(decode(encode(image, Picture(image, "WEBP"))).image)
    assert np.array_equal(again[..., 3], pixels[..., 3])
    assert np.abs(again[..., :3].astype(int) - pixels[..., :3]).max() < 60


def test_unknown_output_format_or_quality_is_refused() -> None:
    """A caller who asks for a GIF learns the three names."""
    with pytest.raises(RequestError, match="PNG, JPEG, WEBP"):
        encode(texture(), Picture(texture(), "PNG"), "GIF")
    with pytest.raises(RequestError, match="1 to 100"):
        encode(texture(), Picture(texture(), "PNG"), quality=0)


def test_a_model_sees_transparency_as_white() -> None:
    """The colour below alpha 0 is arbitrary and must not reach the model."""
    image = Image.new("RGBA", (4, 4), (9, 200, 9, 0))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("LA", (4, 4), (0, 255))).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Image.new("L", (2, 2), 127), 0),
        (Image.new("L", (2, 2), 128), 255),
        (Image.new("1", (2, 2), 1), 255),
        (Image.new("RGBA", (2, 2), (255, 255, 255, 0)), 0),
        (Image.new("RGBA", (2, 2), (255, 255, 255, 255)), 255),
        (Image.new("LA", (2, 2), (255, 100)), 0),
        (Image.new("RGB", (2, 2), (255, 0, 0)), 0),  # luminance 76
        (Image.new("RGB", (2, 2), (0, 255, 0)), 255),  # luminance 150
        (Image.new("RGB", (2, 2), "white").quantize(2), 255),
        (Image.fromarray(np.full((2, 2), 127 * 257, np.uint16)), 0),
        (Image.fromarray(np.full((2, 2), 128 * 257, np.uint16)), 255),
    ],
)
def test_a_mask_of_any_mode_is_read_as_luminance(mask: Image.Image, expected: int) -> None:
    """Masks come from all kinds of image editors."""
    read = mask_to_l(mask)
    assert read.mode == "L"
    assert read.getextrema() == (expected, expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_with_alpha_is_read_in_strips(mode: str, monkeypatch: Patch) -> None:
    """The same greys as whole, in a third of the memory: 25 megapixels took 380 MB to be refused."""
    pixels = np.random.default_rng(2).integers(0, 256, (600, 40, len(mode)), dtype=np.uint8)
    mask = Image.fromarray(pixels, mode)
    composite, heights = Image.alpha_composite, []
    whole = composite(Image.new("RGBA", mask.size, "black"), mask.convert("RGBA")).convert("L")
    monkeypatch.setattr(Image, "alpha_composite", lambda a, b: heights.append(b.height) or composite(a, b))
    assert mask_to_grey(mask).tobytes() == whole.tobytes()
    assert heights == [256, 256, 88]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", [None, 1, 6, 8])
def test_a_files_size_is_known_before_its_pixels(kind: str, turn: int | None, monkeypatch: Patch) -> None:
    """Two pictures that do not fit together are refused without decoding either."""
    exif = Image.Exif()
    if turn:
        exif[EXIF_ORIENTATION] = turn
    file = io.BytesIO()
    Image.new("RGB", (40, 24)).save(file, kind, exif=exif)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("pixels were decoded"))
    assert header_size(file.getvalue()) == ((24, 40) if turn in (6, 8) else (40, 24))


def test_a_png_whose_turn_may_follow_its_pixels_has_no_size_yet() -> None:
    """Its orientation is only known when it is decoded; it must not be refused before."""
    file = io.BytesIO()
    Image.new("RGB", (40, 24)).save(file, "PNG")
    data = file.getvalue()
    late = data[:-12] + b"\0\0\0\0eXIf" + struct.pack(">I", zlib.crc32(b"eXIf")) + data[-12:]
    assert header_size(data) == (40, 24)
    assert header_size(late) is None


def test_a_mask_keeps_its_grey_where_grey_is_wanted() -> None:
    """Soft inpainting reads strength from the grey."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(16, 0))
    assert mask_to_grey(ramp).tobytes() == ramp.tobytes()


def test_a_palette_picture_without_its_palette_is_damaged() -> None:
    """Pillow fails an assertion on it (found by fuzzing), and no upload may make the server answer 5xx."""
    data = saved(texture("P"))
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    assert "damaged" in refusal(data[:start] + data[start + 12 + length :])


def test_no_damaged_file_raises_anything_but_a_refusal() -> None:
    """No upload may make the server answer 5xx, not even with -W error."""
    rng = np.random.default_rng(0)
    files = [
        saved(texture(m), "PNG", exif=exif(6), icc_profile=SRGB) for m in ("1", "P", "LA", "RGBA", "I;16")
    ]
    files += [saved(texture(m), "JPEG", exif=exif(5)) for m in ("L", "RGB", "CMYK")]
    files += [saved(texture("RGBA"), "WEBP", exif=exif(8)), saved(texture("RGBA"), "WEBP", lossless=True)]
    read = refused = 0
    for _ in range(3000):
        data = bytearray(files[rng.integers(len(files))])
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(8, min(len(data), 400))] = rng.integers(256)
        if rng.random() < 0.3:
            del data[rng.integers(20, len(data)) :]
        try:
            picture = decode(bytes(data))
        except RequestError:
            refused += 1
        else:
            read += 1
            assert picture.image.mode in ("L", "LA", "RGB", "RGBA", "I;16")
    assert min(read, refused) > 100  # otherwise the damage is too large or too small to test anything
