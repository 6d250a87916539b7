"""WebP's chunks: the size, whether the pixels are kept without loss, and whether it is animated.

Source: https://developers.google.com/speed/webp/docs/riff_container.
"""

from collections.abc import Iterator

from inpaint.images.container import ANIMATED, Container

_FRAME_HEADER = 16  # bytes in front of a frame's own chunks
_MAX_CHUNKS = 1_000  # before the first frame's pixels


def inspect(data: bytes) -> Container:
    """Follow a WebP's chunks up to the pixels of its first frame."""
    size, lossless, animated = None, False, False
    for kind, body in _chunks(data, 12):
        if kind == b"ANMF":
            animated = True
            continue
        if kind == b"VP8X":
            size = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        if kind in (b"VP8L", b"VP8 "):
            lossless = kind == b"VP8L"
            size = size or (_lossless_size(body) if lossless else _lossy_size(body))
            break
    return Container(data, size=size, lossless=lossless, notes=(ANIMATED,) if animated else ())


def _chunks(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk's kind and the start of its body; a frame is followed by its own chunks."""
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield kind, data[at + 8 : at + 8 + min(length, 16)]
        at += 8 + (_FRAME_HEADER if kind == b"ANMF" else length + length % 2)


def _lossless_size(body: bytes) -> tuple[int, int]:
    bits = int.from_bytes(body[1:5], "little")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)


def _lossy_size(body: bytes) -> tuple[int, int]:
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
