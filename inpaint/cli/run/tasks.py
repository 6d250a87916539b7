"""The pictures to paint, one task each, from the command line or from a jobs file.

Only the jobs file is read here; each picture is checked later, when its turn comes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inpaint.cli.run.inputs import STDIN, Found, refuse_url
from inpaint.cli.run.masks import MaskChoice
from inpaint.cli.run.outputs import Output
from inpaint.cli.run.selecting import Selecting
from inpaint.errors import RequestError
from inpaint.request import SETTINGS

Margin = int | float  # whole pixels, or a part of the picture's side
Margins = tuple[Margin, Margin, Margin, Margin]  # left, top, right, bottom
_MOST_PERCENT = 800
_KEYS = ("image", "mask", "output", "extend", *SETTINGS)


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """The settings of a task: the options, overridden by a line of a jobs file."""

    request: Mapping[str, Any]
    mask: MaskChoice
    extend: Margins
    output: Output
    select: Selecting | None = None  # makes the mask of the picture itself


@dataclass(frozen=True, slots=True)
class Task:
    """One picture to paint; ``label`` names it in messages."""

    label: str
    picture: Found
    settings: TaskSettings
    from_jobs: bool = False  # it is a line of a jobs file, whose keys are the fields' names

    def reads(self) -> list[Path]:
        """Return the files that are known to be inputs before any is opened."""
        named = self.settings.mask.path
        return [self.picture.path, *([named] if named else [])]


@dataclass(frozen=True, slots=True)
class Refused:
    """A line of a jobs file that is wrong."""

    label: str
    image: str
    error: RequestError
    from_jobs: bool = True


def tasks_of(pictures: Sequence[Found], task_settings: TaskSettings) -> list[Task | Refused]:
    """Return one task for each picture, all with the same settings."""
    return [Task(str(picture.path), picture, task_settings) for picture in pictures]


def tasks_in(path: Path, task_settings: TaskSettings) -> list[Task | Refused]:
    """Return one task per line of a jobs file (``-`` is stdin), whose keys override ``task_settings``.

    Raises:
        RequestError: the file cannot be read, or is empty.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except OSError as error:
        raise RequestError("jobs", f"{path} cannot be read: {error.strerror}") from error
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    tasks = [
        _task(f"{path} line {n}", line, task_settings) for n, line in enumerate(lines, 1) if line.strip()
    ]
    if not tasks:
        raise RequestError("jobs", f"{path} is empty; write one JSON object per line, with image and prompt")
    return tasks


def _task(label: str, line: bytes, task_settings: TaskSettings) -> Task | Refused:
    given: dict[str, Any] = {}
    try:
        given = _parse(line)
        picture = Found(Path(_text("image", given.get("image"))))
        return Task(f"{label} ({picture.path})", picture, _with(task_settings, given), from_jobs=True)
    except RequestError as error:
        image = given.get("image")
        return Refused(label, image if isinstance(image, str) else "", error)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        raise RequestError("jobs", "the line is not JSON; write one object in UTF-8") from None
    if not isinstance(given, dict):
        raise RequestError("jobs", "the line must be one JSON object")
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        raise RequestError("jobs", f"there is no key {unknown[0]!r}; the keys are {', '.join(_KEYS)}")
    return given


def _with(task_settings: TaskSettings, given: Mapping[str, Any]) -> TaskSettings:
    settings = {name: given[name] for name in SETTINGS if name in given}
    if isinstance(settings.get("guidance_interval"), list):
        settings["guidance_interval"] = tuple(settings["guidance_interval"])
    changed = replace(task_settings, request={**task_settings.request, **settings})
    if changed.request["prompt"] is None:
        raise RequestError("prompt", "is missing; add it to the line, or give one for all lines with -p TEXT")
    if "mask" in given:
        changed = replace(changed, mask=MaskChoice(_text("mask", given["mask"])))
    if "output" in given:
        changed = replace(changed, output=Output(_text("output", given["output"]), several=False))
    if "extend" in given:
        changed = replace(changed, extend=margins(given["extend"]))
    return changed


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise RequestError(key, f"must be the path of a file, not {value!r}" if value else "is missing")
    refuse_url(key, value)
    return value


def margins(given: object) -> Margins:
    """Return ``L,T,R,B``, or a list of four, as four margins; one alone is for all sides.

    Raises:
        RequestError: neither one nor four, or one of them is no whole number and no percentage.
    """
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    found = [_margin(str(part).strip()) for part in parts]
    if len(found) == 1:
        found *= 4
    if len(found) != 4 or None in found:
        raise RequestError(
            "extend",
            "must be pixels or percentages, L,T,R,B such as 0,0,256,0 or 0,0,50%,0, or one for all sides "
            f"such as 256, not {given!r}",
        )
    left, top, right, bottom = (each for each in found if each is not None)
    return left, top, right, bottom


def _margin(text: str) -> Margin | None:
    number = text.removesuffix("%")
    if not number.isdecimal() or len(number) > 9:
        return None
    if number == text:
        return int(number)
    return int(number) / 100 if 0 < int(number) <= _MOST_PERCENT else 0 if not int(number) else None


def pixels(margins: Margins, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return margins in pixels of a picture of ``size``: left and right are parts of its width."""
    left, top, right, bottom = (
        round(margin * size[side % 2]) if isinstance(margin, float) else margin
        for side, margin in enumerate(margins)
    )
    return left, top, right, bottom
