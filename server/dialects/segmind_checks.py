"""The checks of a request's fields, and the sentences that say what is wrong with them."""

from collections.abc import Mapping
from typing import get_args

from pydantic import ValidationError

from inpaint.errors import RequestError
from inpaint.request import AREAS, FILLS, MAX_SIDE
from inpaint.schedulers import SCHEDULERS, canonical_name
from server.dialects.segmind_request import LIMITS, InpaintBody
from server.service.order import Format

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "area": AREAS,
    "fill": FILLS,
    "output_format": get_args(Format),
    "scheduler": tuple(SCHEDULERS),
}
_BOOLEANS = ("base64", "color_match", "soft", "metadata")


def read_fields(fields: Mapping[str, object], *, lenient: bool = False) -> InpaintBody:
    """Check the fields of a body.

    Args:
        fields: as the client sent them.
        lenient: clamp numbers and replace unknown schedulers, for two public clients that need it.

    Raises:
        RequestError: names the first wrong field and its valid values.
    """
    try:
        return InpaintBody.model_validate(_clamped(fields) if lenient else fields)
    except ValidationError as error:
        raise _sentence(error) from None


def _clamped(fields: Mapping[str, object]) -> dict[str, object]:
    found = dict(fields)
    for name, limits in LIMITS.items():
        try:
            value = float(str(found[name]))
        except (KeyError, ValueError):
            continue
        if value == value:  # NaN is left to the check, which refuses it
            found[name] = limits.kind(min(max(value, limits.low), limits.high))
    try:
        canonical_name(str(found.get("scheduler", "")))
    except RequestError:
        found.pop("scheduler", None)
    return found


def _sentence(error: ValidationError) -> RequestError:
    """Return the first of pydantic's errors in the engine's wording."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "body"
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return RequestError(name, "is required")
    if name in ("image", "mask"):
        return RequestError(name, "must be an http(s) URL, a data: URI or base64 of a picture")
    if valid := _valid_values(name):
        return RequestError(name, f"must be {valid}, not {_shown(first['input'])}")
    return RequestError(name, "must be text")


def _valid_values(name: str) -> str:
    """Return the valid values of a field, or "" if it may hold any text."""
    if name in LIMITS:
        return str(LIMITS[name])
    if name in _BOOLEANS:
        return "true or false"
    if name in _CHOICES:
        return f"one of {', '.join(_CHOICES[name])}"
    if name == "guidance_interval":
        return "two fractions of the steps, such as [0.2, 0.8]"
    if name == "extend":
        return f"four whole numbers of pixels from 0 to {MAX_SIDE} (left, top, right, bottom)"
    return ""


def _shown(value: object) -> str:
    """Return a value, shortened for an error's text."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"
