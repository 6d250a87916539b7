"""The routes below ``/sdapi/v1``, one table; what is not in it is not there for any method."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from server.dialects.a1111 import lists, models
from server.dialects.a1111.bodies import IMG2IMG, PNG_INFO, TXT2IMG
from server.dialects.a1111.errors import Answer, problems, shape
from server.dialects.a1111.handlers import A1111
from server.dialects.a1111.samplers import samplers, schedule_types
from server.dialects.a1111.scripts import script_infos
from server.dialects.dialect import Dialect
from server.dialects.intake import Intake

PREFIX = "/sdapi"
_V1 = f"{PREFIX}/v1"
_PAINT_ERRORS = (402, 404, 413, 415, 422, 502, 504)


@dataclass(frozen=True, slots=True)
class Get:
    """A route that describes the server."""

    path: str
    summary: str
    model: Any  # of its answer
    answer: Callable[[A1111], Any]


# The lists of what clients ask for and there is none of.
_EMPTY = (
    "sd-vae", "sd-modules", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles",
    "extensions",
)  # fmt: skip
_GETS = (
    Get("options", "Settings", models.Options, lambda a1111: a1111.models()[0].options()),
    Get("sd-models", "Models", list[models.ModelEntry], lambda a1111: [m.entry() for m in a1111.models()]),
    Get("samplers", "Samplers", list[models.Sampler], lambda _: samplers()),
    Get("schedulers", "Schedule types", list[models.ScheduleType], lambda _: schedule_types()),
    Get("upscalers", "Upscalers", list[models.Upscaler], lambda _: lists.upscalers()),
    Get(
        "latent-upscale-modes",
        "Upscalers of latents",
        list[models.UpscaleMode],
        lambda _: lists.upscale_modes(),
    ),
    *(Get(name, "An empty list", list[str], lambda _: []) for name in _EMPTY),
    Get(
        "embeddings",
        "Textual inversions, of which there are none",
        models.Embeddings,
        lambda _: models.Embeddings(),
    ),
    Get("scripts", "Scripts", models.Scripts, lambda _: lists.scripts()),
    Get("script-info", "Scripts with arguments", list[models.ScriptInfo], lambda _: script_infos()),
    Get("cmd-flags", "An empty object", dict[str, Any], lambda _: {}),
    Get("memory", "Memory", models.Memory, lambda _: lists.memory()),
)
# The routes that change nothing here, and their answers.
_NOTHING: Mapping[str, dict[str, object] | None] = {
    "options": None,
    "options/": None,
    "refresh-checkpoints": None,
    "refresh-vae": None,
    "refresh-loras": None,
    "unload-checkpoint": {},
    "reload-checkpoint": {},
}


def a1111(intake: Intake) -> Dialect:
    """Return the dialect with its routes."""
    router, handlers = APIRouter(prefix=_V1, tags=["a1111"]), A1111(intake)
    for get in _GETS:
        router.add_api_route(
            f"/{get.path}",
            _listing(handlers, get.answer),
            methods=["GET"],
            summary=get.summary,
            response_model=get.model,
            responses=problems(),
        )
    _add_reading(router, handlers)
    _add_painting(router, handlers)
    for path, answer in _NOTHING.items():
        _add_post(router, path, _doing_nothing(handlers, answer), "Does nothing")
    _add_post(router, "interrupt", handlers.interrupt, "End the requests under way")
    _add_post(router, "skip", handlers.skip, "End the oldest request under way")
    return Dialect(router, (PREFIX,), shape)


def _add_reading(router: APIRouter, handlers: A1111) -> None:
    router.add_api_route(
        "/loras",
        handlers.loras,
        methods=["GET"],
        summary="LoRAs",
        response_model=list[models.LoraEntry],
        responses=problems(),
    )
    router.add_api_route(
        "/progress",
        handlers.progress,
        methods=["GET"],
        summary="Progress of the requests under way",
        response_model=models.Progress,
        responses=problems(422),
    )


def _add_painting(router: APIRouter, handlers: A1111) -> None:
    for path, handler, summary, body in (
        ("img2img", handlers.img2img, "Paint a picture again, inside a mask or as a whole", IMG2IMG),
        ("txt2img", handlers.txt2img, "Paint pictures from a prompt alone", TXT2IMG),
    ):
        _add_post(router, path, handler, summary, models.Pictures, body, *_PAINT_ERRORS)
    _add_post(
        router, "png-info", handlers.png_info, "Text in a picture", models.PngInfo, PNG_INFO, 413, 415, 422
    )


def _add_post(
    router: APIRouter,
    path: str,
    handler: Callable[[Request], Awaitable[Response]],
    summary: str,
    model: Any = Any,
    body: dict[str, Any] | None = None,
    *statuses: int,
) -> None:
    """Add a route that answers with its own ``Response``; ``body`` describes what it takes."""
    content = {"application/json": {"schema": body}}
    router.add_api_route(
        f"/{path}",
        handler,
        methods=["POST"],
        summary=summary,
        response_class=Answer,
        responses={200: {"model": model}, **problems(*statuses)},
        openapi_extra={"requestBody": {"required": True, "content": content}} if body else {},
    )


def _listing(handlers: A1111, answer: Callable[[A1111], Any]) -> Callable[[Request], Awaitable[Any]]:
    async def listing(request: Request) -> Any:
        await handlers.admit(request)
        return answer(handlers)

    return listing


def _doing_nothing(handlers: A1111, answer: object) -> Callable[[Request], Awaitable[Response]]:
    async def nothing(request: Request) -> Response:
        await handlers.admit(request)
        return Answer(answer)

    return nothing
