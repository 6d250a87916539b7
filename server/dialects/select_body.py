"""The body of ``POST /v2/select`` as a pydantic model, and the sentences that say what is wrong with it."""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from inpaint.errors import RequestError, shown
from inpaint.request import MAX_SIDE
from inpaint.selection.hints import MAX_POINTS, VARIANTS, WHATS, Hints, Variant, What, point_of
from server.dialects.segmind_request import Picture
from server.service.order import Source, own, source
from server.service.selecting import Method, Question

_MAX_TEXT = 4096  # characters of a list in a form
_PICTURES = ("image", "scribble")
_DIGEST = "^[0-9a-f]{64}$"
_VALID: Mapping[str, str] = {
    "image": "must be an http(s) URL, a data: URI or base64 of a picture",
    "scribble": "must be an http(s) URL, a data: URI or base64 of a picture",
    "picture": "must be the `picture` of an earlier answer",
    "method": f"must be one of {', '.join(get_args(Method))}",
    "points": f"must be a list of at most {MAX_POINTS} points, [x, y, 1] inside or [x, y, 0] outside",
    "box": "must be four whole numbers of pixels: left, top, right, bottom",
    "what": f"must be one of {', '.join(WHATS)}",
    "variant": f"must be one of {', '.join(VARIANTS)}",
    "prepare": "must be true or false",
}


def _listed(value: object) -> object:
    """Turn the JSON text of a form's list into the list."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return value
    try:
        return json.loads(value if value.lstrip().startswith("[") else f"[{value}]")
    except (ValueError, RecursionError):
        return value


Number = Annotated[float, Field(ge=-(10**6), le=10**6, allow_inf_nan=False)]
Pixel = Annotated[int, Field(ge=0, le=MAX_SIDE)]


class SelectBody(BaseModel):
    """A picture, and hints at the object that is meant in it.

    Exactly one of `image` and `picture` is needed. Lists in a form are written as in JSON.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: Picture | None = None
    picture: Annotated[
        str | None,
        Field(
            pattern=_DIGEST,
            description="The `picture` of an earlier answer, so that a click need not send the image again; "
            "404 if it is no longer held.",
        ),
    ] = None
    method: Annotated[
        Method, Field(description="`snap` (GrabCut) or `sam` (SAM 2.1); `auto` is `sam` if it is installed.")
    ] = "auto"
    points: Annotated[
        list[Annotated[list[Number], Field(min_length=2, max_length=3)]],
        BeforeValidator(_listed),
        Field(max_length=MAX_POINTS, description="Pixels: [x, y, 1] inside the object, [x, y, 0] outside."),
    ] = []
    box: Annotated[
        tuple[Pixel, Pixel, Pixel, Pixel] | None,
        BeforeValidator(_listed),
        Field(description="A box around the object: left, top, right, bottom."),
    ] = None
    scribble: Annotated[
        str | bytes | None,
        Field(description="A picture of the same size, white roughly on the object or around it."),
    ] = None
    what: Annotated[
        What,
        Field(description="`subject` is the main thing, `background` all the rest; they need no hint."),
    ] = "object"
    variant: Annotated[Variant, Field(description="A smaller or larger selection than the best.")] = "best"
    prepare: Annotated[bool, Field(description="Only get ready for the first click.")] = False

    def question(self, base_url: str) -> Question:
        """Return the question; pictures of ours, below ``base_url``, are recognised by their URL.

        Raises:
            RequestError: fields do not fit together, or a picture is neither URL nor base64.
        """
        if (self.image is None) == (self.picture is None):
            problem = "is required, or `picture` of an earlier answer" if self.image is None else _BOTH
            raise RequestError("image", problem)
        hints = Hints(
            points=tuple(point_of(values) for values in self.points),
            box=self.box,
            what=self.what,
            variant=self.variant,
        )
        return Question(
            image=_source("image", self.image, base_url),
            picture=self.picture,
            hints=hints,
            scribble=_source("scribble", self.scribble, base_url),
            method=self.method,
            prepare=self.prepare,
        )


_BOTH = "give either the image or the `picture` of an earlier answer, not both"


def read_select_fields(fields: Mapping[str, object]) -> SelectBody:
    """Check the fields of a body.

    Raises:
        RequestError: names the first wrong field and its valid values.
    """
    known = {
        name: fields[name] for name in SelectBody.model_fields if fields.get(name) not in (None, "", b"")
    }
    for name, value in known.items():
        if name not in _PICTURES and isinstance(value, str | bytes) and len(value) > _MAX_TEXT:
            raise RequestError(name, f"{_VALID[name]}, not {shown(value)}")
    try:
        return SelectBody.model_validate(known)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0])
        given: Any = known[name]
        said = "" if name in _PICTURES else f", not {_said(given)}"
        raise RequestError(name, f"{_VALID[name]}{said}") from None


def _said(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "such a number"
    return "this list" if isinstance(value, list | dict) else shown(value)


def _source(name: str, value: object, base_url: str) -> Source | None:
    return None if value is None else own(source(name, value), base_url)
