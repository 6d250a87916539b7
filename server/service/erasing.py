"""Erasing over HTTP: both pictures decoded, the hole filled by no engine, and the answer encoded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from inpaint.canvas.erase import erase
from inpaint.canvas.mask import Box
from inpaint.images import metadata
from inpaint.images.codec import decode, header_size
from inpaint.request import check_same_size
from server.service.patches import patch_of
from server.service.pictures import CONTENT_TYPES, check_file_size


@dataclass(frozen=True, slots=True)
class Answered:
    """The file of a picture after a part was erased, and the box outside which nothing has changed."""

    data: bytes
    content_type: str
    box: Box


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be answered: only the changed box as PNG, or the whole picture in a format."""

    output_format: str | None  # None: the picture's own, or PNG where that is not one of ours
    quality: int
    crop: bool


def erased(image: bytes, mask: bytes, settings: Mapping[str, Any], wanted: Wanted) -> Answered:
    """Erase the marked part of a picture's file, for some seconds of one core, and encode the answer.

    Args:
        image: the picture's file.
        mask: the mask's file.
        settings: arguments of ``canvas.erase.erase``.
        wanted: the form of the answer.

    Raises:
        RequestError: names the field at fault.
        TooLargeError: a file is larger than we decode.
    """
    for name, data in (("image", image), ("mask", mask)):
        check_file_size(name, data)
    sizes = header_size(image), header_size(mask, "mask")
    if sizes[0] is not None and sizes[1] is not None:  # before any pixel is decoded
        check_same_size(sizes[0], sizes[1], resize=bool(settings["resize_mask"]))
    white = decode(mask, "mask").image
    like = decode(image)
    result = erase(like.image, white, **settings)
    # As for painted pictures: the file's EXIF, XMP and IPTC hold where and when it was taken, and by whom.
    like = replace(like, exif=None, xmp=None, iptc=None)
    if wanted.crop:
        return Answered(patch_of(result.image.crop(result.box), like, None), CONTENT_TYPES["png"], result.box)
    own = like.format.lower()
    output_format = wanted.output_format or (own if own in CONTENT_TYPES else "png")
    like = replace(like, lossless=like.lossless and wanted.output_format is None)
    file = metadata.write(result.image, like, None, output_format, wanted.quality)
    return Answered(file, CONTENT_TYPES[output_format], result.box)
