"""Partial pictures: the caller's picture with a preview of what is being painted in it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from PIL import Image

from inpaint.canvas.crop import shown_box
from inpaint.canvas.mask import fitted, require_mask, strength_of
from inpaint.images.codec import Picture
from inpaint.images.encoding import encode
from inpaint.images.pixels import to_rgb
from inpaint.job import Event
from inpaint.request import InpaintRequest
from server.engines.client import Ticket
from server.service.order import Order


class PartialPicture(NamedTuple):
    """A file with a partial picture, and its (width, height)."""

    data: bytes
    size: tuple[int, int]


async def previews(ticket: Ticket, count: int) -> AsyncGenerator[Image.Image]:
    """Yield at most ``count`` of a request's previews, at equal distances; end when it has ended."""
    sent = 0
    async with aclosing(ticket.events(preview=True)) as events:  # type: ignore[type-var]
        async for event in events:
            if event.preview is not None and _is_due(event, sent, count):
                sent += 1
                yield event.preview
            if sent == count:
                return


def _is_due(event: Event, sent: int, count: int) -> bool:
    return event.step * (count + 1) >= event.steps * (sent + 1)


def partial_picture(
    request: InpaintRequest, preview: Image.Image, order: Order, native: int
) -> PartialPicture:
    """Return a file like those of the painted pictures, with the preview where the mask repaints.

    Args:
        request: as its engine has it.
        preview: of the box around the mask.
        order: says the file's format and size.
        native: the side in pixels of the model's own pictures.
    """
    image = to_rgb(request.image)
    left, top, right, bottom = shown_box(request, native)
    shown = image.copy()
    shown.paste(preview.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
    mask, _ = require_mask(fitted(strength_of(request), image.size), soft=request.soft)
    shown = Image.composite(shown, image, mask)
    if (size := order.resized(image.size)) is not None:
        shown = shown.resize(size, Image.Resampling.BICUBIC)
    return PartialPicture(
        encode(shown, Picture(shown, "PNG"), order.output_format, order.quality), shown.size
    )
