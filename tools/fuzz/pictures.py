"""Pictures: ``inpaint.images.codec.decode``, as the server reads a picture and a mask."""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from inpaint.errors import RequestError
from inpaint.images.codec import decode
from inpaint.images.pixels import MODES, mask_to_grey, to_rgb
from tools.fuzz.target import Target

_PNG = b"\x89PNG\r\n\x1a\n"
_SIZE = (40, 24)
_OPTIONS = {
    "PNG": ({}, {"dpi": (72, 72)}, {"icc_profile": b"\0" * 16 + b"RGB " + b"\0" * 108}),
    "JPEG": ({}, {"progressive": True}, {"restart_marker_rows": 1}, {"comment": b"x"}),
    "WEBP": ({}, {"lossless": True}, {"exact": True, "quality": 1}),
    "AVIF": ({}, {"quality": 1}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}),
}
_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "TIFF": ("L", "RGB"),
}


def seeds() -> Iterator[bytes]:
    """Yield small valid files of every readable kind, most with EXIF, some with frames."""
    for name, modes in _MODES.items():
        for mode in modes:
            for options in _OPTIONS[name]:
                yield _file(name, mode, **options)
            for turn in (1, 6):
                exif = Image.Exif()
                exif[0x0112] = turn
                exif.get_ifd(0x8769)[0x9286] = b"a comment"
                yield _file(name, mode, exif=exif)
    for name in ("PNG", "WEBP"):
        yield _file(name, "RGBA", save_all=True, append_images=[Image.new("RGBA", _SIZE, "red")] * 2)
    yield _file("PNG", "P", transparency=b"\0\x80")
    yield _file("JPEG", "RGB", exif=b"Exif\0\0garbage")


def _file(name: str, mode: str, **options: object) -> bytes:
    image = Image.radial_gradient("L").resize(_SIZE).convert("RGB" if mode in ("CMYK", "P") else "L")
    if mode == "I;16":
        image = Image.frombytes(mode, _SIZE, bytes(range(256)) * 7 + bytes(128))
    file = io.BytesIO()
    image.convert(mode).save(file, name, **options)
    return file.getvalue()


def _with_checksums(data: bytes) -> bytes:
    """Correct a PNG's checksums: its readers stop at the first wrong one."""
    if not data.startswith(_PNG):
        return data
    found, at = bytearray(data), len(_PNG)
    while at + 12 <= len(found):
        length = int.from_bytes(found[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(found):
            break
        found[end : end + 4] = struct.pack(">I", zlib.crc32(found[at + 4 : end]))
        at = end + 4
    return bytes(found)


def one(data: bytes) -> str:
    """Read an input as a picture and as a mask."""
    try:
        picture = decode(data)
    except RequestError:
        return "refused"
    assert picture.image.mode in MODES, picture.image.mode
    assert picture.image.width * picture.image.height <= 25_000_000
    if max(picture.image.size) <= 512:  # our own code, slow on large pictures
        to_rgb(picture.image)
        mask_to_grey(picture.image)
    return picture.format


def target() -> Target:
    """Return this parser."""
    return Target(seeds(), one, repair=_with_checksums)
