"""The preparation of a request: its pictures are fetched, and decoded within the budget."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

from inpaint.lora.files import canonical
from inpaint.request import InpaintRequest
from server.observe.metrics import Metrics
from server.service.caller import Caller
from server.service.limits import Limiter
from server.service.order import Order, Source, Url
from server.service.pictures import (
    Prepared,
    Reader,
    counted,
    describe,
    file_size,
    pixels_to_decode,
    prepare,
    read_inputs,
    shown,
)
from server.service.pixel_budget import PixelBudget, decoded_pixels
from server.settings import Settings

DEFAULT_NATIVE_SIZE = 1024  # SDXL's; until the first engine is ready


class Preparation:
    """The way from an order to a request that can be painted. Every method is for the event loop."""

    def __init__(
        self,
        settings: Settings,
        reader: Reader,
        limiter: Limiter,
        metrics: Metrics,
        pixels: PixelBudget,
        native_size: Callable[[str], int | None],
    ) -> None:
        """Share the budget of pixels; ``native_size`` is that of a model, once it is known."""
        self.pixels = pixels
        self._settings, self._reader, self._limiter = settings, reader, limiter
        self._stages, self._threads = metrics.stages, reader.threads
        self._native_size = native_size

    @asynccontextmanager
    async def prepared(self, caller: Caller, order: Order) -> AsyncIterator[Prepared]:
        """Fetch, decode and check both pictures, draw the seed, and hold their pixels' part of the budget.

        Raises:
            InpaintError: a picture cannot be fetched or used, or the request is invalid.
            BusyError: the requests under way hold too many pixels.
        """
        model = self._settings.models.named(order.model)
        with self._stages.labels("fetch").time():
            files = await self._gather(caller, order)
        with self.pixels.hold(await self._threads.pixels(pixels_to_decode, order, *files)):
            with self._stages.labels("read").time():
                prepared = await self._counted(await self._threads.pixels(prepare, order, *files), model)
                del files  # the block may last for minutes
                await self._check_loras(prepared.request)
            yield replace(prepared, request=prepared.request.with_seed())

    @asynccontextmanager
    async def again(
        self, image: bytes, mask: bytes, settings: Mapping[str, object], pixels: int, model: str
    ) -> AsyncIterator[Prepared]:
        """Decode the stored files of an earlier request for ``model``, and hold ``pixels`` of the budget.

        Raises:
            RequestError: a LoRA is no longer there.
            ModelError: the folder of LoRA files cannot be read.
            BusyError: the requests under way hold too many pixels.
        """
        with self.pixels.hold(pixels):
            read = await self._threads.pixels(read_inputs, image, mask, settings)
            prepared = await self._counted(read, model)
            await self._check_loras(prepared.request)
            yield prepared

    async def _counted(self, prepared: Prepared, model: str) -> Prepared:
        native = self._native_size(model) or DEFAULT_NATIVE_SIZE
        return await self._threads.pixels(counted, prepared, model, native)

    async def _check_loras(self, request: InpaintRequest) -> None:
        if loras := request.loras:  # a mistyped name is refused now, not when it is painted
            await asyncio.to_thread(canonical, loras, self._settings.loras)

    async def describe(self, caller: Caller, source: Source) -> dict[str, object]:
        """Return a picture's format and size, and how it was painted if the file says so.

        Raises:
            InpaintError: the picture cannot be fetched or read.
            BusyError: the requests under way hold too many pixels.
        """
        async with self.reading(caller, source) as data:
            return await self._threads.pixels(describe, data)

    async def shown(self, caller: Caller, source: Source) -> tuple[bytes, str]:
        """Return a picture's file and content type, as PNG where browsers do not show its format.

        Raises:
            InpaintError: the picture cannot be fetched or read.
            BusyError: the requests under way hold too many pixels.
        """
        async with self.reading(caller, source) as data:
            return await self._threads.pixels(shown, data)

    @asynccontextmanager
    async def gathered(self, caller: Caller, order: Order) -> AsyncIterator[tuple[bytes, bytes | None]]:
        """Yield the files of both pictures, fetched, and hold their pixels' part of the budget.

        Raises:
            InpaintError: a picture cannot be fetched, or is none.
            BusyError: the requests under way hold too many pixels.
        """
        files = await self._gather(caller, order)
        with self.pixels.hold(await self._threads.pixels(pixels_to_decode, order, *files)):
            yield files

    @asynccontextmanager
    async def reading(self, caller: Caller, source: Source, name: str = "image") -> AsyncIterator[bytes]:
        """Yield the file of a picture, which came in the field ``name``, and hold its part of the budget.

        Raises:
            InpaintError: the picture cannot be fetched, or its header read.
            BusyError: the requests under way hold too many pixels.
        """
        async with self._limiter.fetches(caller.key_id) if isinstance(source, Url) else nullcontext():
            data = await self._reader.read(name, source)
        width, height = await self._threads.pixels(file_size, name, data)
        with self.pixels.hold(decoded_pixels(width, height, 0)):
            yield data

    async def _gather(self, caller: Caller, order: Order) -> tuple[bytes, bytes | None]:
        # One without URLs need not wait for the key's fetches from slow hosts.
        async with self._limiter.fetches(caller.key_id) if order.has_urls else nullcontext():
            return await self._reader.gather(order)
