"""The generation parameters of one picture, and the checks on those that a file holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from inpaint.errors import InpaintError, RequestError
from inpaint.images.foreign_metadata.found import Found, LeftOut, label, settings_of
from inpaint.lora.spec import without_tags
from inpaint.prompt_weights import NOT_TEXT
from inpaint.request import DEFAULTS, SETTINGS, InpaintRequest, check_settings

SOFTWARE = "sdxl-inpaint"
_MAX_WARNINGS, _MAX_NAME = 20, 500
_MAX_BOXES = 1000  # more than any version has painted
_COUPLED = ("strength", "num_inference_steps")  # too few steps for the strength would be refused


@dataclass(frozen=True, slots=True)
class Made:
    """The generation parameters of one picture.

    ``settings`` are fields of ``InpaintRequest`` and make a valid one: all but the pictures and ``samples``,
    with the seed of this one sample, so that they paint it again. ``box`` is (left, top, right, bottom) in
    pixels; ``boxes`` is the number of boxes in it that were painted for themselves. Read from another
    program's metadata, ``settings`` are those that it holds, ``box``, ``settings_hash`` and ``version`` are
    None, and ``tool`` is the program, if that is known. ``left_out`` says which settings of the file could
    not be taken over as they are.
    """

    settings: Mapping[str, Any]
    model: str | None = None
    box: tuple[int, int, int, int] | None = None
    settings_hash: str | None = None
    warnings: tuple[str, ...] = ()
    version: str | None = None
    boxes: int = 1
    tool: str | None = None
    left_out: tuple[LeftOut, ...] = ()


def from_own(value: Mapping[str, Any]) -> Made:
    """Return what a picture of this package says, checked as a request is: the file may be a stranger's."""
    settings, warnings = value.get("settings"), value.get("warnings")
    good, left_out = _valid(settings if isinstance(settings, dict) else {})
    return Made(
        settings=good,
        model=_name(value.get("model")),
        box=_box(value.get("box")),
        settings_hash=_digest(value.get("settings_hash")),
        warnings=_texts(warnings if isinstance(warnings, list) else []),
        version=_name(value.get("version")),
        boxes=_count(value.get("boxes")),
        left_out=tuple(left_out),
    )


def from_found(found: Found) -> Made:
    """Return what another program says about a picture, in our settings."""
    settings, left_out = settings_of(found)
    good, invalid = _valid(settings)
    return Made(good, _name(found.model), tool=found.tool, left_out=(*left_out, *invalid))


def clean(value: Any) -> Any:
    """Return a text without the characters that files and JSON over HTTP cannot hold."""
    return NOT_TEXT.sub("�", value) if isinstance(value, str) else value


def _valid(settings: Mapping[str, object]) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return the settings that a request takes, in its own types, and what is wrong with the others."""
    given = {name: clean(settings[name]) for name in SETTINGS if name in settings and name != "samples"}
    left_out: list[LeftOut] = []
    prompt = given.get("prompt")
    if isinstance(prompt, str) and (why := _problem({"prompt": prompt})):
        plain = without_tags(prompt)  # of another program, whose tags can say more than ours
        if plain != prompt and not _problem({"prompt": plain}):
            given["prompt"] = plain
            left_out.append(LeftOut("loras", f"its LoRAs are left out: {why}"))
    problems = {name: _problem({name: value}) for name, value in given.items()}
    left_out += [LeftOut(name, f"its {label(name)} {why}") for name, why in problems.items() if why]
    good = {name: value for name, value in given.items() if not problems[name]}
    if why := _problem({name: good.get(name, DEFAULTS[name]) for name in _COUPLED}):
        left_out += [LeftOut(name, f"its {label(name)}: {why}") for name in _COUPLED if name in good]
        good = {name: value for name, value in good.items() if name not in _COUPLED}
    blank = Image.new("L", (16, 16))
    try:
        request = InpaintRequest(image=blank, mask=blank, **{"prompt": "", **good})
    except (InpaintError, TypeError, ValueError):
        return {}, left_out
    names = {*good, "loras"} if request.loras else good  # the prompt may have named LoRAs
    return {name: getattr(request, name) for name in names}, left_out


def _problem(settings: Mapping[str, object]) -> str | None:
    try:
        check_settings(settings)
    except RequestError as error:
        return error.problem
    except (OverflowError, TypeError, ValueError):
        return "is of a wrong type"
    return None


def _name(value: object) -> str | None:
    return clean(value)[:_MAX_NAME] if isinstance(value, str) and value else None


def _box(value: object) -> tuple[int, int, int, int] | None:
    if not (isinstance(value, list) and len(value) == 4 and all(type(side) is int for side in value)):
        return None
    left, top, right, bottom = value
    return (left, top, right, bottom) if 0 <= left < right <= 8192 and 0 <= top < bottom <= 8192 else None


def _count(value: object) -> int:
    return value if type(value) is int and 1 <= value <= _MAX_BOXES else 1


def _digest(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else None


def _texts(values: list[object]) -> tuple[str, ...]:
    return tuple(clean(v)[:_MAX_NAME] for v in values[:_MAX_WARNINGS] if isinstance(v, str))
