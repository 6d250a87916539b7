"""The forms of the routes: their fields, the checks of these, and the orders that they stand for."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inpaint.errors import RequestError, shown
from inpaint.prompt_weights import MAX_PROMPT
from inpaint.request import MAX_SIDE, RANGES, Range, check_settings
from server.dialects.stability.masks import erased, masked, wide_enough
from server.service.order import Adapt, Format, Order, source

_PICTURE = "a picture's file"
_TEXTS = ("prompt", "negative_prompt")
_ADDED = ("left", "up", "right", "down")
_RANGES: Mapping[str, Range] = {
    "seed": RANGES["seed"],
    "grow_mask": RANGES["grow"],
    **dict.fromkeys(_ADDED, Range(int, 0, MAX_SIDE)),
}


def _number(name: str, description: str) -> Any:
    limits = _RANGES[name]
    return Field(ge=limits.low, le=limits.high, description=description)


GrowMask = Annotated[
    int,
    _number(
        "grow_mask", "Widen the mask by this many pixels of the picture, and soften its edge by as many."
    ),
]
Added = Annotated[int, _number("left", "Pixels to add on this side.")]
Mask = Annotated[
    str | bytes | None,
    Field(
        description=f"White is repainted, black is kept, grey changes in part: {_PICTURE}. Without it, what "
        "is transparent in the picture is repainted; `inpaint` repaints all of an opaque one."
    ),
]


class Form(BaseModel):
    """The fields that every route has. Unknown ones are ignored, `style_preset` and `creativity` as well."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: Annotated[str | bytes, Field(description=f"{_PICTURE.capitalize()}, 64 pixels a side or more.")]
    negative_prompt: Annotated[str | None, Field(description="What not to paint.")] = None
    seed: Annotated[
        int, _number("seed", "The same seed gives the same picture; 0 draws one, which the answer reports.")
    ] = 0
    output_format: Annotated[Format, Field(description="File format of the painted picture.")] = "png"

    @model_validator(mode="before")
    @classmethod
    def _as_clients_send_it(cls, fields: Any) -> Any:
        """Take null, and empty text where no text is meant, for an absent field."""
        if not isinstance(fields, Mapping):
            return fields
        return {n: v for n, v in fields.items() if v is not None and (n in _TEXTS or v not in ("", b""))}

    @model_validator(mode="after")
    def _has_prompts(self) -> Self:
        check_settings({name: getattr(self, name) for name in _TEXTS if hasattr(self, name)})
        return self

    @abstractmethod
    def order(self) -> Order:
        """Return the request in the engine's terms.

        Raises:
            RequestError: a picture is neither a file nor anything else that can be read.
        """

    def _settings(self, **own: object) -> dict[str, object]:
        return {"negative_prompt": self.negative_prompt, "seed": self.seed or -1, **own}


class MaskedForm(Form):
    """The fields of the routes that take a mask."""

    mask: Mask = None
    grow_mask: GrowMask = 5

    def _masked(self, adapt: Adapt, **own: object) -> Order:
        lengths = {"grow": self.grow_mask, "feather": self.grow_mask, "lengths": "picture"}
        return Order(
            image=source("image", self.image),
            mask=None if self.mask is None else source("mask", self.mask),
            settings=self._settings(**lengths, **own),
            output_format=self.output_format,
            adapt=adapt,
        )


class InpaintForm(MaskedForm):
    """The fields of `inpaint`."""

    prompt: Annotated[str, Field(description="What to paint there; `(word:1.3)` gives a word more weight.")]

    def order(self) -> Order:
        """Return the request in the engine's terms."""
        return self._masked(masked, prompt=self.prompt)


class EraseForm(MaskedForm):
    """The fields of `erase`; a prompt that is sent is not read."""

    def order(self) -> Order:
        """Return the request in the engine's terms: the surroundings are continued, then painted over."""
        return self._masked(erased, prompt="", fill="telea", strength=0.99)


class OutpaintForm(Form):
    """The fields of `outpaint`."""

    prompt: Annotated[str, Field(description="What to paint there.")] = ""
    left: Added = 0
    right: Added = 0
    up: Added = 0
    down: Added = 0

    def order(self) -> Order:
        """Return the request in the engine's terms.

        Raises:
            RequestError: nothing is added on any side, or the picture is neither a file nor anything else
                that can be read.
        """
        added = (self.left, self.up, self.right, self.down)
        if not any(added):
            raise RequestError("left", "left, right, up and down are all 0; set one to the pixels to add")
        return Order(
            image=source("image", self.image),
            mask=None,
            settings=self._settings(prompt=self.prompt),
            output_format=self.output_format,
            extend=added,
            adapt=wide_enough(added),
        )


AnyForm = TypeVar("AnyForm", bound=Form)


def read_form(form: type[AnyForm], fields: Mapping[str, object]) -> AnyForm:
    """Check the fields of a body.

    Raises:
        RequestError: names the first wrong field and its valid values.
    """
    try:
        return form.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "missing":
            raise RequestError(name, "is required") from None
        raise RequestError(name, f"must be {_valid(name)}, not {_shown(first['input'])}") from None


def _valid(name: str) -> str:
    if name in _RANGES:
        return str(_RANGES[name])
    if name == "output_format":
        return f"one of {', '.join(get_args(Format))}"
    return f"text of at most {MAX_PROMPT} characters" if name in _TEXTS else _PICTURE


def _shown(value: object) -> str:
    """Return a value, shortened for an error's text."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return shown(value)
