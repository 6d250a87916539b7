"""The checks of a request's fields, and the sentences that say what is wrong with them."""

from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError

from inpaint.errors import RequestError, shown
from inpaint.pace import PACES
from inpaint.prompt_weights import MAX_PROMPT
from inpaint.request import AREAS, FILLS, LENGTHS, MASK_CHANNELS, MAX_SIDE
from inpaint.schedulers import SCHEDULERS, canonical_name
from server.dialects.erase_request import EraseBody
from server.dialects.segmind_request import LIMITS, InpaintBody, RefineBody
from server.service.order import Format

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "area": AREAS,
    "crop": ("box",),
    "fill": FILLS,
    "format": get_args(Format),
    "lengths": LENGTHS,
    "mask_channel": MASK_CHANNELS,
    "output_format": get_args(Format),
    "pace": PACES,
    "scheduler": tuple(SCHEDULERS),
}
_PICTURES = {"image", "mask"}  # in base64 as long as a body may be
_BOOLEANS = ("base64", "color_match", "soft", "invert_mask", "resize_mask", "metadata")


def read_fields(fields: Mapping[str, object], *, lenient: bool = False) -> InpaintBody:
    """Check the fields of a body.

    Args:
        fields: as the client sent them.
        lenient: clamp numbers and replace unknown schedulers, for two public clients that need it.

    Raises:
        RequestError: names the first wrong field and its valid values.
    """
    _check_lengths(fields, InpaintBody)
    try:
        return InpaintBody.model_validate(_clamped(fields) if lenient else fields)
    except ValidationError as error:
        raise _sentence(error) from None


def read_refine_fields(fields: Mapping[str, object]) -> RefineBody:
    """Check the fields of a body that may be empty.

    Raises:
        RequestError: the seed is no whole number.
    """
    given = fields.get("seed")
    if given in ("", b""):
        return RefineBody()
    try:
        return RefineBody.model_validate({"seed": given})
    except ValidationError:
        problem = f"must be one of the seeds that the request was painted with, not {_shown(given)}"
        raise RequestError("seed", problem) from None


def read_erase_fields(fields: Mapping[str, object]) -> EraseBody:
    """Check the fields of a body that asks to erase.

    Raises:
        RequestError: names the first wrong field and its valid values.
    """
    _check_lengths(fields, EraseBody)
    try:
        return EraseBody.model_validate(fields)
    except ValidationError as error:
        raise _sentence(error) from None


def _check_lengths(fields: Mapping[str, object], body: type[BaseModel]) -> None:
    """Refuse long text anywhere but in the pictures, before anything looks at it."""
    for name in body.model_fields.keys() - _PICTURES:
        waiting = [fields.get(name)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str | bytes) and len(value) > MAX_PROMPT:
                raise _wrong(name, fields[name]) or RequestError(
                    name, f"must be at most {MAX_PROMPT} characters"
                )
            if isinstance(value, dict | list):
                waiting += value.values() if isinstance(value, dict) else value


def _clamped(fields: Mapping[str, object]) -> dict[str, object]:
    found = dict(fields)
    for name, limits in LIMITS.items():
        given = found.get(name)
        if not isinstance(given, str | int | float) or isinstance(given, bool):
            continue  # left to the checks, like what follows
        try:
            value = float(given)
        except (ValueError, OverflowError):
            continue
        if value == value:  # NaN is left to the check, which refuses it
            found[name] = limits.kind(min(max(value, limits.low), limits.high))
    scheduler = found.get("scheduler")
    try:
        canonical_name(scheduler if isinstance(scheduler, str) else "")
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
    return _wrong(name, first["input"]) or RequestError(name, "must be text")


def _wrong(name: str, value: object) -> RequestError | None:
    """Return the error of a field whose valid values can be listed; None for one that may hold any text."""
    valid = _valid_values(name)
    return RequestError(name, f"must be {valid}, not {_shown(value)}") if valid else None


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
    return shown(value)
