"""Decoding of pictures under limits, turning them upright, and encoding in the caller's format.

Every picture that arrives as bytes or as a file passes through ``decode``. This module knows files
and pixel formats, and neither canvases nor models.

Decoded pictures have one of five modes: ``L``, ``LA``, ``RGB``, ``RGBA`` (8 bits) or ``I;16`` (16-bit grey).
Pillow itself reads colour PNGs of 16 bits a channel as 8 bits; 16-bit grey is kept.
"""

import io
import math
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from inpaint.errors import RequestError
from inpaint.images.bombs import is_decode_bomb
from inpaint.images.exif import BROKEN, to_bytes
from inpaint.request import EXIF_ORIENTATION, MAX_PIXELS, check_size, orientation, upright_size

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = ("L", "LA", "RGB", "RGBA", "I;16")
MAX_ENCODED_BYTES = 20_000_000
MASK_THRESHOLD = 128  # luminance from which a mask repaints; diffusers binarises at 0.5 too

MAX_JPEG_EXIF_BYTES = 65_533  # one APP1 marker
_TRANSPARENT = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA", "PA": "RGBA"}
_OPAQUE = {"1": "L", "P": "RGB", "PA": "RGB", "La": "LA", "RGBa": "RGBA"}
_SIXTEEN_BIT = ("I", "I;16B", "I;16L", "I;16N")
_ORIENTED_INFO = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where getexif looks
_PNG_METADATA = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")  # chunks in which an orientation may be
_STRIP = 256  # rows
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The errors that Pillow's readers raise on damaged files; a fuzz test checks that the list is complete.
_DAMAGED = (
    *BROKEN,
    NotImplementedError,
    EOFError,
    AssertionError,  # a PNG whose palette is missing; with python -O an AttributeError
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture and the metadata of its file.

    ``image`` is upright, in one of ``MODES``, with empty ``info``. ``exif`` holds no orientation and
    no thumbnail (which would still show what was painted over). ``dpi`` is (x, y), dots per inch.
    """

    image: Image.Image
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


def decode(
    data: bytes | Path,
    field: str = "image",
    *,
    path: Path | None = None,
    max_bytes: int = MAX_ENCODED_BYTES,
) -> Picture:
    """Decode the first frame of a PNG, JPEG or WebP file.

    Args:
        data: the file's bytes, or its path.
        field: the request's field that an error names.
        path: where bytes were read from, so that an error names it as well.
        max_bytes: the size in bytes up to which a file is decoded.

    Raises:
        RequestError: there is no such file, or it is no picture, damaged, cut off or too large.
    """
    if isinstance(data, Path):
        path = data
        data = read_file(path, field)
    try:
        opened = open_checked(data, field, max_bytes=max_bytes)
        with _in_one_sentence(field):
            opened.load()  # only this finds a file that was cut off; verify() does not
            return _picture(opened, field)
    except RequestError as error:
        if path is None:
            raise
        raise RequestError(field, f"{path} {error.problem}") from error.__cause__


def open_checked(data: bytes, field: str = "image", *, max_bytes: int = MAX_ENCODED_BYTES) -> Image.Image:
    """Open a file of an allowed format and size: read its header and metadata, decode no pixels.

    Args:
        data: the file's bytes.
        field: the request's field that an error names.
        max_bytes: the size in bytes up to which a file is opened.

    Raises:
        RequestError: it is no picture, damaged or too large.
    """
    if not data:
        raise RequestError(field, "is empty; give a PNG, JPEG or WebP picture")
    if len(data) > max_bytes:
        raise RequestError(field, f"must be a file of at most {max_bytes // 10**6} MB")
    if is_decode_bomb(data):
        raise RequestError(field, "has far too many chunks or scans; save it again with any image editor")
    with _in_one_sentence(field):
        # Pillow would try every format it knows; a 1 kB AVIF then takes 560 MB before any check.
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    check_size(field, opened.size)
    return opened


def header_size(
    data: bytes, field: str = "image", *, max_bytes: int = MAX_ENCODED_BYTES
) -> tuple[int, int] | None:
    """Return a file's (width, height) after its EXIF orientation is applied, without decoding any pixel.

    None for a PNG whose orientation, if it has any, would only be found behind its pixels.

    Raises:
        RequestError: as :func:`open_checked`.
    """
    opened = open_checked(data, field, max_bytes=max_bytes)
    if opened.format == "PNG" and "exif" not in opened.info:  # Pillow would decode it to look behind
        return None if any(kind in data for kind in _PNG_METADATA) else opened.size
    return upright_size(opened)


@contextmanager
def _in_one_sentence(field: str) -> Iterator[None]:
    """Turn the errors that Pillow raises on a bad file into a ``RequestError`` of one sentence."""
    try:
        yield
    except UnidentifiedImageError:
        raise RequestError(field, "is not a PNG, JPEG or WebP picture") from None
    except _BOMB:
        raise RequestError(field, f"must have at most {MAX_PIXELS // 10**6} megapixels") from None
    except _DAMAGED as error:
        raise RequestError(
            field, "cannot be decoded: the file is damaged or cut off; send the whole file again"
        ) from error


def read_file(path: Path, field: str = "image") -> bytes:
    """Read a picture file's bytes, at most one more than ``MAX_ENCODED_BYTES``.

    That one is enough for ``open_checked`` to refuse the file as too large.

    Raises:
        RequestError: names ``field``: there is no such file, or it is not a regular one or not readable.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise RequestError(field, f"{path} is a folder; name a picture in it")
        if not stat.S_ISREG(mode):  # reading a pipe or a device could block forever
            raise RequestError(field, f"{path} is not a regular file")
        with path.open("rb") as file:
            return file.read(MAX_ENCODED_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(field, f"there is no file {path}") from None
    except PermissionError:
        raise RequestError(field, f"{path} cannot be read by this user; check its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise RequestError(field, f"{path} cannot be read: {error}") from error


def _picture(opened: Image.Image, field: str) -> Picture:
    dpi = _dpi(opened.info.get("dpi"))
    image = upright(opened, field)
    exif = _exif_without_orientation(opened)
    icc = image.info.get("icc_profile") or None
    image.info = {}  # everything worth keeping is in the Picture; the rest must not leak into outputs
    # A phone's JPEG with a depth map or a burst opens as MPO even though only FORMATS were allowed.
    name = "JPEG" if opened.format == "MPO" else str(opened.format)
    return Picture(image, name, icc, exif, dpi)


def _dpi(value: object) -> tuple[float, float] | None:
    if not (isinstance(value, tuple) and len(value) == 2):
        return None
    x, y = float(value[0]), float(value[1])
    plausible = math.isfinite(x) and math.isfinite(y) and min(x, y) >= 1 and max(x, y) <= 65_535
    return (x, y) if plausible else None


def _exif_without_orientation(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        exif.pop(EXIF_ORIENTATION, None)
        return to_bytes(exif) if len(exif) else None
    except _DAMAGED:  # maker notes of broken cameras: the pixels matter more than their EXIF
        return None


def upright(image: Image.Image, field: str = "image") -> Image.Image:
    """Return ``image`` turned by its EXIF orientation and in one of ``MODES``.

    An image that is both already is returned itself; the caller's picture is never changed. 32-bit ``I`` is
    read as 16-bit grey and clipped to it.

    Raises:
        RequestError: the pixels cannot be read, or their mode says nothing about their range (``F``).
    """
    try:
        image.load()
        turn = _TURNS.get(orientation(image))
        plain = _to_mode(image, field)
    except _DAMAGED as error:
        raise RequestError(field, "cannot be decoded: the file behind it is damaged or gone") from error
    if turn is None:
        return plain
    turned = plain.transpose(turn)
    for key in _ORIENTED_INFO:  # else the next reader would turn it again
        turned.info.pop(key, None)
    return turned


def _to_mode(image: Image.Image, field: str) -> Image.Image:
    if image.has_transparency_data and image.mode in _TRANSPARENT:
        return image.convert(_TRANSPARENT[image.mode])
    if image.mode in MODES:
        return image
    if image.mode in _SIXTEEN_BIT:
        return _keeping_info(Image.fromarray(np.clip(np.asarray(image), 0, 65_535).astype(np.uint16)), image)
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode == "F":
        raise RequestError(
            field, "must be a picture of whole numbers (mode L, RGB, RGBA or I;16), not of mode F"
        )
    return image.convert(_OPAQUE.get(image.mode, "RGB"))


def _keeping_info(image: Image.Image, source: Image.Image) -> Image.Image:
    image.info = dict(source.info)
    return image


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    icc = image.info.get("icc_profile")
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a profile that lcms refuses: convert without it
            converted = None
        if converted is not None:
            return _keeping_info(converted, converted)
    converted = image.convert("RGB")
    converted.info.pop("icc_profile", None)  # it describes inks, not these channels
    return converted


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an upright picture to what a model sees: RGB, 8 bits.

    16-bit grey is scaled (65535 becomes 255), where Pillow's own convert clips at 255. Transparency is
    laid over white: that is how browsers and JPEG show it, and the colour under alpha 0 is arbitrary.
    """
    if image.mode == "I;16":
        image = _eight_bit(image)
    if image.mode in ("LA", "RGBA"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))


def mask_to_grey(mask: Image.Image) -> Image.Image:
    """Return the luminance of a mask, 0 to 255 (``L``), upright; transparent parts count as black.

    Raises:
        RequestError: the mask cannot be read.
    """
    mask = upright(mask, "mask")
    grey = Image.new("L", mask.size)
    for top in range(0, mask.height, _STRIP):  # whole, 25 megapixels with alpha would take 400 MB
        strip = mask.crop((0, top, mask.width, min(top + _STRIP, mask.height)))
        grey.paste(_strip_to_grey(strip), (0, top))
    return grey


def _strip_to_grey(strip: Image.Image) -> Image.Image:
    if strip.mode == "I;16":
        return _eight_bit(strip)
    if strip.mode in ("LA", "RGBA"):
        rgba = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, "black"), rgba).convert("L")
    return strip.convert("L")


def mask_to_l(mask: Image.Image, threshold: int = MASK_THRESHOLD) -> Image.Image:
    """Return a mask (``L``) of 255 where the luminance of ``mask`` is ``threshold`` or more, else 0."""
    return mask_to_grey(mask).point([0] * threshold + [255] * (256 - threshold))


def encode(
    image: Image.Image,
    like: Picture,
    format: str | None = None,  # noqa: A002 — the name that Pillow uses too
    quality: int = 95,
    text: Mapping[str, str] | None = None,
) -> bytes:
    """Encode ``image`` as a file with the ICC profile, EXIF and dpi of ``like``.

    PNG is lossless; WebP and JPEG are written at ``quality``, JPEG without chroma subsampling. JPEG has
    no alpha (laid over white), and only PNG has 16-bit grey (others get 8 bits).

    Args:
        image: the picture, in any mode that ``upright`` takes.
        like: the picture whose metadata and, unless ``format`` is given, format the file gets.
        format: one of ``FORMATS`` in any letter case, ``jpg`` included; None for the one of ``like``.
        quality: 1 to 100, of JPEG and WebP.
        text: keyword → text of PNG's text chunks; the other formats have none.

    Raises:
        RequestError: ``format`` or ``quality`` is unknown.
    """
    name = (format or like.format).upper().replace("JPG", "JPEG")
    if name not in FORMATS:
        raise RequestError("format", f"must be one of {', '.join(FORMATS)}, not {format!r}")
    if not 1 <= quality <= 100:
        raise RequestError("quality", f"must be a whole number from 1 to 100, not {quality!r}")
    image = _for_format(upright(image), name)
    options: dict[str, object] = {"icc_profile": _icc_for(image.mode, name, like.icc_profile)}
    if like.exif and (name != "JPEG" or len(like.exif) <= MAX_JPEG_EXIF_BYTES):
        options["exif"] = like.exif
    if like.dpi and name != "WEBP":
        options["dpi"] = like.dpi
    if name == "PNG" and text:
        options["pnginfo"] = _chunks(text)
    if name == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    if name == "WEBP":
        options |= {"quality": quality, "exact": True}  # keep the colour under transparency
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def _chunks(text: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for keyword, value in text.items():
        chunks.add_text(keyword, value)
    return chunks


def _for_format(image: Image.Image, name: str) -> Image.Image:
    if name == "JPEG" and image.mode in ("LA", "RGBA"):
        flat = to_rgb(image)
        return flat.convert("L") if image.mode == "LA" else flat
    if name != "PNG" and image.mode == "I;16":
        return _eight_bit(image)
    return image


def _icc_for(mode: str, name: str, icc: bytes | None) -> bytes:
    """Return the profile if it describes the channels that are written, else none (``b""``)."""
    space = b"GRAY" if mode in ("L", "LA", "I;16") and name != "WEBP" else b"RGB "  # WebP is always colour
    return icc if icc and icc[16:20] == space else b""
