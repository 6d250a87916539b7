"""The fields of a body, JSON or form, as typed values: all that a form holds is text."""

import re
from collections.abc import Mapping, Sequence

from inpaint.errors import RequestError, shown
from inpaint.request import RANGES, SETTINGS, Range, check_settings, check_size

# Settings of ours that a request may have; OpenAI's clients pass them on from ``extra_body``. How a mask is
# read is not among them: that is this dialect's own.
OWN = tuple(
    name
    for name in SETTINGS
    if name not in ("prompt", "samples", "mask_channel", "invert_mask", "resize_mask")
)
_BOOLEANS = ("color_match", "soft")
_TEXTS = {"true": True, "1": True, "false": False, "0": False}
_MAY_BE_EMPTY = ("prompt", "negative_prompt")
_SIZE = re.compile(r"\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*")


class Body:
    """The fields of a request; null, empty text and an empty file are absent."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return self.given(name) is not None

    def given(self, name: str) -> object:
        """Return a field as it was sent, also one that a form repeats as ``name[]``; None if it is absent."""
        value = self._fields.get(name)
        if value is None:
            value = self._fields.get(f"{name}[]")
        return None if value in ("", b"") and name not in _MAY_BE_EMPTY else value

    def prompt(self) -> str:
        """Return the prompt.

        Raises:
            RequestError: there is none, or it is no text.
        """
        value = self.given("prompt")
        if value is None:
            raise RequestError("prompt", "is required")
        check_settings({"prompt": value})
        return str(value)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """Return one of ``choices``.

        Raises:
            RequestError: it is another value.
        """
        value = self.given(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise RequestError(name, f"must be one of {', '.join(choices)}, not {shown(value)}")
        return value

    def whole(self, name: str, limits: Range, default: int) -> int:
        """Return a whole number within ``limits``.

        Raises:
            RequestError: it is none.
        """
        value = self.given(name)
        if value is None:
            return default
        value = _number(value)
        limits.check(name, value)
        assert isinstance(value, int)
        return value

    def flag(self, name: str) -> bool:
        """Return whether a field is true; it is not if it is absent.

        Raises:
            RequestError: it is neither true nor false.
        """
        value = _boolean(self.given(name))
        if value is None or isinstance(value, bool):
            return bool(value)
        raise RequestError(name, f"must be true or false, not {shown(value)}")

    def size(self) -> tuple[int, int] | None:
        """Return the (width, height) of ``size``; None if it is absent or ``auto``.

        Raises:
            RequestError: it is no size, or one that is not painted.
        """
        value = self.given("size")
        if value is None or value == "auto":
            return None
        found = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            problem = f"must be auto or width × height in pixels, such as 1024x1024, not {shown(value)}"
            raise RequestError("size", problem)
        size = int(found[1]), int(found[2])
        check_size("size", size)
        return size

    def own_settings(self) -> dict[str, object]:
        """Return the settings of ours that were sent.

        Raises:
            RequestError: one has a wrong value.
        """
        settings = {name: _typed(name, self.given(name)) for name in OWN if name in self}
        if not isinstance(settings.get("scheduler", ""), str):
            raise RequestError("scheduler", f"must be a sampler's name, not {shown(settings['scheduler'])}")
        check_settings(settings)
        return settings


def _typed(name: str, value: object) -> object:
    """Return a setting's value as it would be in JSON; one that cannot be read is left to the checks."""
    if name in RANGES:
        return _number(value)
    if name in _BOOLEANS:
        return _boolean(value)
    if name == "guidance_interval":
        parts = value.strip("[] ").split(",", 2) if isinstance(value, str) else value
        return [_number(part) for part in parts] if isinstance(parts, list) else value
    return value


def _number(value: object) -> object:
    """Return the number that text stands for; a float without a fraction is a whole number."""
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:  # also for more digits than Python converts
            try:
                value = float(value)
            except ValueError:
                return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _boolean(value: object) -> object:
    return _TEXTS.get(value.strip().lower(), value) if isinstance(value, str) else value
