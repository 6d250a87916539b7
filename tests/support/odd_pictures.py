"""Odd but honest picture files of other programs, of 160×120 pixels, made from their formats' parts."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

W, H = 160, 120
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LONG = zlib.compress(b"x" * 3_000_000)
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:Orientation="6"><dc:rights>Jane Doe</dc:rights></rdf:Description></rdf:RDF></x:xmpmeta>'
    b'<?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x74\x00\x08Jane Doe"  # record 2, data set 116: the copyright
GAMMA = (b"gAMA", struct.pack(">I", 100_000))
P3 = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
CICP = (b"cICP", bytes([12, 13, 0, 1]))
MASTERING = (b"mDCV", bytes(24))
LIGHT = (b"cLLI", bytes(8))
INTENT = (b"sRGB", b"\0")

Make = Callable[[], bytes]


def photo(mode: str = "RGB", size: tuple[int, int] = (W, H)) -> Image.Image:
    """Return noise: its every bit is lost by a lossy format."""
    rng = np.random.default_rng(5)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, size[::-1], dtype=np.uint16))
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8))
    return image.convert("RGB").quantize(64) if mode == "P" else image.convert(mode)


def file_of(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def stroke() -> Image.Image:
    """Return a mask."""
    mask = Image.new("RGB", (W, H))
    mask.paste("white", (W // 4, H // 4, W // 2, H // 2))
    return mask


def png_with(*chunks: tuple[bytes, bytes], end: bool = False, of: Callable[[], Image.Image] = photo) -> bytes:
    """Return a PNG with chunks behind its header, or behind its pixels."""
    plain, added = file_of(of(), "PNG"), b"".join(chunk(*each) for each in chunks)
    return plain[:-12] + added + plain[-12:] if end else plain[:33] + added + plain[33:]


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """Return every chunk of a PNG: kind and body."""
    at, found = 8, []
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def profile_of(size: int) -> bytes:
    """Return a profile of ``size`` bytes, most of them padding."""
    profile = bytearray(SRGB) + bytes(size - len(SRGB))
    profile[:4] = struct.pack(">I", size)
    return bytes(profile)


def rgb16_png() -> bytes:
    raw = (np.asarray(photo()).astype(">u2") * 257).tobytes()
    rows = b"".join(b"\0" + raw[6 * W * row : 6 * W * (row + 1)] for row in range(H))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def tiff_of(
    tags: Mapping[int, tuple[int, int, int]], pixels: bytes = b"", order: str = "<", following: int = 0
) -> bytes:
    """Return a TIFF of one directory: tag → type, count and value or offset; its pixels are at offset 8."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, count)
        + (
            struct.pack(order + "HH", value, 0)
            if kind == 3 and count == 1
            else struct.pack(order + "I", value)
        )
        for tag, (kind, count, value) in sorted(tags.items())
    )
    return head + pixels + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following)


def _text(kind: bytes, key: bytes = b"workflow") -> tuple[bytes, bytes]:
    return (b"zTXt", key + b"\0\0" + LONG) if kind == b"zTXt" else (b"iTXt", key + b"\0\1\0\0\0" + LONG)


def _comfy() -> bytes:
    info = PngInfo()
    info.add_text("prompt", '{"1":{}}' * 25_000)
    info.add_text("workflow", '{"a":1}' * 28_000)
    return file_of(photo(), "PNG", pnginfo=info)


# The inputs of other projects' bug reports, by the names under which they were tried, and their neighbours.
BIG_METADATA: Mapping[str, Make] = {
    "ztxt_3mb.png": lambda: png_with(_text(b"zTXt")),
    "itxt_3mb.png": lambda: png_with(_text(b"iTXt")),
    "iccp_2mb_real.png": lambda: file_of(photo(), "PNG", icc_profile=profile_of(1_400_000)),
    "ztxt_behind.png": lambda: png_with(_text(b"zTXt"), end=True),
    "itxt_xmp.png": lambda: png_with(_text(b"iTXt", b"XML:com.adobe.xmp")),
    "forty_texts.png": lambda: png_with(*[_text(b"zTXt", b"key%d" % n) for n in range(40)]),
    "ztxt_unknown_packing.png": lambda: png_with((b"zTXt", b"key\0\7" + LONG)),
    "text_3mb.png": lambda: png_with((b"tEXt", b"workflow\0" + b"{" * 3_000_000)),
    "comfy.png": _comfy,
    "icc_1_4mb.jpg": lambda: file_of(photo(), "JPEG", icc_profile=profile_of(1_400_000)),
    "icc_1_4mb.webp": lambda: file_of(photo(), "WEBP", icc_profile=profile_of(1_400_000)),
    "icc_1_4mb.tif": lambda: file_of(photo(), "TIFF", icc_profile=profile_of(1_400_000)),
}
BIG_MASKS: Mapping[str, Make] = {
    "ztxt_3mb.png": lambda: png_with(_text(b"zTXt"), of=stroke),
    "itxt_3mb.png": lambda: png_with(_text(b"iTXt"), of=stroke),
    "iccp_2mb_real.png": lambda: file_of(stroke(), "PNG", icc_profile=profile_of(1_400_000)),
    "icc_1_4mb.jpg": lambda: file_of(stroke(), "JPEG", icc_profile=profile_of(1_400_000)),
}
COLOURS: Mapping[str, tuple[tuple[bytes, bytes], ...]] = {
    "gama_linear.png": (GAMMA,),
    "chrm_wide.png": ((b"gAMA", struct.pack(">I", 45_455)), P3),
    "cicp_p3.png": (CICP,),
    "srgb_chunk.png": (INTENT,),
    "hdr.png": ((b"cICP", bytes([9, 16, 0, 1])), MASTERING, LIGHT),
}
