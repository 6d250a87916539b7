"""The handlers that paint: edits and generations, answered whole or as a stream."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from server.dialects.intake import Intake
from server.dialects.openai.answers import ImageFacts, Images, images, in_base64
from server.dialects.openai.models import chosen
from server.dialects.openai.request import Wanted, read_edit, read_generation
from server.dialects.openai.stream import ImageStream
from server.http.body import Fields
from server.service.accounting import warnings_of
from server.service.caller import Caller
from server.service.pictures import MAX_KEPT_BYTES, file_size


@dataclass(frozen=True, slots=True)
class Painting:
    """The handlers of edits and generations."""

    intake: Intake

    async def edit(self, request: Request) -> Response:
        """Repaint what the mask repaints: its transparent part, or white in a file without alpha.

        Without a mask the picture's own transparent part is repainted, or all of it at strength 0.75.
        """
        return await self._answer(request, read_edit)

    async def generate(self, request: Request) -> Response:
        """Paint pictures from the prompt alone."""

        def read(fields: Fields) -> Wanted:
            parts = self.intake.service.parts
            model = chosen(fields, parts.settings.models)
            return read_generation(fields, parts.client.health().of(model).in_channels)

        return await self._answer(request, read)

    async def _answer(self, request: Request, read: Callable[[Fields], Wanted]) -> Response:
        async with AsyncExitStack() as held:
            arrival = await held.enter_async_context(self.intake.arrival(request))
            model = chosen(arrival.fields, self.intake.service.parts.settings.models)
            wanted = read(arrival.fields)
            wanted = replace(wanted, order=replace(wanted.order, model=model))
            if wanted.stream:  # which keeps the request's place until it has ended
                return ImageStream(self.intake, request, arrival.caller, wanted, held.pop_all())
            paint = self._urls if wanted.as_url else self._files
            return await self.intake.service.parts.threads.pixels(
                _response, await paint(request, arrival.caller, wanted)
            )

    async def _files(self, request: Request, caller: Caller, wanted: Wanted) -> Images:
        painted = await self.intake.paint(request, caller, wanted.order)
        data = await self.intake.service.parts.threads.pixels(in_base64, painted.files, painted.record.seeds)
        return images(wanted, data, painted.size, painted.warnings)

    async def _urls(self, request: Request, caller: Caller, wanted: Wanted) -> Images:
        record = await self.intake.store(request, caller, wanted.order)
        file = await self.intake.queue.pictures.whole(record, 0)
        size = await self.intake.service.parts.threads.pixels(file_size, "image", file, MAX_KEPT_BYTES)
        urls = self.intake.picture_urls(request, record)
        data = [ImageFacts(url=url, seed=seed) for url, seed in zip(urls, record.seeds, strict=True)]
        warnings = [text for output in record.outputs for text in warnings_of(output)]
        return images(wanted, data, size, warnings)


def _response(answer: Images) -> JSONResponse:
    return JSONResponse(answer.model_dump(exclude_none=True))
