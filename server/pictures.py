"""Pictures between the wire and the engine: fetched, decoded, checked; and written again. Runs in threads."""

import asyncio
import io
from dataclasses import dataclass, replace

from PIL import Image

from inpaint.errors import RequestError
from inpaint.image import MASK_THRESHOLD, MAX_ENCODED_BYTES, Picture, decode, encode, mask_to_grey
from inpaint.request import InpaintRequest
from server.fetch import Fetcher
from server.orders import Order, Source, Url, decode_source
from server.problems import TooLargeError

CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that can be painted, and the caller's picture that its results are written like."""

    request: InpaintRequest
    like: Picture


async def gather(fetcher: Fetcher, order: Order, *, max_bytes: int) -> tuple[bytes, bytes]:
    """Both files' bytes, URLs fetched at the same time; ``max_bytes`` for the two together."""

    async def one(name: str, source: Source) -> bytes:
        if isinstance(source, Url):
            return await fetcher.fetch(source.text, max_bytes=max_bytes)
        return await asyncio.to_thread(decode_source, name, source)

    tasks = [
        asyncio.create_task(one(name, source))
        for name, source in (("image", order.image), ("mask", order.mask))
    ]
    try:
        image, mask = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # where the other one failed, this one is of no use
    if order.has_urls and len(image) + len(mask) > max_bytes:
        raise TooLargeError(f"the two pictures together must be at most {max_bytes // 10**6} MB")
    return image, mask


def prepare(order: Order, image: bytes, mask: bytes) -> Prepared:
    """Decode both and check them against each other.

    Raises:
        RequestError: names the field at fault.
        TooLargeError: a file is larger than we decode.
    """
    for name, data in (("image", image), ("mask", mask)):
        if len(data) > MAX_ENCODED_BYTES:
            raise TooLargeError(f"{name}: must be a file of at most {MAX_ENCODED_BYTES // 10**6} MB")
    white = decode(mask, "mask").image
    _check_mask(white, soft=bool(order.settings.get("soft")))  # before the picture, which is much larger
    like = decode(image, "image")
    request = InpaintRequest(image=like.image, mask=white, **order.settings)  # type: ignore[arg-type]
    # The file's EXIF holds where and when it was taken, which the hosted API does not return either.
    return Prepared(request, replace(like, exif=None))


def _check_mask(mask: Image.Image, *, soft: bool) -> None:
    """The engine has the last word; but nobody should wait in a queue, and pay, to hear this."""
    least = 1 if soft else MASK_THRESHOLD
    if not any(mask_to_grey(mask).histogram()[least:]):
        raise RequestError("mask", "nothing to repaint: paint the parts to change white (128 or brighter)")


def write(prepared: Prepared, images: list[Image.Image], output_format: str, quality: int) -> list[bytes]:
    """The painted pictures as files, with the caller's colour profile."""
    return [encode(image, prepared.like, output_format, quality) for image in images]


def write_input(image: Image.Image, like: Picture | None = None) -> bytes:
    """A picture as a lossless file of ours, which is all that is kept of the caller's."""
    options: dict[str, object] = {"dpi": like.dpi} if like and like.dpi else {}
    file = io.BytesIO()
    image.save(
        file, "PNG", compress_level=1, icc_profile=(like.icc_profile if like else None) or b"", **options
    )
    return file.getvalue()
