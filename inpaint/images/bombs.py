"""Decode bombs: small PNG and JPEG files that take minutes to decode, found before Pillow reads them.

Pillow goes through chunks and markers in Python, 2 µs or more each, and libjpeg through every scan of every
pixel: 20 MB that hold nothing else take from 4 seconds (comments) to 15 minutes (scans of 44 bytes each).
Good files are far from these limits. A file whose structure cannot be followed here is left to Pillow, which
refuses it.
"""

import re

MAX_PNG_CHUNKS = 20_000  # 20 MB in chunks of 1 kB
MAX_PNG_PACKED = 32  # texts and profiles, each of which may unpack to 1 MB
MAX_JPEG_SEGMENTS = 2_000  # a colour profile may need 255
MAX_JPEG_SCANS = 100  # a progressive file has about 10
MAX_JPEG_SCANNED = 400_000_000  # pixels × scans: 16 scans of the largest picture that is read
MAX_JPEG_PADDING = 65_536  # bytes between segments

_PNG = b"\x89PNG\r\n\x1a\n"
_PACKED = (b"iCCP", b"zTXt", b"iTXt")
_JPEG = b"\xff\xd8"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no stuffed byte, no restart marker, no padding
_START_OF_SCAN, _END = 0xDA, 0xD9
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = (0x01, 0xD8)


def is_decode_bomb(data: bytes) -> bool:
    """Return whether ``data``, a file's bytes, takes far more work to decode than a picture of its size."""
    if data.startswith(_PNG):
        return _png(data)
    return data.startswith(_JPEG) and _jpeg(data)


def _png(data: bytes) -> bool:
    at, chunks, packed = len(_PNG), 0, 0
    while at + 8 <= len(data):
        chunks += 1
        packed += data[at + 4 : at + 8] in _PACKED
        if chunks > MAX_PNG_CHUNKS or packed > MAX_PNG_PACKED:
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _jpeg(data: bytes) -> bool:
    """Look no further than the first picture: phones append films, whose bytes may look like markers."""
    at, segments, scans, padding, pixels = len(_JPEG), 0, 0, 0, 0
    while (marker := _MARKER.search(data, at, len(data) if scans else at + MAX_JPEG_PADDING)) is not None:
        kind = data[marker.start() + 1]
        if not scans:  # after a scan's start, bytes between markers are the picture's own
            padding += marker.start() - at
        segments += 1
        scans += kind == _START_OF_SCAN
        if kind in _START_OF_FRAME:
            pixels = _pixels(data[marker.end() : marker.end() + 7])
        if segments > MAX_JPEG_SEGMENTS or scans > MAX_JPEG_SCANS or padding > MAX_JPEG_PADDING:
            return True
        if scans * pixels > MAX_JPEG_SCANNED:
            return True
        if kind == _END:
            return False
        at = marker.end()
        if kind not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return not scans and len(data) - at > MAX_JPEG_PADDING


def _pixels(frame: bytes) -> int:
    """Return width × height of a frame header: its length (2 bytes), precision (1), height and width."""
    return int.from_bytes(frame[3:5], "big") * int.from_bytes(frame[5:7], "big")
