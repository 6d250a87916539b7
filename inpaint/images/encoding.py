"""Encoding of pictures as files, with the metadata of the file that they were made from."""

import io
from collections.abc import Mapping

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inpaint.errors import RequestError
from inpaint.images.codec import Picture
from inpaint.images.embedded import IPTC_TAG, XMP_KEYWORD, XMP_TAG, jpeg_segment
from inpaint.images.exif import into_tiff
from inpaint.images.formats import WRITTEN
from inpaint.images.pixels import eight_bit, to_rgb, upright
from inpaint.images.png import compress_level, with_colour

MAX_JPEG_EXIF_BYTES = 65_533  # one APP1 marker
_MAX_JPEG_XMP_BYTES = 65_504


def encode(
    image: Image.Image,
    like: Picture,
    format: str | None = None,  # noqa: A002 — the name that Pillow uses too
    quality: int = 95,
    text: Mapping[str, str] | None = None,
) -> bytes:
    """Encode ``image`` as a file with the ICC profile, EXIF, XMP, IPTC, dpi and colours of ``like``.

    PNG and TIFF are lossless, and so is WebP if the file of ``like`` was a lossless WebP. Other WebP, JPEG
    and AVIF are written at ``quality``, the last two without chroma subsampling. JPEG has no alpha (laid over
    white), and only PNG and TIFF have 16-bit grey (others get 8 bits).

    Args:
        image: the picture, in any mode that ``upright`` takes.
        like: the picture whose metadata and, unless ``format`` is given, format the file gets.
        format: one of ``WRITTEN`` in any letter case, ``jpg`` included; None for the one of ``like``, or PNG
            if that is not written.
        quality: 1 to 100, of JPEG, WebP and AVIF.
        text: keyword → text of PNG's text chunks; the other formats have none.

    Raises:
        RequestError: ``format`` or ``quality`` is unknown.
    """
    name = name_of(format, like)
    if not 1 <= quality <= 100:
        raise RequestError("quality", f"must be a whole number from 1 to 100, not {quality!r}")
    image = _for_format(upright(image), name)
    icc = _icc_for(image.mode, name, like.icc_profile)
    options: dict[str, object] = {"icc_profile": icc, **_metadata(like, name)}
    if name == "PNG":
        options |= {"pnginfo": _texts(text or {}, like.xmp), "compress_level": compress_level(image)}
    if name in ("JPEG", "AVIF"):
        options |= {
            "quality": quality,
            "subsampling": "4:0:0" if name == "AVIF" and image.mode == "L" else "4:4:4",
        }
    if name == "WEBP":
        options["exact"] = True  # keep the colour under transparency
        options |= {"lossless": True} if like.lossless and like.format == "WEBP" else {"quality": quality}
    if name == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
    file = io.BytesIO()
    image.save(file, name, **options)
    if name == "TIFF":
        blocks = ((XMP_TAG, like.xmp), (IPTC_TAG, like.iptc))
        return into_tiff(file.getvalue(), like.exif, {tag: block for tag, block in blocks if block})
    # PNG's own rules: a profile takes the place of the chunk sRGB.
    colour = tuple((kind, body) for kind, body in like.colour if not (icc and kind == b"sRGB"))
    return with_colour(file.getvalue(), colour) if name == "PNG" else file.getvalue()


def name_of(format: str | None, like: Picture) -> str:  # noqa: A002
    """Return the format in which ``encode`` writes, one of ``WRITTEN``.

    Raises:
        RequestError: ``format`` is unknown.
    """
    if format is None:
        return like.format if like.format in WRITTEN else "PNG"
    name = format.upper().replace("JPG", "JPEG")
    if name not in WRITTEN:
        raise RequestError("format", f"must be one of {', '.join(WRITTEN)}, not {format!r}")
    return name


def _metadata(like: Picture, name: str) -> dict[str, object]:
    """Return Pillow's options for EXIF, XMP, IPTC and resolution, where the format has a place for them."""
    options: dict[str, object] = {}
    if like.dpi and name in ("PNG", "JPEG", "TIFF"):
        options["dpi"] = like.dpi
    if name == "TIFF":
        return options
    if like.exif and (name != "JPEG" or len(like.exif) <= MAX_JPEG_EXIF_BYTES):
        options["exif"] = like.exif
    if like.xmp and name != "PNG" and (name != "JPEG" or len(like.xmp) <= _MAX_JPEG_XMP_BYTES):
        options["xmp"] = like.xmp
    if like.iptc and name == "JPEG":
        options["extra"] = jpeg_segment(like.iptc)
    return options


def _texts(texts: Mapping[str, str], xmp: bytes | None) -> PngInfo:
    chunks = PngInfo()
    for keyword, value in texts.items():
        chunks.add_text(keyword, value)
    if xmp:
        chunks.add_itxt(XMP_KEYWORD, xmp)
    return chunks


def _for_format(image: Image.Image, name: str) -> Image.Image:
    if name == "JPEG" and image.mode in ("LA", "RGBA"):
        flat = to_rgb(image)
        return flat.convert("L") if image.mode == "LA" else flat
    if name not in ("PNG", "TIFF") and image.mode == "I;16":
        return eight_bit(image)
    return image


def _icc_for(mode: str, name: str, icc: bytes | None) -> bytes:
    """Return the profile if it describes the channels that are written, else none (``b""``)."""
    space = b"GRAY" if mode in ("L", "LA", "I;16") and name != "WEBP" else b"RGB "  # WebP is always colour
    return icc if icc and icc[16:20] == space else b""
