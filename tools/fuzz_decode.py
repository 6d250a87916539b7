"""Fuzz ``inpaint.images.codec.decode`` with atheris: it may raise only ``RequestError``.

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris pillow numpy
    PYTHONPATH=. /tmp/fuzz/bin/python -W error tools/fuzz_decode.py CORPUS -max_total_time=300

CORPUS is a folder for the inputs that reach new code; seeds are written into it first. Other arguments go to
libFuzzer. Coverage is of Python code (Pillow's readers and ours), not of Pillow's C code. atheris is not in
the dev extra, because it has no wheels for some Pythons and platforms that we support.
"""

import io
import resource
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "inpaint"]):
    from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    from inpaint.errors import RequestError
    from inpaint.images.codec import MODES, decode, mask_to_grey, to_rgb

_PNG = b"\x89PNG\r\n\x1a\n"
_LIMITS = ["-rss_limit_mb=1536", "-timeout=10", "-max_len=8192", "-print_final_stats=1"]
_REPORT_EVERY = 100_000
_SIZE = (40, 24)
_OPTIONS = {
    "PNG": ({}, {"dpi": (72, 72)}, {"icc_profile": b"\0" * 16 + b"RGB " + b"\0" * 108}),
    "JPEG": ({}, {"progressive": True}, {"restart_marker_rows": 1}, {"comment": b"x"}),
    "WEBP": ({}, {"lossless": True}, {"exact": True, "quality": 1}),
}
_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
}


def seeds() -> Iterator[bytes]:
    """Yield small valid files of every readable kind, most with EXIF, some with frames."""
    for name, modes in _MODES.items():
        for mode in modes:
            for options in _OPTIONS[name]:
                yield _file(name, mode, **options)
            for turn in (1, 6):
                exif = Image.Exif()
                exif[0x0112] = turn
                exif.get_ifd(0x8769)[0x9286] = b"a comment"
                yield _file(name, mode, exif=exif)
    for name in ("PNG", "WEBP"):
        yield _file(name, "RGBA", save_all=True, append_images=[Image.new("RGBA", _SIZE, "red")] * 2)
    yield _file("PNG", "P", transparency=b"\0\x80")
    yield _file("JPEG", "RGB", exif=b"Exif\0\0garbage")


def _file(name: str, mode: str, **options: object) -> bytes:
    image = Image.radial_gradient("L").resize(_SIZE).convert("RGB" if mode in ("CMYK", "P") else "L")
    if mode == "I;16":
        image = Image.frombytes(mode, _SIZE, bytes(range(256)) * 7 + bytes(128))
    file = io.BytesIO()
    image.convert(mode).save(file, name, **options)
    return file.getvalue()


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mutate as libFuzzer does, then repair a PNG's checksums: its readers stop at the first wrong one."""
    changed = bytes(atheris.Mutate(data, max_size))
    return _with_checksums(changed)[:max_size] if seed % 4 and changed.startswith(_PNG) else changed


def _with_checksums(data: bytes) -> bytes:
    found, at = bytearray(data), len(_PNG)
    while at + 12 <= len(found):
        length = int.from_bytes(found[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(found):
            break
        found[end : end + 4] = struct.pack(">I", zlib.crc32(found[at + 4 : end]))
        at = end + 4
    return bytes(found)


outcomes: Counter[str] = Counter()


def one(data: bytes) -> None:
    """Read an input as the server reads a picture and a mask."""
    if outcomes.total() % _REPORT_EVERY == _REPORT_EVERY - 1:
        report()
    try:
        picture = decode(data)
    except RequestError:
        outcomes["refused"] += 1
        return
    outcomes[picture.format] += 1
    assert picture.image.mode in MODES, picture.image.mode
    assert picture.image.width * picture.image.height <= 25_000_000
    if max(picture.image.size) <= 512:  # our own code, slow on large pictures
        to_rgb(picture.image)
        mask_to_grey(picture.image)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()):
        (folder / f"seed-{number:03}").write_bytes(data)
    atheris.Setup([sys.argv[0], *_LIMITS, *sys.argv[1:]], one, custom_mutator=mutate)
    atheris.Fuzz()


def report() -> None:
    """Print the outcomes so far: libFuzzer does not know them, and never returns from its loop."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{dict(outcomes)}, peak resident {peak_mb:.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
