"""Decoding of picture files under limits on bytes, pixels and sides.

Every picture that arrives as bytes or as a file passes through ``decode``; its pixels come in one of
``pixels.MODES``.
"""

import io
import math
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from inpaint.errors import RequestError
from inpaint.images import heif, jpeg, png, tiff, webp
from inpaint.images.container import DAMAGED, BombError, Colour, Container, UnreadableError
from inpaint.images.embedded import iptc_of, xmp_of
from inpaint.images.exif import descriptive, to_bytes
from inpaint.images.formats import READ, read_format, refusal
from inpaint.images.pixels import keeping_info, upright
from inpaint.request import EXIF_ORIENTATION, MAX_PIXELS, check_size, upright_size

MAX_ENCODED_BYTES = 20_000_000

_INSPECT: Mapping[str, Callable[[bytes], Container]] = {
    "PNG": png.inspect,
    "JPEG": jpeg.inspect,
    "WEBP": webp.inspect,
    "TIFF": tiff.inspect,
    "AVIF": heif.inspect_avif,
    "HEIF": heif.inspect,
}
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

    ``image`` is upright, in one of ``pixels.MODES``, with empty ``info``. ``exif`` holds no orientation and
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
    except DAMAGED as error:
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
        return keeping_info(Image.fromarray(65_535 - np.asarray(image)), image)
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
    except DAMAGED:  # maker notes of broken cameras: the pixels matter more than their EXIF
        return None
