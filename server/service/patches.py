"""Patches: the parts of painted pictures that may differ from the caller's, and whole files made of them.

A request with ``answer: boxes`` keeps patches only. A whole file is then composed when it is asked for, from
the caller's picture, which is in the picture store anyway, and has the bytes that it would have had before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from inpaint.canvas.mask import Box
from inpaint.images import metadata
from inpaint.images.codec import Picture, decode
from inpaint.images.made import Made
from inpaint.request import InpaintResult
from server.engines.patched import part_of
from server.service.pictures import CONTENT_TYPES, MAX_KEPT_BYTES, Prepared
from server.storage.requests import Record

BOXES = "boxes"


def patch_name(number: int) -> str:
    """Return the name in the picture store of the patch of a picture."""
    return f"{number}.box.png"


def wants_boxes(record: Record) -> bool:
    """Return whether only the patches of a request are to be kept."""
    return record.fields.get("answer") == BOXES


def keeps_patch(output: Mapping[str, Any]) -> bool:
    """Return whether only the patch of a picture was kept; ``output`` is what its record says about it."""
    return "patch_size" in output


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What is kept of the pictures of one request, encoded.

    ``files`` are names in the picture store and their bytes, one for each picture; ``outputs`` is what the
    request's record says about each. ``box`` is the part of the pictures that may differ from the caller's.
    """

    files: tuple[tuple[str, bytes], ...]
    outputs: tuple[Mapping[str, object], ...]
    box: Box


def written_whole(
    record: Record, prepared: Prepared, result: InpaintResult, files: Sequence[bytes]
) -> Written:
    """Return whole files as what is kept; one in another size than was painted differs everywhere."""
    size: Any = record.fields.get("size")
    resized = size is not None and tuple(size) != prepared.request.image.size
    named = list(zip(_named(record), files, strict=True))
    return Written(
        files=tuple((str(output["file_name"]), file) for output, file in named),
        outputs=tuple({**output, "file_size": len(file)} for output, file in named),
        box=(0, 0, *size) if resized else result.changed,
    )


def write_patches(record: Record, prepared: Prepared, result: InpaintResult, model: str | None) -> Written:
    """Encode the painted part of each picture, without loss, with the caller's colour profile.

    Args:
        record: of the request.
        prepared: the request as it was painted.
        result: the painted pictures.
        model: its name, to write into the files how they were made; None writes nothing.
    """
    box = result.changed
    made = metadata.made_by(prepared.request, result, model) if model else [None] * len(result.images)
    parts = [part_of(result.images, number, box) for number in range(len(made))]
    files = [patch_of(part, prepared.like, by) for part, by in zip(parts, made, strict=True)]
    # What a whole file takes is all here: the record's fields may expire before the pictures.
    quality = record.fields["quality"]
    return Written(
        files=tuple((patch_name(number), file) for number, file in enumerate(files)),
        outputs=tuple(
            {**output, "patch_size": len(file), "quality": quality}
            for output, file in zip(_named(record), files, strict=True)
        ),
        box=box,
    )


def _named(record: Record) -> list[dict[str, object]]:
    """Return the name and type of each whole file of a request."""
    ending = str(record.fields["output_format"])
    return [
        {"file_name": f"{number}.{ending}", "content_type": CONTENT_TYPES[ending]}
        for number in range(len(record.seeds))
    ]


def patch_of(part: Image.Image, like: Picture, made: Made | None) -> bytes:
    """Encode a part of a picture as a PNG with the colours of ``like`` and how it was made."""
    bare = Picture(part, "PNG", icc_profile=like.icc_profile, colour=like.colour)
    return metadata.write(part, bare, made, "PNG")


def cut_out(file: bytes, box: Box | None) -> bytes:
    """Return the part of one of our own files inside ``box``, or all of it, as a PNG."""
    picture = decode(file, max_bytes=MAX_KEPT_BYTES)
    part = picture.image if box is None else picture.image.crop(box)
    return patch_of(part, picture, metadata.read(file))


def compose(output: Mapping[str, Any], image: bytes, patch: bytes, output_format: str) -> bytes:
    """Return the whole file of a picture of which only the patch is kept.

    Args:
        output: what its request's record says about the picture.
        image: the file of the caller's picture, as it was painted on.
        patch: the file of the patch.
        output_format: jpeg, png or webp.
    """
    like, painted = decode(image, max_bytes=MAX_KEPT_BYTES), decode(patch, max_bytes=MAX_KEPT_BYTES).image
    whole = like.image if like.image.mode == painted.mode else like.image.convert(painted.mode)
    whole.paste(painted, tuple(output["box"]))
    return metadata.write(whole, like, metadata.read(patch), output_format, int(output["quality"]))
