"""The body of a request to the hosted API, as a pydantic model, and the checks of its fields."""

from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from inpaint.errors import RequestError
from inpaint.lora.spec import MAX_LORAS, MAX_SCALE, parse_loras
from inpaint.request import MAX_SIDE, RANGES, Area, Fill, Range, check_settings
from inpaint.schedulers import SCHEDULERS, canonical_name
from server.service.order import Format, Order, source

MAX_SEED = 999_999_999_999_999
MAX_TEXT = 10_000  # characters; the model reads some hundred
# The hosted API's ranges, narrower than the engine's; outside them is an error and never clamped.
LIMITS: Mapping[str, Range] = {
    "samples": Range(int, 1, 4),
    "num_inference_steps": Range(int, 20, 100),
    "guidance_scale": Range(float, 1, 25),
    "seed": Range(int, -1, MAX_SEED),
    "strength": Range(float, 0, 0.99),
    "quality": Range(int, 1, 100),
    **{name: RANGES[name] for name in ("padding", "grow", "feather")},
}
_CHOICES = {"area": Area, "fill": Fill, "output_format": Format}
_BOOLEANS = ("base64", "color_match", "soft", "metadata")
_PICTURE = "an http(s) URL, a data: URI or base64; in a form also a file"

Side = Annotated[int, Field(ge=0, le=MAX_SIDE)]
Picture = Annotated[str | bytes, Field(description=f"A PNG, JPEG or WebP: {_PICTURE}.")]


def _number(name: str) -> Any:
    limits = LIMITS[name]
    return Field(ge=limits.low, le=limits.high)


def _split(value: object) -> object:
    """A form's ``0.2,0.8`` as the list that JSON has; ``check_settings`` says what is wrong with the rest."""
    if not isinstance(value, str):
        return value
    try:
        return [float(part) for part in value.strip("[] ").split(",")]
    except ValueError:
        return value


class Lora(BaseModel):
    """A LoRA by its name, and how strongly it counts; twice the same name counts with the sum."""

    model_config = ConfigDict(frozen=True)

    name: str
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)] = 1.0


def _named(value: object) -> object:
    """In any of the engine's notations: a form's text, or pairs."""
    return [use._asdict() for use in parse_loras(value)]


class InpaintBody(BaseModel):
    """What is painted, and how.

    Numbers and booleans may come as text, unknown fields are ignored, null means absent.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: Picture
    mask: Annotated[
        str | bytes | None,
        Field(
            description=f"White is repainted, black is kept: {_PICTURE}. Required unless `extend` gives "
            "something to paint.",
        ),
    ] = None
    prompt: str
    negative_prompt: str | None = None
    samples: Annotated[int, _number("samples")] = 1
    scheduler: Annotated[str, Field(json_schema_extra={"enum": list(SCHEDULERS)})] = "DPM2 Karras"
    num_inference_steps: Annotated[int, _number("num_inference_steps")] = 25
    guidance_scale: Annotated[float, _number("guidance_scale")] = 7.5
    seed: Annotated[int, _number("seed"), Field(description="-1: random, and reported back.")] = -1
    strength: Annotated[float, _number("strength")] = 0.9
    base64: Annotated[bool, Field(description="Answer in JSON instead of with the picture's bytes.")] = False
    # Beyond the hosted API, ours:
    output_format: Format = "jpeg"
    quality: Annotated[int, _number("quality")] = 95
    area: Area = "auto"
    padding: Annotated[int, _number("padding")] = 32
    grow: Annotated[int, _number("grow")] = 8
    feather: Annotated[int, _number("feather")] = 16
    fill: Fill = "original"
    color_match: bool = True
    soft: bool = False
    guidance_interval: Annotated[
        tuple[float, float],
        BeforeValidator(_split),
        Field(
            description="Between which fractions of the steps guidance is on; in a form `0.2,0.8`. "
            "Narrower is faster and another picture."
        ),
    ] = (0.0, 1.0)
    extend: Annotated[
        tuple[Side, Side, Side, Side],
        BeforeValidator(_split),
        Field(
            description="Pixels that the picture grows by, left, top, right, bottom; in a form `0,0,256,0`. "
            "They are painted; the mask has the size from before."
        ),
    ] = (0, 0, 0, 0)

    loras: Annotated[
        list[Lora],
        BeforeValidator(_named),
        Field(
            max_length=MAX_LORAS,
            description="Styles that this server has (`GET /v2/sdxl-inpaint`); in a form `style:0.8,other`. "
            "`<lora:style:0.8>` in the prompt does the same.",
        ),
    ] = []

    metadata: Annotated[
        bool | None,
        Field(
            description="The picture says how it was made, prompt included; `inpaint info` and A1111 read "
            "it. If absent, the server's setting decides, which is no unless changed."
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _as_clients_send_it(cls, fields: Any) -> Any:
        """Aliases, null and empty for absent, any letter case of a scheduler, the seed's bound + 1."""
        if not isinstance(fields, Mapping):
            return fields
        known = {name: value for name, value in fields.items() if value is not None}
        for name, alias in (("image", "imageUrl"), ("mask", "maskUrl")):
            known.setdefault(name, known.get(alias))
        texts = ("image", "mask", "prompt", "negative_prompt")
        known = {n: v for n, v in known.items() if v is not None and (n in texts or v != "")}
        if str(known.get("seed", "")).strip() == str(MAX_SEED + 1):
            known["seed"] = MAX_SEED
        return known

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("prompt", "negative_prompt"):
            _check_text(name, getattr(self, name))
        loras = [lora.model_dump() for lora in self.loras]
        check_settings({"guidance_interval": self.guidance_interval, "prompt": self.prompt, "loras": loras})
        if self.mask is None and not any(self.extend):
            raise RequestError("mask", "is required")
        if self.num_inference_steps * self.strength < 1:
            raise RequestError(
                "strength",
                f"{self.num_inference_steps} steps × strength {self.strength:g} leaves less than one step "
                "to paint; raise either",
            )
        return self

    def order(self) -> Order:
        """In the engine's words.

        Raises:
            RequestError: the scheduler is unknown, or a picture is neither URL nor base64.
        """
        own = {"image", "mask", "base64", "output_format", "quality", "scheduler", "extend", "metadata"}
        settings = self.model_dump(exclude=own) | {"scheduler": canonical_name(self.scheduler)}
        return Order(
            image=source("image", self.image),
            mask=None if self.mask is None else source("mask", self.mask),
            settings=settings,
            output_format=self.output_format,
            quality=self.quality,
            extend=self.extend if any(self.extend) else None,
            metadata=self.metadata,
        )


def read_fields(fields: Mapping[str, object], *, lenient: bool = False) -> InpaintBody:
    """A body's fields, checked.

    Args:
        fields: as they came.
        lenient: clamp numbers and replace unknown schedulers, as two public clients need it.

    Raises:
        RequestError: names the first field at fault and what would be right.
    """
    try:
        return InpaintBody.model_validate(_clamped(fields) if lenient else fields)
    except ValidationError as error:
        raise _sentence(error) from None


def _check_text(name: str, value: str | None) -> None:
    if value is None:
        return
    if len(value) > MAX_TEXT:
        raise RequestError(name, f"must be at most {MAX_TEXT} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise RequestError(name, "holds characters that are no text (zero bytes or lone surrogates)")


def _clamped(fields: Mapping[str, object]) -> dict[str, object]:
    found = dict(fields)
    for name, limits in LIMITS.items():
        try:
            value = float(str(found[name]))
        except (KeyError, ValueError):
            continue
        if value == value:  # NaN is for the check to refuse
            found[name] = limits.kind(min(max(value, limits.low), limits.high))
    try:
        canonical_name(str(found.get("scheduler", "")))
    except RequestError:
        found.pop("scheduler", None)
    return found


def _sentence(error: ValidationError) -> RequestError:
    """The first of pydantic's complaints, in the words that the engine uses."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "body"
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return RequestError(name, "is required")
    given = _shown(first["input"])
    if name in LIMITS:
        return RequestError(name, f"must be {LIMITS[name]}, not {given}")
    if name in _BOOLEANS:
        return RequestError(name, f"must be true or false, not {given}")
    if name in _CHOICES:
        return RequestError(name, f"must be one of {', '.join(get_args(_CHOICES[name]))}, not {given}")
    if name == "guidance_interval":
        return RequestError(name, f"must be two fractions of the steps, such as [0.2, 0.8], not {given}")
    if name == "extend":
        sides = f"four whole numbers of pixels from 0 to {MAX_SIDE} (left, top, right, bottom)"
        return RequestError(name, f"must be {sides}, not {given}")
    return RequestError(name, "must be text")


def _shown(value: object) -> str:
    """A value for an error's text, however large it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"
