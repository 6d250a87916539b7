"""The body of a request to the hosted API, as a pydantic model."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from inpaint.errors import RequestError
from inpaint.images.formats import READ
from inpaint.lora.spec import MAX_LORAS, MAX_SCALE, parse_loras
from inpaint.pace import Pace
from inpaint.request import (
    DEFAULTS,
    MAX_SIDE,
    RANGES,
    Area,
    Fill,
    Lengths,
    MaskChannel,
    Range,
    check_settings,
)
from inpaint.schedulers import SCHEDULERS, canonical_name
from server.service.order import Answer, Format, Order, source

MAX_SEED = 999_999_999_999_999
_MAX_ITEMS = 4  # of a list that a form writes as text
# The hosted API's ranges, narrower than the engine's. A value outside is refused, and never clamped.
LIMITS: Mapping[str, Range] = {
    "samples": Range(int, 1, 4),
    "num_inference_steps": Range(int, 20, 100),
    "guidance_scale": Range(float, 1, 25),
    "seed": Range(int, -1, MAX_SEED),
    "strength": Range(float, 0, 0.99),
    "quality": Range(int, 1, 100),
    **{name: RANGES[name] for name in ("padding", "grow", "feather", "guidance_rescale")},
}
# The hosted API documents the same defaults as the engine has; one that differs must be written out here.
_default = SimpleNamespace(**DEFAULTS)
_PICTURE = "an http(s) URL, a data: URI or base64; in a form also a file"
_PIXELS = "pixels at a working size of 1024 (see `lengths`)"

# Fields that are no settings of the engine, or not in its words.
_NO_SETTINGS = {
    "image",
    "mask",
    "base64",
    "output_format",
    "quality",
    "scheduler",
    "extend",
    "model",
    "metadata",
    "answer",
}

Side = Annotated[int, Field(ge=0, le=MAX_SIDE)]
Picture = Annotated[str | bytes, Field(description=f"A {READ} picture: {_PICTURE}.")]


def _number(name: str, description: str) -> Any:
    limits = LIMITS[name]
    return Field(ge=limits.low, le=limits.high, description=description)


def _split(value: object) -> object:
    """Turn a form's ``0.2,0.8`` into a list as in JSON; leave other values to the checks that follow."""
    if not isinstance(value, str):
        return value
    try:
        return [float(part) for part in value.strip("[] ").split(",", _MAX_ITEMS)]
    except ValueError:
        return value


class Lora(BaseModel):
    """A LoRA's name and scale; the scales of a name that occurs twice are added."""

    model_config = ConfigDict(frozen=True)

    name: str
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)] = 1.0


def _named(value: object) -> object:
    """Turn any of the engine's notations for LoRAs into objects."""
    return [use._asdict() for use in parse_loras(value)]


class InpaintBody(BaseModel):
    """The pictures, prompt and settings of a request.

    Numbers and booleans may be sent as text, unknown fields are ignored, and null means absent.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: Picture
    mask: Annotated[
        str | bytes | None,
        Field(
            description=f"White is repainted, black is kept: {_PICTURE}. Required unless `extend` adds "
            "pixels to paint.",
        ),
    ] = None
    prompt: Annotated[str, Field(description="What to paint there; `(word:1.3)` gives a word more weight.")]
    negative_prompt: Annotated[str | None, Field(description="What not to paint.")] = _default.negative_prompt
    samples: Annotated[int, _number("samples", "Number of pictures; their seeds count up.")] = (
        _default.samples
    )
    scheduler: Annotated[
        str,
        Field(
            json_schema_extra={"enum": list(SCHEDULERS)},
            description="The sampler, in any letter case; A1111's and ComfyUI's names are taken, too.",
        ),
    ] = _default.scheduler
    num_inference_steps: Annotated[
        int, _number("num_inference_steps", "Denoising steps, of which the fraction `strength` is run.")
    ] = _default.num_inference_steps
    guidance_scale: Annotated[float, _number("guidance_scale", "How closely to follow the prompt.")] = (
        _default.guidance_scale
    )
    seed: Annotated[
        int,
        _number(
            "seed",
            "The same seed gives the same picture; -1 draws a random one, which the answer reports.",
        ),
    ] = _default.seed
    strength: Annotated[float, _number("strength", "How much to change what is under the mask.")] = (
        _default.strength
    )
    base64: Annotated[bool, Field(description="Answer with JSON instead of the picture's bytes.")] = False
    # The fields from here on are not in the hosted API.
    output_format: Annotated[Format, Field(description="File format of the painted pictures.")] = "jpeg"
    quality: Annotated[int, _number("quality", "Quality of JPEG and WebP files.")] = 95
    area: Annotated[
        Area,
        Field(
            description="Work on the surroundings of the mask (`auto`), in several boxes if parts of it are "
            "far apart, or on the whole picture (`whole`)."
        ),
    ] = _default.area
    padding: Annotated[int, _number("padding", f"Context around the mask, in {_PIXELS}.")] = _default.padding
    grow: Annotated[int, _number("grow", f"Widen the mask by this much, in {_PIXELS}.")] = _default.grow
    feather: Annotated[
        int, _number("feather", f"Soften the mask's edge outwards by this much, in {_PIXELS}.")
    ] = _default.feather
    lengths: Annotated[
        Lengths,
        Field(
            description="What `padding`, `grow` and `feather` count: pixels at a working size of 1024 "
            "(`box`), so that one setting fits every picture, or pixels of the picture (`picture`)."
        ),
    ] = _default.lengths
    fill: Annotated[Fill, Field(description="What to put under the mask before painting.")] = _default.fill
    color_match: Annotated[
        bool, Field(description="Match the painted part's colours to its surroundings.")
    ] = _default.color_match
    soft: Annotated[bool, Field(description="Read grey in the mask as partial strength.")] = _default.soft
    mask_channel: Annotated[
        MaskChannel,
        Field(
            description="What the mask repaints: what is white in it (`luminance`), or what is transparent "
            "in it (`alpha`), as in masks for OpenAI's API."
        ),
    ] = _default.mask_channel
    invert_mask: Annotated[
        bool, Field(description="Repaint what the mask would keep, and keep what it would repaint.")
    ] = _default.invert_mask
    resize_mask: Annotated[
        bool, Field(description="Take a mask of the picture's shape in another size, and resize it.")
    ] = _default.resize_mask
    guidance_interval: Annotated[
        tuple[float, float],
        BeforeValidator(_split),
        Field(
            description="Apply guidance only between these fractions of the steps; in a form `0.2,0.8`. A "
            "narrower interval is faster and changes the picture."
        ),
    ] = _default.guidance_interval
    guidance_rescale: Annotated[
        float,
        _number(
            "guidance_rescale",
            "How far guidance is kept from raising the contrast; about 0.7 suits models with zero terminal "
            "SNR.",
        ),
    ] = _default.guidance_rescale
    pace: Annotated[
        Pace,
        Field(
            description="`near` takes about half the time and credits, and paints nearly the picture that "
            "`exact` paints with the same seed."
        ),
    ] = _default.pace
    extend: Annotated[
        tuple[Side, Side, Side, Side],
        BeforeValidator(_split),
        Field(
            description="Pixels to add on the left, top, right and bottom, and to paint; in a form "
            "`0,0,256,0`. The mask has the size of the picture without them."
        ),
    ] = (0, 0, 0, 0)
    loras: Annotated[
        list[Lora],
        BeforeValidator(_named),
        Field(
            max_length=MAX_LORAS,
            description="LoRAs that this server has (`GET /v2/sdxl-inpaint` lists them); in a form "
            "`style:0.8,other`. `<lora:style:0.8>` in the prompt does the same.",
        ),
    ] = []
    model: Annotated[
        str | None,
        Field(
            description="The model that paints, one of those that `GET /v2/sdxl-inpaint` lists; if absent, "
            "the first of them."
        ),
    ] = None
    metadata: Annotated[
        bool | None,
        Field(
            description="Write the settings, prompt included, into the picture's file, where `inpaint info` "
            "and A1111 read them. If absent, the server's setting decides, which is off by default."
        ),
    ] = None

    answer: Annotated[
        Answer,
        Field(
            description="What v2 keeps of a painted picture: its whole file, or only the painted `boxes` "
            "(`crop=box` on its URL), so that a large picture is done sooner; a whole file is then made when "
            "it is asked for."
        ),
    ] = "files"

    @model_validator(mode="before")
    @classmethod
    def _as_clients_send_it(cls, fields: Any) -> Any:
        """Accept aliases, null or empty text for an absent field, and the seed's bound + 1."""
        if not isinstance(fields, Mapping):
            return fields
        known = {name: value for name, value in fields.items() if value is not None}
        for name, alias in (("image", "imageUrl"), ("mask", "maskUrl")):
            known.setdefault(name, known.get(alias))
        texts = ("image", "mask", "prompt", "negative_prompt")
        known = {n: v for n, v in known.items() if v is not None and (n in texts or v != "")}
        seed = known.get("seed")
        if isinstance(seed, int | str) and str(seed).strip() == str(MAX_SEED + 1):
            known["seed"] = MAX_SEED
        return known

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        loras = [lora.model_dump() for lora in self.loras]
        checked = ("guidance_interval", "prompt", "negative_prompt")
        check_settings({name: getattr(self, name) for name in checked} | {"loras": loras})
        if self.mask is None and not any(self.extend):
            raise RequestError("mask", "is required")
        if self.num_inference_steps * self.strength < 1:
            raise RequestError(
                "strength",
                f"{self.num_inference_steps} steps × strength {self.strength:g} is less than one step; raise "
                "num_inference_steps or strength",
            )
        return self

    def order(self) -> Order:
        """Return the request in the engine's terms.

        Raises:
            RequestError: the scheduler is unknown, or a picture is neither URL nor base64.
        """
        settings = self.model_dump(exclude=_NO_SETTINGS) | {"scheduler": canonical_name(self.scheduler)}
        return Order(
            image=source("image", self.image),
            mask=None if self.mask is None else source("mask", self.mask),
            settings=settings,
            output_format=self.output_format,
            quality=self.quality,
            extend=self.extend if any(self.extend) else None,
            answer=self.answer,
            model=self.model,
            metadata=self.metadata,
        )


class RefineBody(BaseModel):
    """The pictures of a request that are painted again exactly."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: Annotated[
        int | None,
        Field(ge=0, description="Paint the picture with this seed only, one of the answer's `seeds`."),
    ] = None
