"""AVIF and HEIC: boxes of an ISO base media file, and the sizes that they and AV1's own headers declare.

A file of 1 kB can declare 268 megapixels in two places: a box (``ispe``), which is compared with the decoded
picture only afterwards, and the AV1 data, from which the decoder takes its memory. Both are read here, before
the decoder is. Sources: ISO/IEC 14496-12 and 23008-12; the AVIF and AV1 specifications of aomedia.org.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from inpaint.images import av1
from inpaint.images.container import ANIMATED, SIXTEEN_BITS, BombError, Colour, Container
from inpaint.request import MAX_PIXELS

MAX_BOXES, MAX_ITEMS = 10_000, 2_000  # the tiles of 25 megapixels, with alpha, are some hundreds

_BT709, _UNSPECIFIED, _SRGB = 1, 2, 13
_SDR_CURVES = (1, _UNSPECIFIED, 6, _SRGB)  # shown as sRGB

Span = tuple[int, int]  # start and end, bytes


def inspect_avif(data: bytes) -> Container:
    """Follow the boxes of an AVIF file, which is then read as the still picture that it holds.

    libavif decodes the film where the major brand says that there is one; the still is its first frame.

    Raises:
        BombError: as :func:`inspect`.
    """
    found = inspect(data)
    return replace(found, data=data[:8] + b"avif" + data[12:]) if data[8:12] != b"avif" else found


def inspect(data: bytes) -> Container:
    """Follow the boxes of an AVIF or HEIC file.

    Raises:
        BombError: it declares more picture than is read, or has too many parts.
    """
    meta = _first(data, (0, len(data)), b"meta")
    notes = [ANIMATED] if data[8:12] in (b"avis", b"msf1", b"hevc", b"hevx", b"heim", b"heis") else []
    if meta is None:
        return Container(data, notes=tuple(notes))
    properties = _properties(data, meta)
    size = _largest(data, properties)
    if size is None or size[0] * size[1] <= MAX_PIXELS:  # else it is refused for its size
        _check_items(data, meta)
    if any(bits > 8 for kind, span in properties if kind == b"pixi" for bits in data[span[0] + 5 : span[1]]):
        notes.append(SIXTEEN_BITS)
    return Container(data, size=size, colour=_colour(data, properties), notes=tuple(notes))


def _boxes(data: bytes, span: Span) -> Iterator[tuple[bytes, Span]]:
    """Yield the kind and the body of each box in ``span``; what cannot be followed is left to the decoder."""
    at, end = span
    for _ in range(MAX_BOXES):
        if at + 8 > end:
            return
        size, body = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:
            size, body = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        stop = end if size == 0 else at + size
        if stop > end or stop < body:
            return
        yield data[at + 4 : at + 8], (body, stop)
        at = stop
    raise BombError


def _first(data: bytes, span: Span, kind: bytes, skip: int = 0) -> Span | None:
    return next((body for name, body in _boxes(data, (span[0] + skip, span[1])) if name == kind), None)


def _in_meta(data: bytes, meta: Span, kind: bytes) -> Span | None:
    return _first(data, meta, kind, skip=4)  # behind its version and flags


def _properties(data: bytes, meta: Span) -> Sequence[tuple[bytes, Span]]:
    container = _in_meta(data, meta, b"iprp")
    properties = container and _first(data, container, b"ipco")
    return list(_boxes(data, properties)) if properties else []


def _largest(data: bytes, properties: Sequence[tuple[bytes, Span]]) -> tuple[int, int] | None:
    sizes = [
        (
            int.from_bytes(data[start + 4 : start + 8], "big"),
            int.from_bytes(data[start + 8 : start + 12], "big"),
        )
        for kind, (start, _) in properties
        if kind == b"ispe"
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _colour(data: bytes, properties: Sequence[tuple[bytes, Span]]) -> Colour:
    """Return what the file says of its colours as PNG's chunk, unless it says sRGB or nothing."""
    for kind, (start, _) in properties:
        if kind == b"colr" and data[start : start + 4] == b"nclx":
            primaries = int.from_bytes(data[start + 4 : start + 6], "big")
            transfer = int.from_bytes(data[start + 6 : start + 8], "big")
            if max(primaries, transfer) > 255:
                return ()
            if primaries not in (_BT709, _UNSPECIFIED) or transfer not in _SDR_CURVES:
                return ((b"cICP", bytes([primaries, transfer, 0, 1])),)  # RGB, all values used
    return ()


def _check_items(data: bytes, meta: Span) -> None:
    """Raise BombError if the AV1 data of all parts together declare more than a picture and its alpha."""
    locations = _in_meta(data, meta, b"iloc")
    if locations is None:
        return
    own = _in_meta(data, meta, b"idat") or (0, 0)
    budget, unread = av1.Budget(), 2 * len(data)
    for pieces in _items(_Reader(data, *locations), own):
        unread -= sum(min(end, len(data)) - start for start, end in pieces if start < len(data))
        if unread < 0:  # the same bytes belong to many parts
            raise BombError
        budget.add(b"".join(data[start:end] for start, end in pieces))


def _items(reader: "_Reader", own: Span) -> Iterator[list[Span]]:
    """Yield where in the file each item lies, in one or more pieces; see ``iloc`` in ISO/IEC 14496-12."""
    version = reader.take(1)
    reader.take(3)
    sizes = reader.take(2)
    offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    total = 0
    for _ in range(reader.take(2 if version < 2 else 4)):
        reader.take(2 if version < 2 else 4)
        method = reader.take(2) & 15 if version else 0
        reader.take(2)
        base = reader.take(base_bytes) + (own[0] if method == 1 else 0)
        pieces, count = [], reader.take(2)
        total += 1 + count
        if total > MAX_ITEMS:
            raise BombError
        for _ in range(count):
            if version and index_bytes:
                reader.take(index_bytes)
            start = base + reader.take(offset_bytes)
            length = reader.take(length_bytes)
            pieces.append((start, start + length if length else len(reader.data)))
        yield pieces


@dataclass(slots=True)
class _Reader:
    data: bytes
    at: int
    end: int

    def take(self, count: int) -> int:
        value = int.from_bytes(self.data[self.at : min(self.at + count, self.end)], "big")
        self.at += count
        return value
