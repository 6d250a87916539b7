"""The painted pictures of v2 requests, for their owners and for callers with their URLs, in any format.

A file that is not stored is converted from one that is, or composed of the patch and the caller's picture.
That takes seconds of CPU and needs no key. So two run at a time, and each file is kept next to the original
and counted in the rate of the key that made the request.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from inpaint.canvas.mask import Box
from inpaint.errors import BusyError, InpaintError, RequestError
from server.errors import NotFoundError, UnauthorizedError
from server.service.parts import Parts
from server.service.patches import compose, cut_out, keeps_patch, patch_name
from server.service.pictures import CONTENT_TYPES, IMAGE, MAX_KEPT_BYTES, convert, file_size
from server.service.pixel_budget import PixelBudget, decoded_pixels
from server.storage.requests import Record

_MAX_CONVERSIONS = 2  # at the same time
_RETRY_AFTER_S = 2.0
_KEPT_S = 600.0  # before pictures expire, so that no file is written after the sweeper deleted its folder

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A file of a painted picture, and the part of the whole that it shows if that was asked for."""

    data: bytes
    content_type: str
    box: Box | None = None


class StoredPictures:
    """The pictures in the picture store. Every method is for the event loop."""

    def __init__(self, parts: Parts, pixels: PixelBudget) -> None:
        self._parts, self._pixels = parts, pixels
        self._converting = 0
        self._making: dict[tuple[str, str], asyncio.Task[bytes]] = {}  # by request and file

    async def get(
        self,
        request_id: str,
        number: int,
        *,
        key_id: str | None,
        token: str | None,
        output_format: str | None = None,
        boxed: bool = False,
    ) -> Picture:
        """Return one painted picture, to its owner or to a caller with its URL.

        Args:
            request_id: of the request that painted it.
            number: of the picture among the request's, from 0.
            key_id: of the caller, if the caller sent a key.
            token: from the picture's URL; takes precedence over the key.
            output_format: jpeg, png or webp; None is the format in which it was painted.
            boxed: only the part that may differ from the caller's picture, as PNG.

        Raises:
            UnauthorizedError: neither a key nor a token was given.
            NotFoundError: there is no such picture, or it is not the caller's.
            RequestError: ``boxed`` in another format than PNG.
            BusyError: too many pictures are being converted.
            RateError: the key that made the request is over its rate, and the picture must be converted.
        """
        store = self._parts.store
        if token is not None:
            record = await asyncio.to_thread(store.get_by_token, request_id, token)
        elif key_id is not None:
            record = await asyncio.to_thread(store.get, request_id, key_id)
        else:
            raise UnauthorizedError("Missing Authorization or x-api-key in header")
        output = _output(record, number)
        if boxed:
            if output_format not in (None, "png"):
                raise RequestError("format", "must be png with crop=box, which is given without loss")
            return Picture(await self._file(record, number, None), CONTENT_TYPES["png"], _box_of(output))
        wanted = output_format or _format_of(output)
        return Picture(await self._file(record, number, wanted), CONTENT_TYPES[wanted])

    async def whole(self, record: Record, number: int) -> bytes:
        """Return the whole file of a picture, which is made now if only its patch was kept.

        Raises:
            NotFoundError: there is no such picture, or it has expired.
            BusyError: too many pictures are being converted.
            RateError: the key that made the request is over its rate, and the file must be made.
        """
        return await self._file(record, number, _format_of(_output(record, number)))

    async def _file(self, record: Record, number: int, wanted: str | None) -> bytes:
        """Return a file of a picture in a format, or its patch (None); a missing one is made and kept."""
        name, output = f"{number}.{wanted}" if wanted else patch_name(number), record.outputs[number]
        try:
            return await self._read(record, name)
        except NotFoundError:
            if name == (patch_name(number) if keeps_patch(output) else output["file_name"]):
                raise  # there is nothing that it could be made of
        making = self._making.get((record.id, name))
        if making is None:
            making = asyncio.create_task(self._make_and_keep(record, number, wanted, name))
            self._making[record.id, name] = making
            making.add_done_callback(lambda _: self._making.pop((record.id, name)))
        return await asyncio.shield(making)  # a caller that leaves does not take it from the others

    async def _make_and_keep(self, record: Record, number: int, wanted: str | None, name: str) -> bytes:
        data = await self._make(record, number, wanted)
        await self._keep(record, name, data)
        return data

    async def _make(self, record: Record, number: int, wanted: str | None) -> bytes:
        """Make a file that is not stored of those that are; ``wanted`` is its format, None means a patch."""
        threads, output = self._parts.threads, record.outputs[number]
        with self._slot():
            await self._parts.limiter.check_rate(record.key_id)
            data = await self._read(record, IMAGE if keeps_patch(output) else str(output["file_name"]))
            width, height = await threads.pixels(file_size, "image", data, MAX_KEPT_BYTES)
            with self._pixels.hold(decoded_pixels(width, height, 0)):
                if wanted is None:
                    return await threads.pixels(cut_out, data, _box_of(output))
                if keeps_patch(output):
                    patch = await self._read(record, patch_name(number))
                    return await threads.pixels(compose, output, data, patch, wanted)
                return await threads.pixels(convert, data, wanted)

    async def _read(self, record: Record, name: str) -> bytes:
        return await self._parts.threads.blobs(self._parts.blobs.get, record.id, name)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if self._converting >= _MAX_CONVERSIONS:
            raise BusyError("the server is converting other pictures; try again", _RETRY_AFTER_S)
        self._converting += 1
        try:
            yield
        finally:
            self._converting -= 1

    async def _keep(self, record: Record, name: str, data: bytes) -> None:
        """Write a converted file next to the original, if its key may store that much."""
        parts, settings = self._parts, self._parts.settings
        if (record.ended_at or 0.0) + settings.pictures_ttl_s < time.time() + _KEPT_S:
            return
        counted = (record.id, record.key_id, len(data), settings.max_stored_bytes_per_key)
        try:
            if await asyncio.to_thread(parts.store.add_stored, *counted):
                await parts.threads.blobs(parts.blobs.put, record.id, name, data)
        except InpaintError as error:  # the caller gets the picture all the same
            log.warning("a converted picture was not kept", request=record.id, error=str(error))


def _output(record: Record, number: int) -> Mapping[str, Any]:
    if not 0 <= number < len(record.outputs):
        raise NotFoundError("there is no such picture")
    return record.outputs[number]


def _format_of(output: Mapping[str, Any]) -> str:
    """Return the format in which a picture was painted."""
    return next(name for name, kind in CONTENT_TYPES.items() if kind == output["content_type"])


def _box_of(output: Mapping[str, Any]) -> Box | None:
    """Return the part of a picture that may differ from the caller's; an earlier version wrote down none."""
    box: list[int] = output.get("box", [])
    return (box[0], box[1], box[2], box[3]) if box else None
