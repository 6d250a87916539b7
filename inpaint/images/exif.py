"""The two EXIF comments that record how a picture was made; the rest of an EXIF block is the caller's.

EXIF has no field for this. ``UserComment`` is where A1111 and its relatives put their text, in UTF-16 as
piexif writes it; ``XPComment`` is Windows' comment, shown by file managers.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

EXIF_IFD, GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
USER_COMMENT, XP_COMMENT = 0x9286, 0x9C9C

# The tags of a TIFF that describe the picture: name, maker, date, author, rights, Windows' comments.
_XP = (40091, 40092, 40093, 40094, 40095)
_DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, *_XP)

_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"
_BYTE, _UNDEFINED = 1, 7
# The errors that Pillow's reader and writer raise on the EXIF of broken cameras.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    UserWarning,  # Pillow's warnings, in a program that turns warnings into errors
)


@dataclass(frozen=True, slots=True)
class Comments:
    """The texts of ``UserComment`` and ``XPComment``; None for one that is missing or unreadable."""

    user: str | None = None
    xp: str | None = None


def comments(exif: bytes | None) -> Comments:
    """Read the two comments of an EXIF block; a block that cannot be read has none."""
    if not exif:
        return Comments()
    try:
        tags = Image.Exif()
        tags.load(exif)
        return Comments(_user_text(tags.get_ifd(EXIF_IFD).get(USER_COMMENT)), _xp_text(tags.get(XP_COMMENT)))
    except BROKEN:
        return Comments()


def with_comments(exif: bytes | None, new: Comments) -> bytes | None:
    """Return ``exif`` with the two comments of ``new``; None if the block is then empty.

    A comment that is None in ``new`` is taken out. A block that cannot be read is returned unchanged.
    """
    try:
        tags = Image.Exif()
        tags.load(exif or b"")
        details = tags.get_ifd(EXIF_IFD)
        details.pop(USER_COMMENT, None)
        tags.pop(XP_COMMENT, None)
        if new.user is not None:
            details[USER_COMMENT] = _UNICODE + new.user.encode("utf-16-be")
        if new.xp is not None:
            tags[XP_COMMENT] = new.xp.encode("utf-16-le") + b"\0\0"
        return to_bytes(tags) if details or set(tags) > {EXIF_IFD} else None
    except BROKEN:
        return exif


def descriptive(tags: Image.Exif) -> Image.Exif:
    """Return the tags of a TIFF that describe the picture, without those that say where its pixels are."""
    found = Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in tags:
            found[tag] = tags[tag]
    for directory in (EXIF_IFD, GPS_IFD):
        if values := tags.get_ifd(directory):
            found.get_ifd(directory).update(values)
    return found


def into_tiff(data: bytes, exif: bytes | None, more: Mapping[int, bytes]) -> bytes:
    """Return a TIFF with the describing tags of an EXIF block, and with ``more``: tag → bytes.

    They are written behind the pixels, with a new first directory: libtiff, which packs the pixels for
    Pillow, takes no directories within it. A block that cannot be written is left out, not the picture.
    """
    try:
        return _into_tiff(data, exif, more)
    except BROKEN:
        return _into_tiff(data, None, more)


def _into_tiff(data: bytes, exif: bytes | None, more: Mapping[int, bytes]) -> bytes:
    tags = Image.Exif()
    tags.load(exif or b"")
    found = descriptive(tags)
    values: dict[int, str | bytes | int] = {
        tag: value for tag, value in found.items() if isinstance(value, str | bytes)
    }
    values |= more
    file = bytearray(data + b"\0" * (len(data) % 2))
    for directory in (EXIF_IFD, GPS_IFD):
        if inner := {tag: value for tag, value in found.get_ifd(directory).items() if tag != _INTEROP_IFD}:
            values[directory] = len(file)
            file += _directory(data[:4], directory, inner).tobytes(len(file))
    return _with_entries(file, _directory(data[:4], None, values)) if values else data


def _directory(head: bytes, group: int | None, values: Mapping[int, Any]) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(head + bytes(4), group=group)
    for tag, value in values.items():
        if isinstance(value, bytes):
            directory.tagtype[tag] = _BYTE if tag in _XP else _UNDEFINED
        directory[tag] = value
    return directory


def _with_entries(file: bytearray, more: ImageFileDirectory_v2) -> bytes:
    """Append a first directory that has the entries of the old one and those of ``more``."""
    order = "<" if file[:2] == b"II" else ">"
    (old,) = struct.unpack_from(f"{order}L", file, 4)
    at = len(file)
    file += more.tobytes(at)
    kept = [bytes(file[start : start + 12]) for start in _entries(file, old, order)]
    added = [bytes(file[start : start + 12]) for start in _entries(file, at, order)]
    by_tag = {struct.unpack_from(f"{order}H", entry)[0]: entry for entry in (*kept, *added)}
    struct.pack_into(f"{order}L", file, 4, len(file))
    file += struct.pack(f"{order}H", len(by_tag)) + b"".join(by_tag[tag] for tag in sorted(by_tag)) + bytes(4)
    return bytes(file)


def to_bytes(tags: Image.Exif) -> bytes:
    """Return ``tags.tobytes()`` with the types of its byte values corrected.

    Pillow writes every value of bytes as BYTE. The maker note, the user comment and others are UNDEFINED, and
    no tag of the Exif directory is BYTE; piexif, and so A1111, fails on a comment of the wrong type.
    """
    block = bytearray(tags.tobytes())
    start = len(b"Exif\0\0")
    order = "<" if block[start : start + 2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}L", block, start + 4)
    for at in _entries(block, start + first, order):
        tag, _, _, value = struct.unpack_from(f"{order}HHLL", block, at)
        if tag == EXIF_IFD:
            for inner in _entries(block, start + value, order):
                if struct.unpack_from(f"{order}H", block, inner + 2) == (_BYTE,):
                    struct.pack_into(f"{order}H", block, inner + 2, _UNDEFINED)
    return bytes(block)


def _entries(block: bytearray, directory: int, order: str) -> range:
    """Return the offsets of a TIFF directory's 12-byte entries."""
    (count,) = struct.unpack_from(f"{order}H", block, directory)
    return range(directory + 2, directory + 2 + 12 * count, 12)


def _user_text(value: object) -> str | None:
    if not isinstance(value, bytes):
        return None
    head, body = value[:8], value[8:]
    if head == _UNICODE:
        # EXIF does not define the byte order; piexif writes big-endian, others use the block's own order.
        swapped = body[1::2].count(0) > body[::2].count(0)
        text = body.decode("utf-16-le" if swapped else "utf-16-be", "replace")
    elif head == _ASCII or not head.strip(b"\0"):
        text = body.decode("utf-8", "replace")
    else:
        text = value.decode("utf-8", "replace")
    return text.strip(" \0") or None


def _xp_text(value: object) -> str | None:
    if not isinstance(value, bytes):
        return None
    return value.decode("utf-16-le", "replace").rstrip("\0") or None
