"""The pictures of a request: fetched, decoded and checked for the engine, then written to files again."""

import asyncio
import io
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from PIL import Image

from inpaint.canvas.crop import extend, working_sizes_of
from inpaint.canvas.mask import fitted, plain_mask, require_mask, strength
from inpaint.images import metadata
from inpaint.images.codec import MAX_ENCODED_BYTES, Picture, decode, header_size, open_checked
from inpaint.images.png import with_colour
from inpaint.request import (
    DEFAULTS,
    MASK_WAS_READ,
    InpaintRequest,
    InpaintResult,
    check_same_size,
    check_size,
)
from server.errors import TooLargeError
from server.fetch.fetcher import Fetcher
from server.service.order import Blank, Given, Order, Source, Stored, Url, decode_source
from server.service.pixel_budget import decoded_pixels
from server.service.threads import Threads

MAX_KEPT_BYTES = 250_000_000  # our own PNG of the largest picture admitted is larger than its JPEG was
IMAGE, MASK = "image.png", "mask.png"  # the inputs of a request in the picture store
QUALITY = 95
_GREY = (127, 127, 127)  # of a blank picture, as in A1111: its txt2img with an inpainting model
CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that can be painted, and the caller's picture, whose format details its results get."""

    request: InpaintRequest
    like: Picture
    boxes: int = 1  # that are painted for each sample, see :func:`counted`
    model: str = ""  # that paints it, by its name


@dataclass(frozen=True, slots=True)
class Reader:
    """The ways to the bytes of a request's pictures: fetched, from the picture store, or decoded."""

    fetcher: Fetcher
    threads: Threads
    stored: Callable[[str, Stored], Awaitable[bytes]]  # (field, picture) → its file
    max_bytes: int  # of what is fetched for one request

    async def read(self, name: str, source: Source) -> bytes:
        """Return one file's bytes; ``name`` is the field it came in."""
        if isinstance(source, Url):
            return await self.fetcher.fetch(source.text, max_bytes=self.max_bytes)
        if isinstance(source, Stored):
            return await self.stored(name, source)
        return await self.threads.pixels(decode_source, name, source)

    async def gather(self, order: Order) -> tuple[bytes, bytes | None]:
        """Return both files' bytes, with URLs fetched at the same time; a blank picture has none.

        Raises:
            TooLargeError: together they are larger than ``max_bytes``.
        """
        sources = {"image": order.image, "mask": order.mask}
        tasks = {
            name: asyncio.create_task(self.read(name, source))
            for name, source in sources.items()
            if source is not None and not isinstance(source, Blank)
        }
        try:
            files = dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
        finally:
            for task in tasks.values():
                task.cancel()  # if one failed, the other is of no use
        if order.has_urls and sum(map(len, files.values())) > self.max_bytes:
            raise TooLargeError(f"the two pictures together must be at most {self.max_bytes // 10**6} MB")
        return files.get("image", b""), files.get("mask")


def pixels_to_decode(order: Order, image: bytes, mask: bytes | None) -> int:
    """Return what a request will take of the budget of pixels, from the headers of its files.

    Raises:
        RequestError: names the field whose file is no picture, or ``size``, if no picture has that.
        TooLargeError: a file is larger than we decode.
    """
    left, top, right, bottom = order.extend or (0, 0, 0, 0)
    alpha = False
    if isinstance(order.image, Blank):
        sizes = [(order.image.width, order.image.height)]
        check_size("size", sizes[0])  # before its pixels exist
    else:
        check_file_size("image", image)
        opened = open_checked(image)
        alpha = opened.has_transparency_data or opened.mode == "CMYK"
        sizes = [(opened.width + left + right, opened.height + top + bottom)]
    if mask is not None:
        sizes.append(file_size("mask", mask))
    if order.size is not None:
        check_size("size", order.size)
        sizes.append(order.size)
    width, height = max(sizes, key=math.prod)
    return decoded_pixels(width, height, int(str(order.settings.get("samples", 1))), alpha=alpha)


def file_size(name: str, data: bytes, max_bytes: int = MAX_ENCODED_BYTES) -> tuple[int, int]:
    """Return a file's (width, height) from its header; decode no pixels.

    Raises:
        RequestError: it is no picture that we decode.
        TooLargeError: it is larger than ``max_bytes``.
    """
    check_file_size(name, data, max_bytes)
    return open_checked(data, name, max_bytes=max_bytes).size


def prepare(order: Order, image: bytes, mask: bytes | None) -> Prepared:
    """Decode both pictures, check them against each other, and extend the picture if the order says so.

    Raises:
        RequestError: names the field at fault.
        TooLargeError: a file is larger than we decode.
    """
    if order.adapt is not None or isinstance(order.image, Blank):
        return _prepare_adapted(order, image, mask)
    check_file_size("image", image)
    size = header_size(image, "image")
    settings, white = dict(order.settings), None
    resize = bool(settings.get("resize_mask"))
    if mask is not None:  # first, since the picture takes longer to decode; and its size before both
        check_file_size("mask", mask)
        mask_size = header_size(mask, "mask")
        if size is not None and mask_size is not None:
            check_same_size(size, mask_size, resize=resize)
        white = _read_mask(mask, order)
    like = decode(image, "image")
    if order.extend is not None:
        if white is not None:
            check_same_size(like.image.size, white.size, resize=resize)
            white = fitted(white, like.image.size)
        wider, white = extend(like.image, white, *order.extend)
        like = replace(like, image=wider)
        settings |= MASK_WAS_READ
    assert white is not None, "an order has a mask, or extends, or its dialect makes a mask of the picture"
    return _prepared(like, white, settings)


def _prepare_adapted(order: Order, image: bytes, mask: bytes | None) -> Prepared:
    """Decode both pictures, and let the dialect make of them what the engine paints."""
    if isinstance(order.image, Blank):
        size = (order.image.width, order.image.height)
        like = Picture(Image.new("RGB", size, _GREY), "PNG")
        adapted = Given(like.image, Image.new("L", size, 255), order.settings)
    else:
        if mask is not None:
            check_file_size("mask", mask)
        check_file_size("image", image)
        like = decode(image, "image")
        adapted = Given(like.image, None if mask is None else decode(mask, "mask").image, order.settings)
    if order.adapt is not None:
        adapted = order.adapt(adapted)
    if order.extend is not None:
        wider, outside = extend(adapted.image, adapted.mask, *order.extend)
        adapted = replace(adapted, image=wider, mask=outside)
    white, soft = adapted.mask, bool(adapted.settings.get("soft"))
    assert white is not None, "a dialect makes a mask of the picture where there is none"
    require_mask(strength(white, soft=soft), soft=soft, given=white)
    settings = {**adapted.settings, **MASK_WAS_READ}
    return _prepared(replace(like, image=adapted.image), plain_mask(white), settings)


def _prepared(like: Picture, white: Image.Image, settings: Mapping[str, object]) -> Prepared:
    request = InpaintRequest(image=like.image, mask=white, **settings)  # type: ignore[arg-type]
    # The file's EXIF, XMP and IPTC hold where and when it was taken, and by whom; the hosted API does not
    # return them either. Its WebP has the quality that was asked for.
    return Prepared(request, replace(like, exif=None, xmp=None, iptc=None, lossless=False))


def check_file_size(name: str, data: bytes, max_bytes: int = MAX_ENCODED_BYTES) -> None:
    """Raise TooLargeError, which names the field ``name``, for a file that is larger than we decode."""
    if len(data) > max_bytes:
        raise TooLargeError(f"must be a file of at most {max_bytes // 10**6} MB", name)


def _read_mask(data: bytes, order: Order) -> Image.Image:
    """Decode a mask, and refuse an empty one before the request is charged and queued.

    That of a picture that is extended is returned as strength per pixel, as the new pixels will be in it.
    """
    given = decode(data, "mask").image
    fields = ("soft", "mask_channel", "invert_mask")
    soft, channel, invert = (order.settings.get(name, DEFAULTS[name]) for name in fields)
    read = strength(given, soft=bool(soft), channel=channel, invert=bool(invert))  # type: ignore[arg-type]
    if order.extend is not None:  # an extended picture always has new pixels to paint
        return read
    require_mask(read, soft=bool(soft), given=given)
    return plain_mask(given, channel)  # type: ignore[arg-type]


def counted(prepared: Prepared, model: str, native: int) -> Prepared:
    """Give a request to a model with pictures of ``native`` pixels a side, and count its boxes for it.

    Raises:
        RequestError: there is nothing to repaint.
    """
    return replace(prepared, boxes=len(working_sizes_of(prepared.request, native)), model=model)


def write(
    prepared: Prepared,
    result: InpaintResult,
    output_format: str,
    quality: int,
    made_with: str | None = None,
    size: tuple[int, int] | None = None,
) -> list[bytes]:
    """Encode the painted pictures as files, with the caller's colour profile.

    Args:
        prepared: the request that was painted.
        result: the painted pictures.
        output_format: jpeg, png or webp.
        quality: of JPEG and WebP, 1 to 100.
        made_with: the model's name, to write into the files how they were made; None writes nothing.
        size: (width, height) to which the pictures are resized; None keeps theirs.
    """
    made = metadata.made_by(prepared.request, result, made_with) if made_with else [None] * len(result.images)
    return [
        metadata.write(_resized(image, size), prepared.like, made_by, output_format, quality)
        for image, made_by in zip(result.images, made, strict=True)
    ]


def _resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or image.size == size:
        return image
    if image.mode in ("1", "P"):  # which Pillow resizes by picking pixels
        image = image.convert("RGB")
    return image.resize(size, Image.Resampling.LANCZOS)


def describe(data: bytes) -> dict[str, object]:
    """Return a picture's format and size, and how it was painted if the file says so.

    Raises:
        RequestError: it is not a picture, or has a format that we do not read.
        TooLargeError: the file is larger than we decode.
    """
    check_file_size("image", data)
    picture = decode(data, "image")
    width, height = picture.image.size
    made = metadata.read(data)
    facts: dict[str, object] = {"format": picture.format.lower(), "width": width, "height": height}
    if made is not None:
        left_out = [each.problem for each in made.left_out]
        facts |= {"settings": dict(made.settings), "model": made.model, "left_out": left_out}
    return facts


def shown(data: bytes) -> tuple[bytes, str]:
    """Return a picture's file and content type: itself if browsers show its format, else the same as PNG.

    Raises:
        RequestError: it is not a picture, or has a format that we do not read.
        TooLargeError: the file is larger than we decode.
    """
    check_file_size("image", data)
    picture = decode(data, "image")
    if content_type := CONTENT_TYPES.get(picture.format.lower()):
        return data, content_type
    return _png(picture.image, picture), CONTENT_TYPES["png"]


def convert(data: bytes, output_format: str) -> bytes:
    """Return one of our own files in another format, with its metadata and colour profile."""
    picture = decode(data, max_bytes=MAX_KEPT_BYTES)
    return metadata.write(picture.image, picture, metadata.read(data), output_format, QUALITY)


def write_inputs(prepared: Prepared) -> dict[str, bytes]:
    """Return the files, by name, from which :func:`read_inputs` reads a request's pictures again."""
    request = prepared.request
    return {IMAGE: _png(request.image, prepared.like), MASK: _png(request.mask)}


def read_inputs(image: bytes, mask: bytes, settings: Mapping[str, object]) -> Prepared:
    """Decode the files of :func:`write_inputs` for a request with these settings."""
    like = decode(image, "image", max_bytes=MAX_KEPT_BYTES)
    white = decode(mask, "mask", max_bytes=MAX_KEPT_BYTES).image
    return Prepared(InpaintRequest(image=like.image, mask=white, **settings), like)  # type: ignore[arg-type]


def _png(image: Image.Image, like: Picture | None = None) -> bytes:
    """Encode a picture as PNG; the caller's own file is not kept."""
    options: dict[str, object] = {"dpi": like.dpi} if like and like.dpi else {}
    file = io.BytesIO()
    image.save(
        file, "PNG", compress_level=1, icc_profile=(like.icc_profile if like else None) or b"", **options
    )
    return with_colour(file.getvalue(), like.colour) if like else file.getvalue()
