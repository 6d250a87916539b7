"""Pictures as agents give and see them: a box instead of a mask, sides to add, and a preview."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from inpaint.canvas.crop import extend
from inpaint.errors import RequestError, shown
from inpaint.images import metadata
from inpaint.images.codec import Picture, decode, read_file
from inpaint.images.formats import ENDINGS
from inpaint.images.made import Made
from inpaint.images.pixels import to_rgb
from inpaint.mcp.folders import ending_for
from inpaint.request import InpaintRequest, check_same_size

PREVIEW_SIDE = 512  # an agent pays for each pixel that it is shown
_PREVIEW_QUALITY = 80
_RIM = 16  # pixels; the part of a box, on each side, in which the painted part fades into the picture
_RIM_SHARE = 16  # the rim is at most this fraction of the shorter side of the box: 1/16

Sides = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """A picture to repaint: its file, its mask, the pixels to add to it, and the settings."""

    path: Path
    data: bytes  # of the file
    picture: Picture
    mask: Image.Image | None  # of the picture's size; None if only what is added is painted
    added: Sides | None  # beyond its edges
    settings: Mapping[str, object]

    def request(self) -> InpaintRequest:
        """Return it in the engine's terms.

        Raises:
            RequestError: a setting is wrong, or nothing is to be repainted.
        """
        image, mask = self.picture.image, self.mask
        if self.added is not None:
            image, mask = extend(image, mask, *self.added)
        assert mask is not None, "there is a mask, or something is added"
        return InpaintRequest(image=image, mask=mask, **self.settings)  # type: ignore[arg-type]

    def file(self, image: Image.Image, made: Made | None) -> bytes:
        """Return a painted picture as a file of the original's format, with its metadata and ``made``."""
        return metadata.write(image, self.picture, made, ENDINGS[ending_for(self.path).lower()])


def read_picture(path: Path) -> tuple[bytes, Picture]:
    """Return a file's bytes, and the picture in them.

    Raises:
        RequestError: there is no such file, or it is no picture that we read.
    """
    data = read_file(path)
    return data, decode(data, path=path)


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return the mask of a picture of this size.

    Raises:
        RequestError: it cannot be read, or has another size.
    """
    mask = decode(path, "mask_path").image
    try:
        check_same_size(size, mask.size)
    except RequestError:
        problem = f"must have the picture's size {size[0]}×{size[1]}, but is {mask.width}×{mask.height}"
        raise RequestError("mask_path", problem) from None
    return mask


def box_mask(box: Sequence[float], size: tuple[int, int]) -> tuple[Image.Image, dict[str, object]]:
    """Return the mask of a box, and the settings with which no pixel outside the box changes.

    Args:
        box: left, top, right and bottom in pixels of the picture.
        size: (width, height) of the picture.

    Raises:
        RequestError: it is not a box inside the picture.
    """
    width, height = size
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise RequestError(
            "box",
            "must be [left, top, right, bottom] in pixels inside the picture, which is "
            f"{width}×{height}, not {shown(list(box))}",
        )
    left, top = int(box[0]), int(box[1])
    right, bottom = -int(-box[2] // 1), -int(-box[3] // 1)
    rim = min(_RIM, min(right - left, bottom - top) // _RIM_SHARE)
    # At the picture's own edge there is nothing to fade into.
    inside = (
        left + rim * (left > 0),
        top + rim * (top > 0),
        right - rim * (right < width),
        bottom - rim * (bottom < height),
    )
    mask = Image.new("L", size)
    mask.paste(255, inside)
    return mask, {"grow": 0, "feather": rim, "lengths": "picture"}


def preview(image: Image.Image) -> bytes:
    """Return a picture as a small JPEG."""
    small = to_rgb(image)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_PREVIEW_QUALITY)
    return file.getvalue()


def facts_of(path: Path, data: bytes, picture: Picture) -> dict[str, object]:
    """Return a picture's format and size, and the settings that it was painted with, if its file says so."""
    made = metadata.read(data)
    return {
        "path": str(path),
        "format": picture.format,
        "width": picture.image.width,
        "height": picture.image.height,
        "painted_by": (made.model or made.tool) if made else None,
        "settings": dict(made.settings) if made else None,
    }
