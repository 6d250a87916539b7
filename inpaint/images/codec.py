"""Decoding of pictures under limits, turning them upright, and the forms in which models and masks see them.

Every picture that arrives as bytes or as a file passes through ``decode``. This module knows files
and pixel formats, and neither canvases nor models.

Decoded pictures have one of five modes: ``L``, ``LA``, ``RGB``, ``RGBA`` (8 bits) or ``I;16`` (16-bit grey).
Pillow itself reads colours of 16 bits a channel as 8 bits; 16-bit grey is kept.
"""

import io
import math
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from inpaint.errors import RequestError
from inpaint.images import heif, jpeg, png, tiff, webp
from inpaint.images.container import BombError, Colour, Container, UnreadableError
from inpaint.images.embedded import iptc_of, xmp_of
from inpaint.images.exif import BROKEN, descriptive, to_bytes
from inpaint.images.formats import READ, read_format, refusal
from inpaint.request import EXIF_ORIENTATION, MAX_PIXELS, check_size, orientation, upright_size

MODES = ("L", "LA", "RGB", "RGBA", "I;16")
MAX_ENCODED_BYTES = 20_000_000
MASK_THRESHOLD = 128  # luminance from which a mask repaints; diffusers binarises at 0.5 too

_INSPECT: Mapping[str, Callable[[bytes], Container]] = {
    "PNG": png.inspect,
    "JPEG": jpeg.inspect,
    "WEBP": webp.inspect,
    "TIFF": tiff.inspect,
    "AVIF": heif.inspect_avif,
    "HEIF": heif.inspect,
}
_TRANSPARENT = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA", "PA": "RGBA"}
_OPAQUE = {"1": "L", "P": "RGB", "PA": "RGB", "La": "LA", "RGBa": "RGBA"}
_SIXTEEN_BIT = ("I", "I;16B", "I;16L", "I;16N")
_ORIENTED_INFO = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where other readers look
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
    RuntimeError,  # libavif's and libheif's
    AssertionError,  # a PNG whose palette is missing; with python -O an AttributeError
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_FAR_TOO_MUCH = (
    "has far too many chunks or scans, or parts far larger than the picture; "
    "save it again with any image editor"
)
_CONVERTED = {
    "CMYK": "is CMYK and becomes RGB, as close as its profile allows; no pixel keeps its four numbers",
    "LAB": "is Lab and becomes RGB; no pixel keeps its numbers",
    "YCbCr": "is YCbCr and becomes RGB; no pixel keeps its numbers",
}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture and the metadata of its file.

    ``image`` is upright, in one of ``MODES``, with empty ``info``. ``exif`` holds no orientation and
    no thumbnail (which would still show what was painted over), and nor do ``xmp`` and ``iptc``. ``dpi`` is
    (x, y), dots per inch. ``colour`` are PNG chunks that say which colours the numbers of the pixels are.
    ``lossless`` is true of a WebP that keeps its pixels exactly. ``notes`` say what is not painted or kept;
    each is the end of a sentence about the file.
    """

    image: Image.Image
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    colour: Colour = ()
    lossless: bool = False
    notes: tuple[str, ...] = ()


def decode(
    data: bytes | Path,
    field: str = "image",
    *,
    path: Path | None = None,
    max_bytes: int = MAX_ENCODED_BYTES,
) -> Picture:
    """Decode the first frame or page of a PNG, JPEG, WebP, TIFF, AVIF or, with the extra ``heic``, HEIC file.

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
        container, opened = _open(data, field, max_bytes)
        with _in_one_sentence(field):
            return _picture(container, opened, field)
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
    return _open(data, field, max_bytes)[1]


def _open(data: bytes, field: str, max_bytes: int) -> tuple[Container, Image.Image]:
    if not data:
        raise RequestError(field, f"is empty; give a {READ} picture")
    if len(data) > max_bytes:
        raise RequestError(field, f"must be a file of at most {max_bytes // 10**6} MB")
    name = read_format(data)
    if name is None:
        raise RequestError(field, refusal(data))
    try:
        container = _INSPECT[name](data)
    except UnreadableError as error:
        raise RequestError(field, str(error)) from None
    except BombError:
        raise RequestError(field, _FAR_TOO_MUCH) from None
    if container.size is not None and math.prod(container.size) > MAX_PIXELS:  # a part may be small
        check_size(field, container.size)
    if name == "HEIF":
        _register_heic()
    with _in_one_sentence(field):
        # Pillow would try every format that it knows.
        opened = Image.open(io.BytesIO(container.data), formats=(name,))
    check_size(field, opened.size)
    return container, opened


def _register_heic() -> None:
    import pillow_heif  # of the extra heic

    pillow_heif.register_heif_opener(thumbnails=False)


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
        return None if b"eXIf" in data else opened.size
    return upright_size(opened)


@contextmanager
def _in_one_sentence(field: str) -> Iterator[None]:
    """Turn the errors that Pillow raises on a bad file into a ``RequestError`` of one sentence."""
    try:
        yield
    except UnidentifiedImageError:
        raise RequestError(
            field,
            "cannot be decoded: the file is damaged or cut off, or a picture of an unusual kind; "
            "send the whole file again, or save it as an 8-bit PNG",
        ) from None
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


def _picture(container: Container, opened: Image.Image, field: str) -> Picture:
    dpi, xmp, iptc = _dpi(opened.info.get("dpi")), xmp_of(opened), iptc_of(opened)
    opened.info.pop("xmp", None)  # else Pillow turns a TIFF by what its XMP says
    opened.load()  # only this finds a file that was cut off; verify() does not
    xmp = xmp or xmp_of(opened)  # PNG's may be behind its pixels
    mode = opened.mode
    image = upright(opened, field)
    if opened.format == "TIFF":
        image = _of_tiff(image, opened, container, field)
    exif = exif_of(opened)
    icc = container.icc_profile or image.info.get("icc_profile") or None
    image.info = {}  # everything worth keeping is in the Picture; the rest must not leak into outputs
    # A phone's JPEG with a depth map or a burst opens as MPO even though only JPEG was allowed.
    name = "JPEG" if opened.format == "MPO" else str(opened.format)
    converted = (_CONVERTED[mode],) if mode in _CONVERTED else ()
    return Picture(
        image,
        name,
        icc,
        exif,
        dpi,
        xmp,
        iptc,
        container.colour,
        container.lossless,
        container.notes + converted,
    )


def _of_tiff(image: Image.Image, opened: Image.Image, container: Container, field: str) -> Image.Image:
    """Return a TIFF's picture with its grey as every viewer shows it.

    Raises:
        RequestError: its grey has numbers that do not fit into 16 bits.
    """
    if opened.mode == "I":
        levels = np.asarray(opened)
        if levels.min() < 0 or levels.max() > 65_535:
            raise RequestError(
                field, "has grey of more than 16 bits, or below 0; save it with 16 bits, from 0 to 65535"
            )
    if image.mode == "I;16" and tiff.is_white_zero(container.data):
        return _keeping_info(Image.fromarray(65_535 - np.asarray(image)), image)
    return image.copy() if image is opened else image  # Pillow would write all tags of an opened TIFF again


def _dpi(value: object) -> tuple[float, float] | None:
    if not (isinstance(value, tuple) and len(value) == 2):
        return None
    x, y = float(value[0]), float(value[1])
    plausible = (
        math.isfinite(x) and math.isfinite(y) and min(x, y) >= 2 and max(x, y) <= 65_535
    )  # Pillow says 1 for a TIFF without it
    return (x, y) if plausible else None


def exif_of(opened: Image.Image) -> bytes | None:
    """Return an opened file's EXIF without its orientation; None if it has none, or none that can be read."""
    try:
        exif = opened.getexif()
        if hasattr(opened, "tag_v2"):
            exif = descriptive(exif)  # a TIFF's tags also say where its pixels are
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
        image = eight_bit(image)
    if image.mode in ("LA", "RGBA"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (`I;16`) to 8 bits: 65535 becomes 255."""
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
        return eight_bit(strip)
    if strip.mode in ("LA", "RGBA"):
        rgba = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, "black"), rgba).convert("L")
    return strip.convert("L")


def mask_to_l(mask: Image.Image, threshold: int = MASK_THRESHOLD) -> Image.Image:
    """Return a mask (``L``) of 255 where the luminance of ``mask`` is ``threshold`` or more, else 0."""
    return mask_to_grey(mask).point([0] * threshold + [255] * (256 - threshold))
