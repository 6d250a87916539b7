"""Files that an attacker sends as pictures: bombs, other formats, damaged ones; and odd, honest pictures."""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from tests.inpaint.images.test_bombs import chunk
from tests.support.odd_pictures import tiff_of
from tests.support.served import PHOTO, SIZE, file_of, photo, white_box


def png(width: int, height: int, *extra: bytes, rows: bytes | None = None, depth: int = 1) -> bytes:
    """Return a grey PNG that declares this size; all pixels are black unless ``rows`` are given."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    data = zlib.compress(bytes((1 + -(-width * depth // 8)) * height)) if rows is None else rows
    pieces = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def webp(width: int, height: int) -> bytes:
    """Return a lossless WebP that declares this size."""
    pixels = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(20)
    chunk = b"VP8L" + struct.pack("<I", len(pixels)) + pixels + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def animation(first: Image.Image, kind: str) -> bytes:
    frames = [photo(first.size, colour) for colour in ("red", "green")]
    return file_of(first, kind, save_all=True, append_images=frames)


def archive(name: str = "a.png", content: bytes = PHOTO) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(name, content)
    return file.getvalue()


JPEG = file_of(Image.effect_noise((48, 32), 80).convert("RGB"), "JPEG")
GIF_BOMB = b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
PACKED_MB = zlib.compress(bytes(10**6))
TEXTS = b"".join(chunk(b"zTXt", b"%d\0\0" % i + PACKED_MB) for i in range(500))
BAD_PICTURES: dict[str, bytes] = {
    "png of 20000×20000": png(20_000, 20_000, rows=zlib.compress(b"\0")),
    "png of 20000×20000, all there": png(20_000, 20_000),
    "png of 88 megapixels, which Pillow would read": png(9400, 9400),
    "png of 2^31": png(2**31 - 1, 2**31 - 1, rows=b""),
    "png of no width": png(0, 16, rows=b""),
    "webp of 16383×16383": webp(16_383, 16_383),
    "gif of 65535×65535": GIF_BOMB,
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(64),
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "jpeg cut to 60 %": JPEG[: len(JPEG) * 6 // 10],
    "png cut to 60 %": PHOTO[: len(PHOTO) * 6 // 10],
    "png with a bad checksum": PHOTO[:-20] + bytes([PHOTO[-20] ^ 1]) + PHOTO[-19:],
    "png without pixels": PHOTO[:33] + chunk(b"IEND", b""),
    "1 pixel": file_of(photo((1, 1))),
    "1×5000": file_of(photo((1, 5000))),
    "5000×1": file_of(photo((5000, 1))),
    "1:17": file_of(photo((16 * 17, 16))),
    "16×8193": file_of(photo((16, 8193))),
    "tiff cut to 60 %": file_of(photo(), "TIFF")[: len(file_of(photo(), "TIFF")) * 6 // 10],
    "tiff of 20000×20000": tiff_of({256: (4, 1, 20_000), 257: (4, 1, 20_000), 273: (4, 1, 8)}),
    "bmp": file_of(photo(), "BMP"),
    "ico": file_of(photo((32, 32)), "ICO"),
    "ppm": file_of(photo(), "PPM"),
    "pdf": file_of(photo(), "PDF"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "html": b"<script>fetch('http://127.0.0.1')</script>",
    "zip": archive(),
    "zip before a png": archive() + PHOTO,
    "gif before a png": GIF_BOMB + PHOTO,
    "html before a jpeg": b"<!--" + JPEG + b"-->",
    "gzip": zlib.compress(PHOTO),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "nothing": b"",
    "zeros": bytes(4096),
    "letters": b"A" * 4097,
}


def odd_pictures(size: tuple[int, int] = SIZE) -> dict[str, bytes]:
    """Return files that are unusual, but pictures, of this size."""
    plain, mask = photo(size), white_box(size)
    png = file_of(plain)
    grey = np.linspace(0, 65535, size[0] * size[1], dtype=np.uint16).reshape(size[::-1])
    return {
        "16 bit": file_of(Image.fromarray(grey)),
        "1 bit": file_of(mask.convert("1")),
        "palette": file_of(plain.quantize(8)),
        "tiff": file_of(plain, "TIFF"),
        "avif": file_of(plain, "AVIF"),
        "500 MB of text": png[:33] + TEXTS + png[33:],
        "palette with a clear colour": file_of(plain.quantize(8), transparency=0),
        "grey and alpha": file_of(mask.convert("LA")),
        "cmyk": file_of(plain.convert("CMYK"), "JPEG"),
        "progressive": file_of(plain, "JPEG", progressive=True),
        "animated png": animation(plain, "PNG"),
        "animated webp": animation(plain, "WEBP"),
        "a zip behind it": png + archive(),
        "html behind it": file_of(plain, "JPEG") + b"<script>alert(1)</script>",
        "html inside it": file_of(plain, "JPEG", comment=b"<script>alert(1)</script>"),
    }
