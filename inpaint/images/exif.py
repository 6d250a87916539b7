"""The two EXIF comments that record how a picture was made; the rest of an EXIF block is the caller's.

EXIF has no field for this. ``UserComment`` is where A1111 and its relatives put their text, in UTF-16 as
piexif writes it; ``XPComment`` is Windows' comment, shown by file managers.
"""

import struct
from dataclasses import dataclass

from PIL import Image

EXIF_IFD = 0x8769
USER_COMMENT, XP_COMMENT = 0x9286, 0x9C9C

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
