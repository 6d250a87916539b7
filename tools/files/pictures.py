"""Pictures of other tools: painted, written in the format that a user gets, and read again by those tools.

The difference is the largest outside the mask, as the other tool reads the file before and after.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as pillow_version

from inpaint.canvas.crop import cut, paste
from inpaint.errors import RequestError
from inpaint.images.codec import Picture, decode
from inpaint.images.metadata import write
from inpaint.request import InpaintRequest
from tools.files.row import Row

Array = NDArray[np.generic]
Reader = Callable[[bytes], Array]

CODECS, TIFFFILE = f"imagecodecs {imagecodecs.__version__}", f"tifffile {tifffile.__version__}"
HEIF, PILLOW = f"pillow-heif {pillow_heif.__version__}", f"Pillow {pillow_version}"
W, H = 160, 120
MASK = (60, 40, 100, 80)


@dataclass(frozen=True, slots=True)
class Case:
    """A file, the tool that wrote it, and the tool that reads it before and after."""

    kind: str
    tool: str
    data: bytes
    before: Reader | None = None
    after: Reader | None = None  # None: the same
    name: str = ""  # of the reader


def rows() -> list[Row]:
    return [_row(case) for case in _cases()] + [_colours(name, chunk) for name, chunk in _COLOURS.items()]


def _row(case: Case) -> Row:
    try:
        picture = decode(case.data)
    except RequestError as error:
        return Row(case.kind, case.tool, f"no: {error.problem}", None)
    painted, outside = _painted(picture)
    read = "; ".join(picture.notes)
    result = write(painted, picture, None, "PNG" if picture.format in ("AVIF", "HEIF") else None)
    written = decode(result).format
    read = f"{f'in part: it {read}' if read else 'yes'}; written as {written}"
    if case.before is None:
        return Row(case.kind, case.tool, read, None)
    was, now = _alike(case.before(case.data), (case.after or case.before)(result))
    difference = float(np.abs(now - was)[outside].max() / was.max())
    return Row(case.kind, case.tool, read, difference, f"{case.name} before and after, outside the mask")


def _painted(picture: Picture) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Paint the middle grey; return the picture, and where nothing may have changed."""
    mask = Image.new("L", picture.image.size)
    mask.paste(255, MASK)
    canvas = cut(InpaintRequest(image=picture.image, mask=mask, prompt="x"))
    patch = np.full((canvas.size[1], canvas.size[0], 3), 0.5, np.float32)
    left, top, right, bottom = canvas.box
    outside = np.ones((H, W), bool)
    outside[top:bottom, left:right] = np.asarray(canvas.paste_mask) == 0
    return paste(canvas, patch), outside


def _alike(one: Array, other: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as (H, W, channels) with the channels that both have; grey counts as three."""
    first, second = (np.atleast_3d(each.astype(np.float64)) for each in (one, other))
    channels = max(first.shape[2], second.shape[2])
    first, second = (np.repeat(e, channels, 2) if e.shape[2] == 1 else e for e in (first, second))
    channels = min(first.shape[2], second.shape[2])
    return first[..., :channels], second[..., :channels]


def _noise(*shape: int, kind: type[np.generic] = np.uint8) -> Array:
    top = 256 if kind is np.uint8 else 65_536
    return np.random.default_rng(3).integers(0, top, (H, W, *shape)).astype(kind)


def _smooth() -> Array:
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([x * 255 // W, y * 255 // H, np.full((H, W), 128)], -1).astype(np.uint8)


def _tiff(pixels: Array, **options: object) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(
        file, bigtiff=bool(options.pop("bigtiff", False)), byteorder=options.pop("byteorder", "<")
    ) as writer:
        for _ in range(int(str(options.pop("pages", 1)))):
            writer.write(pixels, **options)
    return file.getvalue()


def _read_tiff(data: bytes) -> Array:
    return np.asarray(tifffile.imread(io.BytesIO(data), key=0))


def _cases() -> list[Case]:
    return [*_tiffs(), *_pngs(), *_webps(), *_lossy(), *_refused()]


def _tiffs() -> list[Case]:
    rgb, grey16 = _noise(3), _noise(kind=np.uint16)
    files: dict[str, bytes] = {
        "TIFF, RGB in strips": _tiff(rgb, photometric="rgb"),
        "TIFF, RGB in tiles, deflate with predictor": _tiff(
            rgb, photometric="rgb", tile=(64, 64), compression="adobe_deflate", predictor=True
        ),
        "TIFF, RGB, LZW": _tiff(rgb, photometric="rgb", compression="lzw"),
        "TIFF, RGBA": _tiff(_noise(4), photometric="rgb", extrasamples=["unassalpha"]),
        "TIFF, grey of 16 bits": _tiff(grey16, photometric="minisblack"),
        "TIFF, grey of 16 bits, big-endian": _tiff(grey16, photometric="minisblack", byteorder=">"),
        "TIFF, several pages": _tiff(rgb, photometric="rgb", pages=3),
        "BigTIFF, RGB": _tiff(rgb, photometric="rgb", bigtiff=True),
        "TIFF, grey, white is 0": _tiff(_noise(), photometric="miniswhite"),
    }
    cases = [Case(kind, TIFFFILE, data, _read_tiff, None, "tifffile") for kind, data in files.items()]
    cases[-1] = Case(
        cases[-1].kind, TIFFFILE, cases[-1].data, lambda data: 255 - _read_tiff(data), _read_tiff, "tifffile"
    )
    unlike = {  # other numbers, or none
        "TIFF, RGB of 16 bits": _tiff(_noise(3, kind=np.uint16), photometric="rgb"),
        "TIFF, CMYK": _tiff(_noise(4), photometric="separated"),
        "TIFF, grey as floats": _tiff(np.float32(_noise()) / 255, photometric="minisblack"),
        "TIFF, Zstandard": _tiff(rgb, photometric="rgb", compression="zstd"),
    }
    return cases + [Case(kind, TIFFFILE, data) for kind, data in unlike.items()]


def _pngs() -> list[Case]:
    files = {
        "PNG, RGB": _noise(3),
        "PNG, RGBA": _noise(4),
        "PNG, grey": _noise(),
        "PNG, grey and alpha": _noise(2),
        "PNG, grey of 16 bits": _noise(kind=np.uint16),
    }
    read = imagecodecs.png_decode
    return [
        *(
            Case(kind, CODECS, imagecodecs.png_encode(p), read, None, "imagecodecs")
            for kind, p in files.items()
        ),
        Case("PNG, RGB of 16 bits", CODECS, imagecodecs.png_encode(_noise(3, kind=np.uint16))),
        Case("APNG", CODECS, imagecodecs.apng_encode(np.stack([_noise(3)] * 3)), read, None, "imagecodecs"),
    ]


def _webps() -> list[Case]:
    def case(kind: str, pixels: Array, *, lossless: bool) -> Case:
        data = imagecodecs.webp_encode(pixels, level=90, lossless=lossless)
        return Case(kind, CODECS, data, imagecodecs.webp_decode, None, "imagecodecs")

    return [
        case("WebP, lossless, RGB", _noise(3), lossless=True),
        case("WebP, lossless, RGBA", _noise(4), lossless=True),
        case("WebP, lossy", _smooth(), lossless=False),
    ]


def _lossy() -> list[Case]:
    jpeg, avif = imagecodecs.jpeg8_encode(_smooth(), level=95), imagecodecs.avif_encode(_smooth(), level=90)
    deep = imagecodecs.avif_encode((_smooth().astype(np.uint16) * 4), level=90, bitspersample=10)
    film = imagecodecs.avif_encode(np.stack([_smooth()] * 3), level=90)
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(_smooth())).save(file, quality=90)
    png = imagecodecs.png_decode

    def read_heic(data: bytes) -> Array:
        return np.asarray(pillow_heif.open_heif(data))

    return [
        Case("JPEG", CODECS, jpeg, imagecodecs.jpeg8_decode, None, "imagecodecs"),
        Case("AVIF", CODECS, avif, imagecodecs.avif_decode, png, "imagecodecs"),
        Case("AVIF of 10 bits", CODECS, deep),
        Case(
            "AVIF, animated", CODECS, film, lambda data: imagecodecs.avif_decode(data)[0], png, "imagecodecs"
        ),
        Case(
            "HEIC, with the extra `heic`",
            HEIF,
            file.getvalue(),
            read_heic,
            png,
            "pillow-heif, then imagecodecs",
        ),
    ]


def _refused() -> list[Case]:
    def pillow(name: str) -> bytes:
        file = io.BytesIO()
        Image.fromarray(_smooth()).save(file, name)
        return file.getvalue()

    names = {"GIF": "GIF", "BMP": "BMP", "ICO": "ICO", "JPEG 2000": "JPEG2000", "PDF": "PDF"}
    return [
        Case("JPEG XL", CODECS, imagecodecs.jpegxl_encode(_smooth())),
        Case("QOI", CODECS, imagecodecs.qoi_encode(_smooth())),
        *(Case(kind, PILLOW, pillow(name)) for kind, name in names.items()),
    ]


_COLOURS = {
    "PNG with gAMA": (b"gAMA", (100_000).to_bytes(4, "big")),
    "PNG with cHRM": (b"cHRM", bytes(range(32))),
    "PNG with cICP": (b"cICP", bytes([12, 13, 0, 1])),
    "PNG with mDCV": (b"mDCV", bytes(range(24))),
}


def _colours(kind: str, chunk: tuple[bytes, bytes]) -> Row:
    from inpaint.images.png import inspect, with_colour

    data = with_colour(imagecodecs.png_encode(_noise(3)), (chunk,))
    picture = decode(data)
    result = write(_painted(picture)[0], picture, None)
    same = inspect(result).colour == (chunk,)
    return Row(
        kind, f"{CODECS}, chunk by hand", "yes; written as PNG", 0.0 if same else 1.0, "the chunk's bytes"
    )
