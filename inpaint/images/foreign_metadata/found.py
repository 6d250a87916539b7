"""The settings that another program wrote into a picture, and those of them that we can take over."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inpaint.errors import shown
from inpaint.images.foreign_metadata.samplers import scheduler_for
from inpaint.request import RANGES

MAX_JSON = 1_000_000  # characters; ComfyUI's largest graphs are smaller
_MAX_DIGITS = 40  # of a number that is text
_LABELS = {"num_inference_steps": "steps", "guidance_scale": "guidance"}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A setting of a picture that could not be taken over as it is; ``problem`` is a sentence about it."""

    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class Found:
    """The settings of another program, as it wrote them: ``values`` by the names of our fields, unchecked."""

    values: Mapping[str, object]
    sampler: object = None
    schedule: object = None
    model: object = None
    tool: str | None = None  # None for the many that write A1111's text


def settings_of(found: Found) -> tuple[dict[str, object], list[LeftOut]]:
    """Return settings within ``RANGES``, and what could not be taken over.

    A number outside its range is moved to the nearer end, but for a seed: that of another picture is no use.
    Values of a wrong type are left out.
    """
    settings: dict[str, object] = {}
    left_out: list[LeftOut] = []
    for name, value in found.values.items():
        if name not in RANGES:
            settings[name] = value
            continue
        number, problem = _number(name, value)
        if number is not None:
            settings[name] = number
        if problem:
            left_out.append(LeftOut(name, problem))
    if isinstance(found.sampler, str) and found.sampler.strip():
        schedule = found.schedule if isinstance(found.schedule, str) else ""
        scheduler, problem = scheduler_for(found.sampler, schedule)
        if scheduler:
            settings["scheduler"] = scheduler
        if problem:
            left_out.append(LeftOut("scheduler", problem))
    return settings, left_out


def label(name: str) -> str:
    """Return a field's name as a sentence about a picture has it."""
    return _LABELS.get(name, name.replace("_", " "))


def as_number(value: object) -> int | float | None:
    """Return a finite number, or the one that a text is; None if it is none."""
    if isinstance(value, str):
        text = value.strip()
        # Whole numbers are not read through a float: a seed of 64 bits would lose its end.
        if re.fullmatch(r"[+-]?[0-9]+", text[: _MAX_DIGITS + 1]):
            return int(text) if len(text) <= _MAX_DIGITS else None
        try:
            value = float(text[: _MAX_DIGITS + 1])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def json_object(text: object) -> dict[str, Any] | None:
    """Parse a JSON object of a stranger; None if it is none, or too large or too deep."""
    if (
        not isinstance(text, str)
        or len(text) > MAX_JSON
        or not text.lstrip(" \t\r\n\ufeff\0").startswith("{")
    ):
        return None
    try:
        value = json.loads(text.strip(" \t\r\n\ufeff\0"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(name: str, value: object) -> tuple[object, str | None]:
    """Return a value for the field ``name``, None if it has none, and what is wrong with the one given."""
    limits, number = RANGES[name], as_number(value)
    if number is None:
        wrong = f"its {label(name)} {shown(value)} is no number" if isinstance(value, str) and value else None
        return None, wrong
    if limits.low <= number <= limits.high and not (limits.above and number == limits.low):
        return limits.kind(number), None
    problem = f"its {label(name)} {shown(number)} is outside {limits.low:.15g} to {limits.high:.15g}"
    if name == "seed" or (limits.above and number <= limits.low):
        return None, problem
    return limits.kind(min(max(number, limits.low), limits.high)), problem
