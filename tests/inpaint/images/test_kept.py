"""What is not masked stays: pixels, colours and descriptions, for every format that can hold them."""

import io
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint.canvas.crop import cut, paste
from inpaint.images.codec import Picture, decode
from inpaint.images.encoding import encode
from inpaint.images.metadata import write
from inpaint.request import InpaintRequest
from tests.support.odd_pictures import (
    BIG_METADATA,
    CICP,
    COLOURS,
    GAMMA,
    IPTC,
    SRGB,
    XMP,
    H,
    Make,
    W,
    chunks_of,
    exif,
    file_of,
    photo,
    png_with,
    profile_of,
    rgb16_png,
)


def saved(mode: str, name: str, **options: Any) -> bytes:
    return file_of(photo(mode), name, **options)


LOSSLESS: dict[str, Make] = {
    **{f"png {mode}": partial(saved, mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "png P with alpha": lambda: file_of(photo("P"), "PNG", transparency=bytes(range(64))),
    "png with a clear colour": lambda: file_of(photo(), "PNG", transparency=(1, 2, 3)),
    "png interlaced by 16 bits": rgb16_png,
    "png turned": lambda: file_of(photo(), "PNG", exif=exif(6)),
    **{
        f"tiff {mode} {packing}": partial(saved, mode, "TIFF", compression=packing)
        for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16")
        for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    },
    "tiff 1": lambda: file_of(photo("1"), "TIFF", compression="group4"),
    "tiff I;16B": lambda: file_of(photo("I;16").convert("I;16B"), "TIFF"),
    "tiff turned": lambda: file_of(photo(), "TIFF", exif=exif(8)),
    "tiff pages": lambda: file_of(photo(), "TIFF", save_all=True, append_images=[photo("L")]),
    **{
        f"webp {mode}": partial(saved, mode, "WEBP", lossless=True, exact=True)
        for mode in ("RGB", "RGBA")
    },
    "lossless.webp": lambda: file_of(photo(), "WEBP", lossless=True),
    "webp turned": lambda: file_of(photo(), "WEBP", lossless=True, exif=exif(3)),
    "webp animated": lambda: file_of(
        photo("RGBA"), "WEBP", lossless=True, save_all=True, append_images=[photo("L").convert("RGBA")]
    ),
    **{f"avif {mode}": partial(saved, mode, "AVIF") for mode in ("L", "RGB", "RGBA")},
    **{name: make for name, make in BIG_METADATA.items() if name.endswith(".png")},
    **{name: partial(png_with, *chunks) for name, chunks in COLOURS.items()},
}  # fmt: skip


def repaint(picture: Picture) -> tuple[Image.Image, np.ndarray]:
    """Paint one colour into the middle; return the result, and where nothing may have changed."""
    mask = Image.new("L", picture.image.size)
    mask.paste(255, (70, 50, 90, 70))
    (canvas,) = cut(InpaintRequest(image=picture.image, mask=mask, prompt="x")).canvases
    painted = np.full((canvas.size[1], canvas.size[0], 3), 0.25, np.float32)
    left, top, right, bottom = canvas.box
    outside = np.ones(picture.image.size[::-1], bool)
    outside[top:bottom, left:right] = np.asarray(canvas.paste_mask) == 0
    assert outside.mean() > 0.5, "there is an outside"
    return paste(canvas, painted), outside


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_outside_the_mask_are_equal_bit_for_bit(name: str) -> None:
    """The product's first promise, from file to file, in every format that can keep it."""
    before = decode(LOSSLESS[name]())
    painted, outside = repaint(before)
    data = write(painted, before, None, None if before.format != "AVIF" else "PNG")
    after = decode(data)
    assert after.format == ("PNG" if before.format == "AVIF" else before.format)
    was, now = np.asarray(before.image), np.asarray(after.image.convert(before.image.mode))
    assert np.array_equal(now[outside], was[outside])
    assert not np.array_equal(now, was), "something was painted"


@pytest.mark.parametrize("name", COLOURS)
def test_what_the_numbers_of_the_pixels_mean_is_kept(name: str) -> None:
    """Equal numbers under another gamma or other primaries are another picture in every viewer."""
    before = decode(png_with(*COLOURS[name]))
    after = encode(repaint(before)[0], before)
    assert [each for each in chunks_of(after) if each[0] in dict(COLOURS[name])] == list(COLOURS[name])
    assert chunks_of(after)[1][0] == COLOURS[name][0][0], "before palette and pixels"
    Image.open(io.BytesIO(after)).load()


def test_a_profile_takes_the_place_of_the_chunk_srgb() -> None:
    """PNG forbids both; gamma may stand next to a profile."""
    like = decode(png_with(GAMMA, (b"sRGB", b"\0")))
    both = Picture(like.image, "PNG", SRGB, colour=like.colour)
    kinds = [kind for kind, _ in chunks_of(encode(like.image, both))]
    assert b"sRGB" not in kinds
    assert {b"iCCP", b"gAMA"} <= set(kinds)


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_other_formats_have_no_place_for_pngs_colours(name: str) -> None:
    """They are written all the same."""
    like = decode(png_with(CICP))
    assert decode(encode(like.image, like, name)).format == name


@pytest.mark.parametrize("name", BIG_METADATA)
def test_large_metadata_are_no_damage(name: str) -> None:
    """A workflow or a padded profile of megabytes was called a damaged file; no pixel needs it."""
    picture = decode(BIG_METADATA[name]())
    assert picture.image.size == (W, H)
    if "icc" in name:
        assert picture.icc_profile == profile_of(1_400_000)
        assert decode(encode(picture.image, picture)).icc_profile == picture.icc_profile


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lossless_webp_stays_lossless_and_a_lossy_one_small(mode: str) -> None:
    """What is lossless is seen in the file: VP8L instead of VP8."""
    lossless, lossy = file_of(photo(mode), "WEBP", lossless=True), file_of(photo(mode), "WEBP")
    for data, kind in ((lossless, True), (lossy, False)):
        picture = decode(data)
        assert picture.lossless is kind
        assert decode(encode(picture.image, picture)).lossless is kind
    assert decode(encode(photo(mode), decode(file_of(photo(), "PNG")), "WEBP")).lossless is False


@pytest.mark.parametrize("target", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_xmp_goes_from_every_format_to_every_other(source: str, target: str) -> None:
    """Title, rights and keywords of a photographer; the copy says that it is upright."""
    before = decode(with_xmp(source))
    assert before.xmp is not None
    assert b"Jane Doe" in before.xmp
    after = decode(encode(before.image, before, target))
    assert after.xmp == before.xmp
    assert b'tiff:Orientation="1"' in after.xmp


def with_xmp(name: str) -> bytes:
    if name == "PNG":
        return png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    if name == "TIFF":
        tags = Image.Exif()
        tags[700] = XMP
        return file_of(photo(), "TIFF", exif=tags)
    return file_of(photo(), name, xmp=XMP)


@pytest.mark.parametrize(
    "xmp",
    [
        b"<x:xmpmeta><rdf:Description><xmp:Thumbnails><rdf:Alt>FACE</rdf:Alt></xmp:Thumbnails></rdf:Description>",
        b"<x:xmpmeta><rdf:Description><xap:Thumbnails>FACE</xap:Thumbnails>Jane</rdf:Description>",
        b"<x:xmpmeta><photo:Thumbnails>FACE</photo:Thumbnails>",
        b'<x:xmpmeta GImage:Data="FACE"/>',
    ],
)
def test_previews_in_xmp_are_not_kept(xmp: bytes) -> None:
    """A face that was painted over must not remain in a thumbnail."""
    assert b"FACE" not in (decode(file_of(photo(), "JPEG", xmp=xmp)).xmp or b"")


def with_iptc(name: str, iptc: bytes = IPTC) -> bytes:
    return encode(photo(), Picture(photo(), name, iptc=iptc))


@pytest.mark.parametrize("source", ["JPEG", "TIFF"])
@pytest.mark.parametrize("target", ["JPEG", "TIFF"])
def test_iptc_goes_between_jpeg_and_tiff(source: str, target: str) -> None:
    """Agencies read the copyright there."""
    before = decode(with_iptc(source))
    assert before.iptc == IPTC
    assert decode(encode(before.image, before, target)).iptc == IPTC


def test_iptc_that_holds_a_preview_or_is_too_long_is_left_out() -> None:
    """The first would show what was painted over, the second has no room in a JPEG."""
    assert decode(with_iptc("JPEG", IPTC + b"\x1c\x02\xca\0\4FACE")).iptc is None
    assert decode(with_iptc("JPEG", IPTC * 10_000)).iptc is None
    assert decode(with_iptc("TIFF", IPTC * 10_000)).iptc == IPTC * 10_000


def test_a_tiffs_tags_are_kept_where_they_describe_the_picture() -> None:
    """Author, date and place, and not where the pixels were, nor layers or a preview of the old picture."""
    tags = exif(6)
    tags[315], tags[306], tags[34377] = "Jane Doe", "2026:01:02 03:04:05", b"8BIM preview"
    tags.get_ifd(0x8825)[1] = "N"
    written = Image.Exif()
    written.load(tags.tobytes())  # else Pillow leaves the directory of the place out
    picture = decode(file_of(photo(), "TIFF", exif=written, dpi=(300, 300)))
    found = Image.Exif()
    found.load(picture.exif)
    assert set(found) == {315, 306, 0x8825}
    assert picture.dpi == (300, 300)
    assert decode(file_of(photo(), "TIFF")).dpi is None, "and no resolution is made up"
    written_again = encode(picture.image, picture)
    assert b"8BIM" not in written_again
    again = decode(written_again)
    assert again.exif == picture.exif
    assert again.dpi == (300, 300)
