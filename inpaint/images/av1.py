"""The sizes that AV1 data declare, from which a decoder takes its memory.

Source: AV1 Bitstream and Decoding Process Specification, sections 5.3 (open bitstream units) and 5.5 (the
sequence header).
"""

from collections.abc import Iterator

from inpaint.images.container import BombError
from inpaint.request import MAX_PIXELS, MAX_SIDE

MAX_FRAMES = 64  # of one still picture: one, or one for each layer
MAX_UNITS = 10_000  # a picture may have 4096 tiles, each in a unit
_MAX_DECLARED = 4 * MAX_PIXELS  # a picture, its alpha, a gain map and a thumbnail
_SLACK = 64  # pixels by which coded sides may exceed the picture's
_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
_HEAD = 512  # bytes that hold the longest sequence header up to its sizes: 32 operating points


class Budget:
    """The budget that the parts of one file may declare together."""

    def __init__(self) -> None:
        self._pixels = self._units = 0

    def add(self, data: bytes) -> None:
        """Count one part; data that are not AV1 declare nothing.

        Raises:
            BombError: the parts declare too much, or this one has too many frames.
        """
        frames = 0
        for kind, start, end in _units(data):
            self._units += 1
            frames += kind in (_FRAME_HEADER, _FRAME)
            if kind == _SEQUENCE:
                width, height = sequence_size(data[start:end])
                self._pixels += width * height
                if max(width, height) > MAX_SIDE + _SLACK:
                    raise BombError
            if frames > MAX_FRAMES or self._units > MAX_UNITS or self._pixels > _MAX_DECLARED:
                raise BombError


def _units(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each open bitstream unit's kind, start and end, until one cannot be followed."""
    at = 0
    while at < len(data):
        header = data[at]
        at += 2 if header & 4 else 1
        if header & 0x81 or at > len(data):  # the forbidden and the reserved bit: not AV1
            return
        length = len(data) - at
        if header & 2:
            length, at = _leb128(data, at)
        if at + length > len(data):
            return
        yield header >> 3 & 15, at, at + length
        at += length


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, and the offset behind it."""
    value = 0
    for index, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << (7 * index)
        if not byte & 128:
            return value, at + index + 1
    return len(data), at + 8


def sequence_size(data: bytes) -> tuple[int, int]:
    """Return the largest (width, height) of a sequence header's frames, in pixels."""
    bits = _Bits(data)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # the reduced header of a still picture
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_operating_points(bits: "_Bits") -> None:
    delay_bits, has_model = 0, 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.skip_uvlc()
        has_model = bits.take(1)
        if has_model:
            delay_bits = bits.take(5) + 1
            bits.take(42)
    has_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if has_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_delay and bits.take(1):
            bits.take(4)


class _Bits:
    """A reader of bits, from the highest of each byte; behind the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data[:_HEAD], 0
        self._value = int.from_bytes(self._data.ljust(_HEAD, b"\0"), "big")

    def take(self, count: int) -> int:
        self._at += count
        shift = 8 * _HEAD - self._at
        return self._value >> shift & ((1 << count) - 1) if shift >= 0 else 0

    def skip_uvlc(self) -> None:
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros)
