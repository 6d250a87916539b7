"""Files that declare far more than they hold are refused before any decoder takes memory for them."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from inpaint.errors import RequestError
from inpaint.images import av1, heif, png, tiff
from inpaint.images.codec import decode
from tests.support.odd_pictures import Make, file_of, photo, tiff_of

TAGS = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}


def bits(*fields: tuple[int, int]) -> bytes:
    """Pack (value, number of bits) from the highest bit of each byte."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def sequence(width: int, height: int, *, reduced: bool = True, points: int = 1) -> bytes:
    """Return an AV1 sequence header up to its sizes."""
    sizes = [(15, 4), (15, 4), (width - 1, 16), (height - 1, 16)]
    if reduced:
        return bits((0, 3), (1, 1), (1, 1), (8, 5), *sizes)
    head = [
        (0, 3),
        (0, 1),
        (0, 1),
        (1, 1),
        (1, 32),
        (30, 32),
        (1, 1),
        (2, 3),
    ]  # timing, and an uvlc of 3 bits
    head += [(1, 1), (9, 5), (1, 32), (9, 5), (9, 5), (1, 1), (points - 1, 5)]  # decoder model
    each = [(1, 12), (9, 5), (0, 1), (1, 1), (0, 10), (0, 10), (0, 1), (1, 1), (3, 4)]
    return bits(*head, *(each * points), *sizes)


def unit(kind: int, body: bytes = b"") -> bytes:
    return bytes([kind << 3 | 2, len(body)]) + body if len(body) < 128 else bytes([kind << 3]) + body


@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("points", [1, 5, 32])
def test_a_sequence_headers_size_is_read(reduced: bool, points: int) -> None:
    """From both forms of the header, with any number of operating points."""
    assert av1.sequence_size(sequence(8191, 4097, reduced=reduced, points=points)) == (8191, 4097)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(160, 120), (16, 17), (1000, 31)])
def test_the_size_of_a_real_avif_is_read_from_its_data(mode: str, size: tuple[int, int]) -> None:
    """The test above would pass for a reading that is wrong in both places."""
    data = file_of(photo(mode, size), "AVIF")
    found = []
    at = data.index(b"mdat") + 4
    for kind, start, end in av1._units(data[at:]):
        if kind == 1:
            found.append(av1.sequence_size(data[at:][start:end]))
    assert size in found


def avif_with(body: bytes, count: int = 1, size: tuple[int, int] = (64, 64), extents: int = 1) -> bytes:
    """Return an AVIF of ``count`` items, each of which lies in ``extents`` pieces of the same bytes."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    head = box(b"ftyp", b"avif" + bytes(4) + b"avifmif1miaf")
    ispe = box(b"iprp", box(b"ipco", box(b"ispe", bytes(4) + struct.pack(">II", *size))))

    def meta(at: int) -> bytes:
        piece = struct.pack(">II", at, len(body))
        items = b"".join(struct.pack(">HHH", n, 0, extents) + piece * extents for n in range(count))
        return box(
            b"meta", bytes(4) + box(b"iloc", bytes(4) + struct.pack(">HH", 0x4400, count) + items) + ispe
        )

    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", body)


FRAME = unit(6, bytes(8))
BOMBS: dict[str, Make] = {
    "avif of 16384×16384 in its data": lambda: avif_with(unit(1, sequence(16_384, 16_384)) + FRAME),
    "avif of 65536×16 in its data": lambda: avif_with(unit(1, sequence(65_536, 16)) + FRAME),
    "the same with the long header": lambda: avif_with(unit(1, sequence(16_384, 16_384, reduced=False))),
    "the same in a second header": lambda: avif_with(
        unit(1, sequence(64, 64)) + FRAME + unit(1, sequence(16_384, 16_384)) + FRAME
    ),
    "parts that are large together": lambda: avif_with(unit(1, sequence(8000, 3000)) * 5),
    "a thousand hidden frames": lambda: avif_with(unit(1, sequence(64, 64)) + FRAME * 1000),
    "units without end": lambda: avif_with(unit(2) * 20_000),
    "the same bytes in many parts": lambda: avif_with(unit(1, sequence(64, 64)) + bytes(9000), count=900),
    "a part in too many pieces": lambda: avif_with(bytes(64), extents=3000),
    "too many parts": lambda: avif_with(bytes(8), count=3000),
    "tiff of a million strips": lambda: tiff_of(TAGS | {273: (4, 10**6, 8)}, bytes(4 * 10**6)),
    "tiff of a million tiles": lambda: tiff_of(
        TAGS | {322: (4, 1, 1), 323: (4, 1, 1), 324: (4, 10**6, 8)}, bytes(4 * 10**6)
    ),
    "tiff with a tile of 3 GB": lambda: tiff_of(
        TAGS | {322: (4, 1, 65_536), 323: (4, 1, 65_536), 324: (4, 1, 8)}
    ),
    "tiff with a tile of 100 megapixels": lambda: tiff_of(
        TAGS | {322: (4, 1, 10_000), 323: (4, 1, 10_000), 324: (4, 1, 8)}
    ),
    "tiff of 60000 tags": lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + bytes(12 * 60_000),
    "bigtiff of 2^40 tags": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40),
    "tiff of progressive jpeg": lambda: tiff_of(
        TAGS | {259: (3, 1, 7), 273: (4, 1, 8), 279: (4, 1, 64)}, b"\xff\xd8\xff\xc2" + bytes(60)
    ),
    "tiff of jpeg strips that overlap": lambda: tiff_of(
        TAGS | {259: (3, 1, 7), 273: (4, 1000, 8), 279: (4, 1000, 8)}, struct.pack("<I", 5000) * 1000
    ),
    "png of 30000 chunks": lambda: png.with_colour(file_of(photo(), "PNG"), ((b"prVt", b""),) * 30_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_declares_too_much_is_refused_undecoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An AVIF of 1 kB took 560 MB, a TIFF of 4 MB would make a million objects."""
    monkeypatch.setattr("inpaint.images.codec.Image.open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(RequestError, match="far too many chunks or scans, or parts far larger"):
        decode(BOMBS[name]())


@pytest.mark.parametrize("make", [lambda size: avif_with(FRAME, size=size), lambda size: webp(*size)])
@pytest.mark.parametrize("size", [(6000, 6000), (16_383, 16_383)])
def test_a_declared_size_is_refused_with_its_numbers(
    make: Callable[[tuple[int, int]], bytes], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the decoder is made: libwebp takes memory for its canvas then."""
    monkeypatch.setattr("inpaint.images.codec.Image.open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(RequestError, match=f"{size[0]}×{size[1]}"):
        decode(make(size))


def webp(width: int, height: int) -> bytes:
    pixels = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(20)
    body = b"VP8L" + struct.pack("<I", len(pixels)) + pixels + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize("data", [b"", b"\0", bytes(64), b"\0\0\0\1meta", b"\xff" * 64])
def test_what_cannot_be_followed_is_left_to_the_decoder(data: bytes) -> None:
    """Its error says more than this check could."""
    avif = b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + data
    for inspect, file in (
        (heif.inspect, avif),
        (tiff.inspect, b"II*\0\xff\xff\0\0" + data),
        (png.inspect, png.SIGNATURE + data),
    ):
        assert inspect(file).data == file


def test_no_damaged_file_raises_anything_but_a_refusal() -> None:
    """No upload may make the server answer 5xx, not even with -W error."""
    rng = np.random.default_rng(0)
    files = [file_of(photo(mode, (40, 30)), "AVIF") for mode in ("L", "RGB", "RGBA")]
    files += [
        file_of(photo(mode, (40, 30)), "TIFF", compression=packing)
        for mode in ("L", "RGBA", "I;16", "CMYK")
        for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate")
    ]
    files += [file_of(photo("RGB", (40, 30)), "TIFF", compression="jpeg")]
    read = refused = 0
    for _ in range(1500):
        data = bytearray(files[rng.integers(len(files))])
        for _ in range(rng.integers(1, 6)):
            place = rng.integers(8, len(data)) if rng.random() < 0.5 else rng.integers(8, min(400, len(data)))
            data[place] = rng.integers(256)
        if rng.random() < 0.2:
            del data[rng.integers(20, len(data)) :]
        try:
            picture = decode(bytes(data))
        except RequestError:
            refused += 1
        else:
            read += 1
            assert picture.image.mode in ("L", "LA", "RGB", "RGBA", "I;16")
    assert min(read, refused) > 100, "else the damage is too large or too small to test anything"
