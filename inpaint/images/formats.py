"""Picture formats: those that are read, and the names of all others, by the first bytes of a file.

A file is what its bytes say; endings and labels are not looked at here.
"""

import re
from importlib.util import find_spec

READ = "PNG, JPEG, WebP, TIFF or AVIF"
WRITTEN = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
# The endings of files that are written, and the format of each.
ENDINGS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
HEIC_ENDINGS = (".heic", ".heif", ".hif")
# Endings of pictures that are not read, so that a folder's user is told how many were left out.
OTHER_ENDINGS = frozenset(
    (".bmp", ".gif", ".ico", ".psd", ".psb", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".pdf", ".tga", ".exr",
     ".hdr", ".dds", ".pcx", ".ppm", ".pgm", ".pbm", ".xcf", ".kra", ".eps", ".ai", ".cr2", ".cr3", ".nef",
     ".nrw", ".dng", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw")
)  # fmt: skip

INSTALL_HEIC = "pip install 'sdxl-inpaint[heic]'"
_SAVE = f"save it as {READ}"
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_EITHER_BRANDS = (b"mif1", b"msf1", b"mif2")
_RAW = "is a camera's RAW photo; develop it and save it as TIFF or JPEG"
_TEXT_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*")

# (what a file starts with, what it is and what to do). The first that fits counts.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", f"is a GIF picture; {_SAVE}"),
    (b"BM", f"is a BMP picture; {_SAVE}"),
    (b"\0\0\1\0", f"is an icon (ICO); {_SAVE}"),
    (b"\0\0\2\0", f"is a cursor (CUR); {_SAVE}"),
    (b"8BPS", f"is a Photoshop document (PSD); {_SAVE}"),
    (b"\xff\x0a", f"is a JPEG XL picture; {_SAVE}"),
    (b"\0\0\0\x0cJXL ", f"is a JPEG XL picture; {_SAVE}"),
    (b"\xff\x4f\xff\x51", f"is a JPEG 2000 picture; {_SAVE}"),
    (b"\0\0\0\x0cjP  ", f"is a JPEG 2000 picture; {_SAVE}"),
    (b"%PDF", f"is a PDF document; {_SAVE}"),
    (b"%!PS", f"is a PostScript document (EPS); {_SAVE}"),
    (b"gimp xcf", f"is a GIMP document (XCF); {_SAVE}"),
    (b"\x76\x2f\x31\x01", f"is an OpenEXR picture; {_SAVE}"),
    (b"#?RADIANCE", f"is a Radiance HDR picture; {_SAVE}"),
    (b"qoif", f"is a QOI picture; {_SAVE}"),
    (b"DDS ", f"is a DDS texture; {_SAVE}"),
    *((b"P%d" % n, f"is a PNM picture (PBM, PGM or PPM); {_SAVE}") for n in range(1, 8)),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),
    (b"IIRS", _RAW),
    (b"MMOR", _RAW),
    (b"IIU\0", _RAW),
    (b"II\xbc\x01", f"is a JPEG XR picture; {_SAVE}"),
    (b"\x1a\x45\xdf\xa3", "is a video (WebM or Matroska), not a picture; save one frame of it as PNG"),
    (b"PK\3\4", "is a ZIP archive or a document, not a picture; unpack it first"),
    (b"\x1f\x8b", "is a gzip archive, not a picture; unpack it first"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the picture itself; fetch it with: git lfs pull"),
)
# The same for text, after white space and a byte order mark, in any letter case.
_TEXTS: tuple[tuple[bytes, str], ...] = (
    (b"<svg", f"is an SVG drawing; {_SAVE}"),
    (b"<!doctype html", "is a web page (HTML), not a picture; give the picture itself"),
    (b"<html", "is a web page (HTML), not a picture; give the picture itself"),
    (b"<?xml", f"is an XML document, perhaps an SVG drawing; {_SAVE}"),
    (b"{", "is JSON text, not a picture"),
    (b"[", "is JSON text, not a picture"),
)


def read_format(data: bytes) -> str | None:
    """Return Pillow's name of the format of a file that is read, from its first bytes; else None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0")) and data[8:10] != b"CR":
        return "TIFF"
    brands = _brands(data)
    if _is_avif(brands):
        return "AVIF"
    return "HEIF" if _is_heic(brands) and reads_heic() else None


def reads_heic() -> bool:
    """Return whether HEIC pictures can be read: the extra ``heic`` is installed."""
    return find_spec("pillow_heif") is not None


def refusal(data: bytes) -> str:
    """Return what a file is that is not read, and what to do: "is a GIF picture; save it as …"."""
    return known_refusal(data) or f"is not a picture in a format that is read ({READ})"


def known_refusal(data: bytes) -> str | None:
    """Return what a file is that is not read, and what to do; None for an unknown kind."""
    brands = _brands(data)
    if brands:
        return _of_brands(brands)
    for start, problem in _OTHERS:
        if data.startswith(start):
            return problem
    if data.startswith((b"II*\0", b"MM\0*")):  # Canon's CR2 is a TIFF but for two letters
        return _RAW
    if data[8:9] == b"{" and data[5:8] == b"\0\0\0":  # the header's length, then the header
        return "is a file of model weights (safetensors), not a picture"
    space = _TEXT_START.match(data[:1024])
    text = data[space.end() if space else 0 :][:64].lower()
    return next((problem for begin, problem in _TEXTS if text.startswith(begin)), None)


def _brands(data: bytes) -> list[bytes]:
    """Return the brands of an ISO base media file, the major one first; an empty list for other files."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]


def _is_avif(brands: list[bytes]) -> bool:
    if not brands:
        return False
    return brands[0] in _AVIF_BRANDS or (
        brands[0] in _EITHER_BRANDS and any(b in _AVIF_BRANDS for b in brands)
    )


def _is_heic(brands: list[bytes]) -> bool:
    return bool(brands) and (brands[0] in _HEIC_BRANDS or brands[0] in _EITHER_BRANDS)


def _of_brands(brands: list[bytes]) -> str:
    if _is_heic(brands):
        return f"is a HEIC picture; install the reader with: {INSTALL_HEIC}, or save it as JPEG"
    if brands[0] == b"crx ":
        return _RAW
    return "is a video (MP4 or MOV), not a picture; save one frame of it as PNG"
