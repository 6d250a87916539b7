"""The painted pictures of v2 requests, for their owners and for callers with their URLs, in any format.

A conversion takes seconds of CPU and needs no key. So two run at a time, and each is kept next to the
original and counted in the rate of the key that made the request.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from inpaint.errors import BusyError, InpaintError
from server.errors import NotFoundError, UnauthorizedError
from server.service.pictures import CONTENT_TYPES, MAX_KEPT_BYTES, convert, file_size
from server.service.pixel_budget import PixelBudget, decoded_pixels
from server.service.service import Parts
from server.storage.requests import Record

_MAX_CONVERSIONS = 2  # at the same time
_RETRY_AFTER_S = 2.0
_KEPT_S = 600.0  # before pictures expire, so that no file is written after the sweeper deleted its folder

log = structlog.get_logger()


class StoredPictures:
    """The pictures in the picture store. Every method is for the event loop."""

    def __init__(self, parts: Parts, pixels: PixelBudget) -> None:
        self._parts, self._pixels = parts, pixels
        self._converting = 0

    async def get(
        self,
        request_id: str,
        number: int,
        *,
        key_id: str | None,
        token: str | None,
        output_format: str | None = None,
    ) -> tuple[bytes, str]:
        """Return one painted picture and its content type, to its owner or to a caller with its URL.

        Args:
            request_id: of the request that painted it.
            number: of the picture among the request's, from 0.
            key_id: of the caller, if the caller sent a key.
            token: from the picture's URL; takes precedence over the key.
            output_format: jpeg, png or webp; None is the format in which it was painted.

        Raises:
            UnauthorizedError: neither a key nor a token was given.
            NotFoundError: there is no such picture, or it is not the caller's.
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
        if not 0 <= number < len(record.outputs):
            raise NotFoundError("there is no such picture")
        output = record.outputs[number]
        name, content_type = str(output["file_name"]), str(output["content_type"])
        if output_format is None or CONTENT_TYPES[output_format] == content_type:
            return await self._read(record, name), content_type
        wanted = f"{number}.{output_format}"
        try:
            return await self._read(record, wanted), CONTENT_TYPES[output_format]
        except NotFoundError:  # it is converted for the first time
            converted = await self._convert(record, name, output_format)
        await self._keep(record, wanted, converted)
        return converted, CONTENT_TYPES[output_format]

    async def _read(self, record: Record, name: str) -> bytes:
        return await self._parts.threads.blobs(self._parts.blobs.get, record.id, name)

    async def _convert(self, record: Record, name: str, output_format: str) -> bytes:
        threads = self._parts.threads
        with self._slot():
            await self._parts.limiter.check_rate(record.key_id)
            data = await self._read(record, name)
            width, height = await threads.pixels(file_size, "image", data, MAX_KEPT_BYTES)
            with self._pixels.hold(decoded_pixels(width, height, 0)):
                return await threads.pixels(convert, data, output_format)

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
