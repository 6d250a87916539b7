"""Pictures that say how they were made, and readers of files that are not ours."""

import io
import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from inpaint import InpaintRequest
from inpaint.images.codec import Picture
from inpaint.images.exif import EXIF_IFD, USER_COMMENT
from inpaint.images.made import Made
from inpaint.images.metadata import made_by
from inpaint.request import InpaintResult

HARD = 'a "fat, round" cat: 猫 🐈\nand its shadow, \\ {x: 1}, Steps: 3'
BLANK = Image.new("RGB", (48, 32), "teal")


def plain(name: str = "PNG", **facts: Any) -> Picture:
    return Picture(BLANK, name, **facts)


def made(**chosen: Any) -> Made:
    """As the engine would have made it."""
    request = InpaintRequest(
        image=BLANK, mask=BLANK, **{"prompt": HARD, "negative_prompt": "bad,\nugly", **chosen}
    )
    result = InpaintResult([BLANK], [max(request.seed, 0)], (0, 0, 48, 32), ("the prompt was cut",))
    return made_by(request, result, "demo", "ab" * 32)[0]


def tiff(exif: bytes) -> dict[int, tuple[int, bytes]]:
    """tag → (type, value) of the first and the Exif directory, read with nothing but ``struct``."""
    block = exif.removeprefix(b"Exif\0\0")
    order = "<" if block[:2] == b"II" else ">"
    found: dict[int, tuple[int, bytes]] = {}

    def walk(at: int) -> None:
        (count,) = struct.unpack_from(order + "H", block, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack_from(order + "HHLL", block, entry)
            size = length * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
            found[tag] = (
                kind,
                block[value : value + size] if size > 4 else block[entry + 8 : entry + 8 + size],
            )
            if tag == EXIF_IFD:
                walk(value)

    walk(struct.unpack_from(order + "L", block, 4)[0])
    return found


def exif_in(data: bytes) -> bytes:
    """Return a file's EXIF block; a TIFF is one itself."""
    image = Image.open(io.BytesIO(data))
    return data if image.format == "TIFF" else image.info["exif"]


def a1111_text(data: bytes) -> str:
    """Where A1111 looks: PNG's ``parameters``, or EXIF's user comment as piexif decodes it."""
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG":
        return str(image.info["parameters"])
    kind, value = tiff(exif_in(data))[USER_COMMENT]
    assert kind == 7, "piexif gives numbers instead of bytes for another type"
    assert value[:8] == b"UNICODE\0"
    return value[8:].decode("utf-16-be")


def camera_exif() -> bytes:
    """What a camera writes: its name, where it was, a note in a format of its own, a comment of blanks."""
    tags = Image.Exif()
    tags[0x010F] = "Voigtlaender"
    tags[0x0112] = 6
    details = tags.get_ifd(EXIF_IFD)
    details[0x927C] = b"MAKER\0\x01\x02 any bytes at all \xff\xfe"
    details[0xA434] = "Nokton 50mm"
    tags.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    tags.get_ifd(ExifTags.IFD.GPSInfo)[2] = (48.0, 51.0, 29.5)
    return tags.tobytes()


def file_of(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def chunks(texts: Mapping[str, str]) -> Any:
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    return info
