"""The routes that describe this server and a picture: model, fields and limits; format, size and settings."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

import structlog
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

import inpaint
from inpaint.about import about
from inpaint.canvas.patch_fill import is_available
from inpaint.errors import ModelError, RequestError
from inpaint.images.codec import MAX_ENCODED_BYTES
from inpaint.lora.files import available_loras
from inpaint.request import AREAS, FILLS, MAX_ASPECT, MAX_PIXELS, MAX_SIDE, MIN_SIDE
from inpaint.schedulers import SCHEDULERS
from inpaint.selection.sam import FETCH
from server.dialects.intake import Arrival, Intake, base_url
from server.dialects.openapi import problems
from server.dialects.segmind_request import InpaintBody
from server.engines.client import Health
from server.models import Models
from server.service.caller import MODEL_SCOPE
from server.service.order import Format, Source, own, source
from server.service.pictures import CONTENT_TYPES

_PICTURES = ("image", "mask")
_PICTURE_BODY = {
    "required": True,
    "content": {
        kind: {
            "schema": {"type": "object", "required": ["image"], "properties": {"image": {"type": "string"}}}
        }
        for kind in ("application/json", "multipart/form-data")
    },
}
_SHOWN = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES.values()}
log = structlog.get_logger()
Kind = Literal["integer", "number", "boolean", "text", "choice", "list"]


class FieldOffer(BaseModel):
    """A field of a request, for programs that build a form from it."""

    name: str
    kind: Kind
    required: bool
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: list[str] = []
    description: str = ""


class Limits(BaseModel):
    """The limits on pictures that a request may send."""

    min_side: int = MIN_SIDE
    max_side: int = MAX_SIDE
    max_pixels: int = MAX_PIXELS
    max_aspect: int = MAX_ASPECT
    max_file_bytes: int = MAX_ENCODED_BYTES


class SelectOffer(BaseModel):
    """The ways to select an object, see `POST /v2/select`."""

    methods: list[str]
    missing: Annotated[
        dict[str, str],
        Field(description="The command of this server's operator that adds each other method."),
    ] = {}


class AboutModel(BaseModel):
    """A model, said to people."""

    text: Annotated[str, Field(description="One or two sentences on what the model paints.")]
    photographs: Annotated[bool, Field(description="True if it paints photographs.")]
    things: Annotated[
        list[str] | None,
        Field(
            description="What it paints, as prompts call it, if that is little; null if it paints anything."
        ),
    ] = None
    words: Annotated[
        list[str] | None,
        Field(description="The words of prompts that it knows, if they are few; null if any may be used."),
    ] = None


class ModelOffer(BaseModel):
    """One of the models of this server."""

    name: Annotated[str, Field(description="For the field `model` of a request.")]
    ready: Annotated[bool, Field(description="True if it paints now; otherwise its requests wait.")]
    native_size: Annotated[
        int | None, Field(description="Side in pixels at which it paints; null until it is loaded.")
    ]
    about: AboutModel


class Offer(BaseModel):
    """The abilities of this server."""

    model: Annotated[str, Field(description="The model that paints what names none.")]
    version: str
    ready: Annotated[
        bool, Field(description="True if that model's requests are painted now; otherwise they wait.")
    ]
    native_size: Annotated[
        int | None,
        Field(description="Side in pixels at which the model paints; null until the model is loaded."),
    ]
    models: Annotated[list[ModelOffer], Field(description="All models, the first of which is `model`.")]
    about: AboutModel
    schedulers: list[str] = list(SCHEDULERS)
    areas: list[str] = list(AREAS)
    fills: list[str] = list(FILLS)
    formats: list[str] = list(get_args(Format))
    loras: list[str] = []
    select: SelectOffer
    limits: Limits = Limits()
    fields: list[FieldOffer]


class PictureFacts(BaseModel):
    """The format, size and settings of a picture, as its file states them."""

    format: Literal["png", "jpeg", "webp", "tiff", "avif", "heif"]
    width: int
    height: int
    settings: Annotated[
        dict[str, Any] | None,
        Field(description="The settings it was painted with; null if its metadata holds none."),
    ] = None
    model: Annotated[str | None, Field(description="The model that painted it; null if unknown.")] = None
    left_out: Annotated[
        list[str],
        Field(description="What the file says that was not taken over as it is, a sentence each."),
    ] = []


@dataclass(frozen=True, slots=True)
class Discovery:
    """The handlers that describe the server and pictures, with their routes."""

    intake: Intake

    def router(self) -> APIRouter:
        """Return the three routes."""
        router = APIRouter(tags=["sdxl-inpaint"])
        router.add_api_route(
            "/v2/sdxl-inpaint",
            self.offer,
            methods=["GET"],
            summary="Model, fields and limits of this server",
            response_model=Offer,
            responses=problems(),
        )
        router.add_api_route(
            "/v2/info",
            self.info,
            methods=["POST"],
            summary="Format, size and settings of a picture",
            response_model=PictureFacts,
            responses=problems(400, 406, 413, 415, 422, 502),
            openapi_extra={"requestBody": _PICTURE_BODY},
        )
        router.add_api_route(
            "/v2/picture",
            self.picture,
            methods=["POST"],
            summary="A picture, by file or URL, in a format that every browser shows",
            response_class=Response,
            responses={200: {"content": _SHOWN}, **problems(400, 406, 413, 415, 422, 502)},
            openapi_extra={"requestBody": _PICTURE_BODY},
        )
        return router

    async def offer(self, request: Request) -> Offer:
        """Return the model, and every field of a request with its range, so that a form can be built."""
        (await self.intake.gate.admit(request)).require(MODEL_SCOPE)
        service = self.intake.service
        settings = service.parts.settings
        models = await asyncio.to_thread(self._models, service.parts.client.health())  # it reads files
        try:
            loras = await asyncio.to_thread(available_loras, settings.loras)
        except ModelError as error:  # the page must work without the folder
            log.warning("no LoRAs", error=str(error))
            loras = []
        return Offer(
            model=models[0].name,
            version=inpaint.__version__,
            ready=models[0].ready,
            native_size=models[0].native_size,
            models=models,
            about=models[0].about,
            fills=_fills(),
            loras=[file.name for file in loras],
            select=await self._select_offer(),
            fields=field_offers(settings.models),
        )

    def _models(self, health: Health) -> list[ModelOffer]:
        service, found = self.intake.service, []
        for name, given in service.parts.settings.models.given.items():
            own, told = health.of(name), AboutModel.model_validate(asdict(about(given)))
            ready = own.ready and not service.draining
            found.append(ModelOffer(name=name, ready=ready, native_size=own.native_size, about=told))
        return found

    async def _select_offer(self) -> SelectOffer:
        methods = list(await self.intake.service.selecting.methods())
        return SelectOffer(methods=methods, missing={} if "sam" in methods else {"sam": FETCH})

    async def info(self, request: Request) -> PictureFacts:
        """Return a picture's format and size, and its settings if the file says how it was painted."""
        async with self.intake.arrival(request) as arrival:
            picture = self._picture(request, arrival)
            facts = await self.intake.service.preparation.describe(arrival.caller, picture)
            return PictureFacts.model_validate(facts)

    async def picture(self, request: Request) -> Response:
        """Return a PNG, JPEG or WebP file as it is, and a picture of another format as PNG."""
        async with self.intake.arrival(request) as arrival:
            picture = self._picture(request, arrival)
            data, content_type = await self.intake.service.preparation.shown(arrival.caller, picture)
            return Response(data, media_type=content_type, headers={"Cache-Control": "no-store"})

    def _picture(self, request: Request, arrival: Arrival) -> Source:
        if arrival.fields.get("image") is None:
            raise RequestError("image", "is required")
        base = base_url(request, self.intake.service.parts.settings)
        return own(source("image", arrival.fields["image"]), base)


def _fills() -> list[str]:
    """Return the fills that work here: `patch` needs a library that not every system has."""
    return [fill for fill in FILLS if fill != "patch" or is_available()]


def field_offers(models: Models) -> list[FieldOffer]:
    """Return every field of a request but its pictures, and ``model`` only where there is a choice."""
    schema = InpaintBody.model_json_schema()
    required = schema["required"]
    schema["properties"]["model"] |= {"enum": models.names, "default": models.default}
    left_out = _PICTURES if models.several else (*_PICTURES, "model")
    return [
        _field_offer(name, field, required=name in required)
        for name, field in schema["properties"].items()
        if name not in left_out
    ]


def _field_offer(name: str, schema: dict[str, Any], *, required: bool) -> FieldOffer:
    plain = next((kind for kind in schema.get("anyOf", ()) if kind["type"] != "null"), schema)
    kinds: dict[str, Kind] = {"string": "text", "array": "list"}
    choices = schema.get("enum") or plain.get("enum", [])
    return FieldOffer(
        name=name,
        kind="choice" if choices else kinds.get(plain["type"]) or plain["type"],
        required=required,
        default=schema.get("default"),
        minimum=plain.get("minimum"),
        maximum=plain.get("maximum"),
        choices=_fills() if name == "fill" else choices,
        description=schema.get("description", ""),
    )
