"""PNG's chunks: texts that Pillow refuses are taken out, and those that say what colours mean are kept.

Pillow refuses a PNG for a text or a colour profile that unpacks to more than 1 MiB. No pixel needs the text,
and such a profile is unpacked here, up to a limit. An animation's chunks are taken out too: only the first
frame is painted. Source: https://www.w3.org/TR/png-3/.
"""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from inpaint.images.container import ANIMATED, SIXTEEN_BITS, BombError, Colour, Container

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 20_000  # 20 MB in chunks of 1 kB
MAX_ICC_BYTES = 16_000_000  # as much as a JPEG holds
COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")

_MAX_TEXT_BYTES = 1_048_576  # unpacked, of a text or a profile: Pillow's MAX_TEXT_CHUNK
_MAX_TEXTS_BYTES = 16 * _MAX_TEXT_BYTES  # of all texts that are unpacked to be measured
_HEADER_END = len(SIGNATURE) + 25  # behind the chunk IHDR, which comes first
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_TEXTS = (b"zTXt", b"iTXt")

FAST, SMALL = 1, 6  # levels of zlib; 6 is Pillow's own
_WORTH = 1.3  # the sizes at FAST and SMALL, from which SMALL is worth its time
_STRIPS, _STRIP_ROWS, _STRIP_COLUMNS = 4, 16, 2048  # of a picture that is tried


def inspect(data: bytes) -> Container:
    """Follow a PNG's chunks.

    Raises:
        BombError: there are too many.
    """
    filter_ = _Filter(data)
    kinds, kept, at = set(), [SIGNATURE], len(SIGNATURE)
    for kind, end in _chunks(data):
        kinds.add(kind)
        if filter_.keeps(kind, at, end):
            kept.append(data[at:end])
        at = end
    kept.append(data[at:])
    whole = len(data) == sum(map(len, kept))
    notes = [ANIMATED] if b"acTL" in kinds else []
    if data[24:25] == b"\x10" and data[25:26] in (b"\2", b"\4", b"\6"):  # the depth, and the kind of colour
        notes.append(SIXTEEN_BITS)
    return Container(
        data=data if whole else b"".join(kept),
        icc_profile=filter_.icc,
        colour=tuple(filter_.colour.items()),
        notes=tuple(notes),
    )


def compress_level(image: Image.Image) -> int:
    """Return zlib's level for a picture: FAST for a photograph, SMALL for one with flat areas.

    Strips of the picture are tried. FAST takes a third of the time (1.5 seconds for 24 megapixels)
    and makes a photograph 0 to 27 % larger; a drawing or a gradient would be two to four times as large.
    """
    width, rows = min(image.width, _STRIP_COLUMNS), min(image.height, _STRIP_ROWS)
    left, space = (image.width - width) // 2, image.height - rows
    tried = Image.new(image.mode, (width, rows * _STRIPS))
    for strip in range(_STRIPS):
        top = space * (2 * strip + 1) // (2 * _STRIPS)
        tried.paste(image.crop((left, top, left + width, top + rows)), (0, rows * strip))
    return FAST if _size(tried, FAST) < _WORTH * _size(tried, SMALL) else SMALL


def _size(image: Image.Image, level: int) -> int:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=level)
    return file.tell()


def with_colour(data: bytes, colour: Colour) -> bytes:
    """Return a PNG's bytes with the chunks of ``colour`` behind its header, where every decoder looks."""
    added = b"".join(_chunk(kind, body) for kind, body in colour)
    return data[:_HEADER_END] + added + data[_HEADER_END:] if added else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each chunk's kind and end; what cannot be followed is left to Pillow, which refuses it."""
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            return
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        yield data[at + 4 : at + 8], end
        at = end
    if at + 12 <= len(data):
        raise BombError


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


class _Filter:
    """The choice of the chunks that Pillow gets, and what is read from them on the way."""

    def __init__(self, data: bytes) -> None:
        self._data, self._budget = data, _MAX_TEXTS_BYTES
        self._has_profile = False
        self.icc: bytes | None = None
        self.colour: dict[bytes, bytes] = {}

    def keeps(self, kind: bytes, start: int, end: int) -> bool:
        """Return whether Pillow gets the chunk; a profile that it would refuse is kept in ``icc``."""
        if kind in COLOUR:
            self.colour.setdefault(kind, self._data[start + 8 : end - 4])
        if kind in _TEXTS:
            return self._is_readable(kind, self._data[start + 8 : end - 4])
        if kind == b"iCCP":
            return self._is_small_profile(self._data[start + 8 : end - 4])
        return kind not in _ANIMATION

    def _is_small_profile(self, body: bytes) -> bool:
        if self._has_profile:
            return False
        self._has_profile = True
        _, _, packed = body.partition(b"\0")
        self.icc = _unpack(packed[1:], MAX_ICC_BYTES) if packed[:1] == b"\0" else None
        return self.icc is not None and len(self.icc) <= _MAX_TEXT_BYTES

    def _is_readable(self, kind: bytes, body: bytes) -> bool:
        _, _, rest = body.partition(b"\0")
        if kind == b"iTXt":
            if rest[:1] == b"\0":  # not compressed
                return True
            packed, method = b"\0".join(rest[2:].split(b"\0", 2)[2:]), rest[1:2]
        else:
            packed, method = rest[1:], rest[:1]
        if method != b"\0" or self._budget <= 0:
            return False
        text = _unpack(packed, _MAX_TEXT_BYTES)
        self._budget -= _MAX_TEXT_BYTES if text is None else len(text)
        return text is not None


def _unpack(packed: bytes, limit: int) -> bytes | None:
    """Return what zlib unpacks; None if that is damaged or longer than ``limit``."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, limit)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail else text
