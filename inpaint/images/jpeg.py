"""JPEG's markers: decode bombs are found before Pillow reads them.

Pillow goes through markers in Python, 2 µs or more each, and libjpeg through every scan of every pixel:
20 MB that hold nothing else take from 4 seconds (comments) to 15 minutes (scans of 44 bytes each). Good files
are far from these limits. A file whose structure cannot be followed here is left to Pillow, which refuses it.
"""

import re

from inpaint.images.container import BombError, Container

MAX_SEGMENTS = 2_000  # a colour profile may need 255
MAX_SCANS = 100  # a progressive file has about 10
MAX_SCANNED = 400_000_000  # pixels × scans: 16 scans of the largest picture that is read
MAX_PADDING = 65_536  # bytes between segments

_START = b"\xff\xd8"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no stuffed byte, no restart marker, no padding
_START_OF_SCAN, _END = 0xDA, 0xD9
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = (0x01, 0xD8)


def inspect(data: bytes) -> Container:
    """Follow a JPEG's markers up to the end of its first picture.

    Phones append films, whose bytes may look like markers.

    Raises:
        BombError: it has too many segments or scans, or too much between them.
    """
    at, segments, scans, padding, pixels = len(_START), 0, 0, 0, 0
    while (marker := _MARKER.search(data, at, len(data) if scans else at + MAX_PADDING)) is not None:
        kind = data[marker.start() + 1]
        if not scans:  # after a scan's start, bytes between markers are the picture's own
            padding += marker.start() - at
        segments += 1
        scans += kind == _START_OF_SCAN
        if kind in _START_OF_FRAME:
            pixels = _pixels(data[marker.end() : marker.end() + 7])
        if segments > MAX_SEGMENTS or scans > MAX_SCANS or padding > MAX_PADDING:
            raise BombError
        if scans * pixels > MAX_SCANNED:
            raise BombError
        if kind == _END:
            return Container(data)
        at = marker.end()
        if kind not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    if not scans and len(data) - at > MAX_PADDING:
        raise BombError
    return Container(data)


def _pixels(frame: bytes) -> int:
    """Return width × height of a frame header: its length (2 bytes), precision (1), height and width."""
    return int.from_bytes(frame[3:5], "big") * int.from_bytes(frame[5:7], "big")
