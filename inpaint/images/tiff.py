"""TIFF's first directory: what Pillow or libtiff would need much memory or time for, and what is left out.

A TIFF says in tags where its pixels are, in strips or tiles, and how each is packed. Pillow makes an object
for each strip, libtiff a buffer for each tile. Sources: TIFF 6.0; the DNG specification for camera RAW.
"""

import struct
from dataclasses import dataclass

from inpaint.images.container import SIXTEEN_BITS, BombError, Container, UnreadableError
from inpaint.request import MAX_PIXELS, MAX_SIDE

MAX_TAGS = 1_000
MAX_STRIPS = 40_000  # a strip for each row of the tallest picture, in four planes

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = (
    273,
    279,
    322,
    323,
    324,
    325,
)
_SUB_DIRECTORIES, _EXTRA_SAMPLES, _LAYERS, _DNG = 330, 338, 37724, 50706
_JPEG = 7
# Raw, three of fax, LZW, JPEG, deflate (two numbers), PackBits; the others take libraries, or memory at will.
_COMPRESSIONS = (1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946)
_NAMES = {
    6: "old-style JPEG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    34892: "lossy JPEG",
    34712: "JPEG 2000",
}
_WHITE_IS_ZERO = 0
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_PROGRESSIVE = b"\xff\xc2"  # a JPEG of many scans, each of which costs as much as the picture


def inspect(data: bytes) -> Container:
    """Read a TIFF's first directory.

    Raises:
        BombError: it has too many tags or strips, or a tile larger than the largest picture.
        UnreadableError: its compression is not read, or it is a camera's RAW.
    """
    directory = _directory(data)
    if directory is None:
        return Container(data)  # Pillow refuses it
    _check_kind(directory)
    _check_work(directory)
    width, height = directory.number(_WIDTH), directory.number(_HEIGHT)
    return Container(data, size=(width, height) if width and height else None, notes=_notes(directory))


def is_white_zero(data: bytes) -> bool:
    """Return whether 0 is white, which Pillow heeds at 8 bits and not at 16."""
    directory = _directory(data)
    return directory is not None and directory.number(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO


@dataclass(frozen=True, slots=True)
class _Directory:
    data: bytes
    order: str
    tags: dict[int, tuple[int, int, int]]  # tag → type, count, offset of the first value
    next: int

    def count(self, tag: int) -> int:
        return self.tags[tag][1] if tag in self.tags else 0

    def number(self, tag: int, default: int = 0) -> int:
        found = self.numbers(tag, 1)
        return found[0] if found else default

    def numbers(self, tag: int, at_most: int = MAX_STRIPS) -> tuple[int, ...]:
        kind, count, offset = self.tags.get(tag, (0, 0, 0))
        if kind not in _NUMBERS:
            return ()
        form = f"{self.order}{min(count, at_most)}{_NUMBERS[kind]}"
        if offset + struct.calcsize(form) > len(self.data):
            return ()
        return struct.unpack_from(form, self.data, offset)


def _directory(data: bytes) -> _Directory | None:
    order, big = "<" if data[:1] == b"I" else ">", data[2:3] == b"+"
    word, entry = ("Q", "HHQ") if big else ("I", "HHI")
    inline, step = struct.calcsize(word), struct.calcsize(f"<{entry}{word}")
    try:
        (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        if count > MAX_TAGS:
            raise BombError
        at += 8 if big else 2
        tags: dict[int, tuple[int, int, int]] = {}
        for here in range(at, at + count * step, step):
            tag, kind, number = struct.unpack_from(order + entry, data, here)
            value = here + step - inline
            if _SIZES.get(kind, 1) * number > inline:
                (value,) = struct.unpack_from(order + word, data, value)
            tags.setdefault(tag, (kind, number, value))  # Pillow keeps the first of two as well
        (following,) = struct.unpack_from(order + word, data, at + count * step)
    except struct.error:
        return None
    return _Directory(data, order, tags, following)


def _check_kind(directory: _Directory) -> None:
    is_preview = directory.number(_SUBFILE) & 1 and _SUB_DIRECTORIES in directory.tags
    if _DNG in directory.tags or is_preview:
        raise UnreadableError("is a camera's RAW photo; develop it and save it as TIFF or JPEG")
    compression = directory.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        name = _NAMES.get(compression, f"number {compression}")
        raise UnreadableError(f"is a TIFF whose compression ({name}) is not read; save it with LZW or ZIP")


def _check_work(directory: _Directory) -> None:
    strips = max(directory.count(_STRIP_OFFSETS), directory.count(_TILE_OFFSETS))
    tile = directory.number(_TILE_WIDTH), directory.number(_TILE_HEIGHT)
    if strips > MAX_STRIPS or max(tile) > 2 * MAX_SIDE or tile[0] * tile[1] > 2 * MAX_PIXELS:
        raise BombError
    if directory.number(_COMPRESSION, 1) == _JPEG:
        offsets = directory.numbers(_STRIP_OFFSETS) or directory.numbers(_TILE_OFFSETS)
        lengths = directory.numbers(_STRIP_BYTES) or directory.numbers(_TILE_BYTES)
        if sum(lengths) > 2 * len(directory.data):
            raise BombError
        for offset, length in zip(offsets, lengths, strict=False):
            if directory.data.find(_PROGRESSIVE, offset, offset + length) >= 0:
                raise BombError


def _notes(directory: _Directory) -> tuple[str, ...]:
    notes = []
    if directory.next:
        notes.append("has several pages; its first page is painted")
    if _LAYERS in directory.tags:
        notes.append("has layers; they are kept as one picture")
    if 0 in directory.numbers(_EXTRA_SAMPLES, 8):
        notes.append("has extra channels, which are not kept")
    if directory.count(_BITS) > 1 and directory.number(_BITS) > 8:
        notes.append(SIXTEEN_BITS)
    return tuple(notes)
