"""The handlers of the routes that paint, follow and interrupt, and of those that read a picture's text."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fastapi import Request, Response

from inpaint.errors import CancelledError, RequestError
from server.dialects.a1111.answers import pictures, png_info
from server.dialects.a1111.errors import Answer
from server.dialects.a1111.lists import Model, chosen, loras, models_of
from server.dialects.a1111.models import LoraEntry, Progress
from server.dialects.a1111.progress import Run, Runs, png_of
from server.dialects.a1111.request import Asked, img2img, txt2img
from server.dialects.intake import Intake
from server.errors import ContentTypeError
from server.service.caller import MODEL_SCOPE, Caller
from server.service.order import Url, source
from server.service.service import Painted

# The fields of ours that an error may name, as the client calls them.
_THEIRS = {
    "image": "init_images",
    "size": "width",
    "samples": "batch_size",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
    "loras": "prompt",
}


@dataclass(frozen=True, slots=True)
class A1111:
    """The handlers of the dialect; ``routes`` gives each its path."""

    intake: Intake
    runs: Runs = field(default_factory=Runs)

    async def admit(self, request: Request) -> Caller:
        """Return the caller of a request that needs no body, whatever is in it."""
        caller = await self.intake.gate.admit(request)
        caller.require(MODEL_SCOPE)
        return caller

    def models(self) -> list[Model]:
        """Return the models of this server."""
        parts = self.intake.service.parts
        return models_of(parts.settings, parts.client.health())

    async def loras(self, request: Request) -> list[LoraEntry]:
        """Return the LoRAs that prompts may name."""
        await self.admit(request)
        return await asyncio.to_thread(loras, self.intake.service.parts.settings)

    async def img2img(self, request: Request) -> Response:
        """Paint a picture again, where its mask is white or as a whole."""
        return await self._paint(request, "img2img", img2img)

    async def txt2img(self, request: Request) -> Response:
        """Paint pictures from a prompt alone."""
        return await self._paint(request, "txt2img", txt2img)

    async def progress(self, request: Request, skip_current_image: bool = False) -> Progress:
        """Return the progress of the caller's requests: all zeros if none is under way."""
        runs = self.runs.of(await self.admit(request))
        if not runs:
            return Progress()
        found = runs[0].progress(len(runs))
        if not skip_current_image:
            runs[0].watch()
            if (preview := runs[0].preview) is not None:
                found.current_image = await self.intake.service.parts.threads.pixels(png_of, preview)
        return found

    async def interrupt(self, request: Request) -> Response:
        """End the caller's requests within a step; each answers 200, without pictures."""
        for run in self.runs.of(await self.admit(request)):
            run.interrupt()
        return Answer({})

    async def skip(self, request: Request) -> Response:
        """End the caller's oldest request as ``interrupt`` does: its pictures are painted together."""
        for run in self.runs.of(await self.admit(request))[:1]:
            run.interrupt(skip=True)
        return Answer(None)

    async def png_info(self, request: Request) -> Response:
        """Return how a picture was made, as its file says."""
        async with self.intake.arrival(request) as arrival:
            if (image := arrival.fields.get("image")) is None:
                raise RequestError("image", "is required")
            picture = source("image", image)
            if not isinstance(picture, bytes):
                assert isinstance(picture, Url), "no other kind comes from a client"
                raise RequestError("image", "must be base64 or a data: URI of a picture")
            found = await self.intake.service.parts.threads.pixels(png_info, picture)
            return Answer(found.model_dump())

    async def _paint(
        self, request: Request, job: str, read: Callable[[Mapping[str, object], int | None], Asked]
    ) -> Response:
        async with self.intake.arrival(request) as arrival:
            if "multipart" in request.headers.get("content-type", ""):
                raise ContentTypeError("send the request as JSON, with Content-Type: application/json")
            model = chosen(arrival.fields, self.models())
            asked = read(arrival.fields, model.in_channels)
            asked = replace(asked, order=replace(asked.order, model=model.name))
            with self.runs.run(arrival.caller, job) as run:
                painted = await self._painted(request, arrival.caller, asked, run)
            assert run.record is not None, "an engine has painted it, or was interrupted while it did"
            return await self.intake.service.parts.threads.pixels(_answer, asked, run, model, painted)

    async def _painted(self, request: Request, caller: Caller, asked: Asked, run: Run) -> Painted | None:
        """Return the painted pictures; None if the caller interrupted the request."""
        try:
            return await self.intake.paint(request, caller, asked.order, run.begin)
        except CancelledError:
            if not run.interrupted or run.record is None:  # or else it hung up
                raise
            return None
        except RequestError as error:
            raise RequestError(_THEIRS.get(error.field, error.field), error.problem) from error


def _answer(asked: Asked, run: Run, model: Model, painted: Painted | None) -> Response:
    assert run.record is not None
    return Answer(pictures(asked, run.record, model, painted).model_dump())
