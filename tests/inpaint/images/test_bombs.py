"""Decode bombs: small files that would take minutes to decode."""

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import RequestError
from inpaint.images import jpeg, png
from inpaint.images.codec import decode

Make = Callable[[], bytes]


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(kind: int, body: bytes = b"") -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body


def saved(name: str, size: int = 64, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, name, **options)
    return file.getvalue()


def png_with(pieces: bytes) -> bytes:
    """Insert chunks after a PNG's header and before its pixels."""
    plain = saved("PNG")
    return plain[:33] + pieces + plain[33:]


def jpeg_with(pieces: bytes) -> bytes:
    """Insert segments at the start of a JPEG."""
    plain = saved("JPEG")
    return plain[:2] + pieces + plain[2:]


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """Make a black progressive JPEG of scans of 44 bytes, none of which changes any block."""
    blocks = (-(-side // 8)) ** 2
    header = segment(0xDB, b"\0" + b"\1" * 64)
    header += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    header += segment(0xC4, b"\0\1" + bytes(15) + b"\0")  # code 0: no difference
    header += segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")  # code 0: a run of 2^14 + 14 bits blocks
    flat = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8))
    bits = ("0" + "1" * 14) * -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    run = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return (
        b"\xff\xd8" + header + flat + (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + run) * scans + b"\xff\xd9"
    )


DECODE_BOMBS: dict[str, Make] = {
    "a million private chunks": lambda: png_with(chunk(b"prVt") * 1_000_000),
    "a million empty pieces of pixels": lambda: png_with(chunk(b"IDAT") * 1_000_000),
    "a hundred thousand texts": lambda: png_with(chunk(b"tEXt", b"key\0text") * 100_000),
    "a million comments": lambda: jpeg_with(segment(0xFE) * 1_000_000),
    "padding": lambda: jpeg_with(b"\xff" * 15_000_000),
    "rubbish": lambda: jpeg_with(b"\xff\xe5\0\2" + bytes(15_000_000)),
    "scans": lambda: jpeg_of_scans(4096, 20_000),
    "a hundred scans of the largest picture": lambda: jpeg_of_scans(4992, 99),
    "tables between scans": lambda: saved("JPEG")[:-2] + segment(0xFE) * 1_000_000 + b"\xff\xd9",
}


@pytest.mark.parametrize("make", DECODE_BOMBS.values(), ids=DECODE_BOMBS)
def test_a_decode_bomb_is_refused_immediately(make: Make) -> None:
    """Some of these took Pillow 15 minutes, others delayed all other requests of a server for 8 seconds."""
    data = make()
    started = time.thread_time()
    with pytest.raises(RequestError, match="too many chunks or scans"):
        decode(data)
    assert time.thread_time() - started < 0.2


GOOD: dict[str, Make] = {
    "jpeg": lambda: saved("JPEG", 1024, quality=100),
    "progressive": lambda: saved("JPEG", 1024, progressive=True),
    "restarts": lambda: saved("JPEG", 1024, restart_marker_blocks=1),
    "profile in pieces": lambda: saved("JPEG", icc_profile=bytes(16) + b"RGB " + bytes(3_000_000)),
    "some scans": lambda: jpeg_of_scans(64, 50),
    "twelve scans of the largest picture": lambda: jpeg_of_scans(4992, 11),
    "padded": lambda: jpeg_with(b"\xff" * 1000),
    "film behind": lambda: saved("JPEG") + bytes(np.random.default_rng(1).integers(0, 256, 10**7, np.uint8)),
    "png": lambda: saved("PNG", 1024),
    "png in small pieces": lambda: png_with(chunk(b"tEXt", b"key\0text") * 1000),
    "profiles of 1 MB in 1 kB": lambda: png_with(
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**6))) * 2000
    ),
    "texts of 1 MB in 1 kB": lambda: png_with(chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**6))) * 2000),
    "webp": lambda: saved("WEBP", lossless=True),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_good_files_are_far_from_the_limits(make: Make) -> None:
    """A photographer's large, progressive and motion pictures are accepted."""
    decode(make())


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n\0"]
)
def test_what_cannot_be_followed_is_left_to_pillow(data: bytes) -> None:
    """Pillow's error describes a file that was cut off better than this check could."""
    inspect = png.inspect if data.startswith(png.SIGNATURE) else jpeg.inspect
    assert inspect(data).data == data
