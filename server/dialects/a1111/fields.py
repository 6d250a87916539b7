"""Fields as A1111's clients send them: numbers as text, switches as numbers, null for absent ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inpaint.errors import RequestError, shown
from inpaint.images.foreign_metadata.found import as_number
from inpaint.request import Range

_ON, _OFF = ("true", "1", "1.0", "yes", "on"), ("false", "0", "0.0", "no", "off", "none", "")


@dataclass(frozen=True, slots=True)
class Reading:
    """The fields of a body, read one at a time; null and empty text count as absent."""

    fields: Mapping[str, object]

    def get(self, name: str) -> object:
        """Return a field as it was sent; None if it is absent."""
        value = self.fields.get(name)
        return None if value == "" else value

    def whole(self, name: str, default: int, limits: Range) -> int:
        """Return a whole number; ``20.0`` and ``"20"`` are ones.

        Raises:
            RequestError: it is none, or out of its limits.
        """
        value = self._number(name, default, limits)
        if not float(value).is_integer():
            raise RequestError(name, f"must be {limits}, not {shown(value)}")
        return int(value)

    def number(self, name: str, default: float, limits: Range) -> float:
        """Return a number, or one that is sent as text.

        Raises:
            RequestError: it is none, or out of its limits.
        """
        return float(self._number(name, default, limits))

    def _number(self, name: str, default: float, limits: Range) -> int | float:
        value = self.get(name)
        if value is None:
            return default
        found = as_number(int(value) if isinstance(value, bool) else value)
        if found is None or not limits.low <= found <= limits.high:
            raise RequestError(name, f"must be {limits}, not {shown(value)}")
        return found

    def text(self, name: str, default: str = "") -> str:
        """Return a text.

        Raises:
            RequestError: it is none.
        """
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise RequestError(name, f"must be text, not {type(value).__name__}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a switch: true, 1 or ``"True"``.

        Raises:
            RequestError: it is none of these, nor their opposites.
        """
        value = self.get(name)
        if value is None:
            return default
        if (found := is_on(value)) is None:
            raise RequestError(name, f"must be true or false, not {shown(value)}")
        return found

    def table(self, name: str) -> Mapping[str, Any]:
        """Return an object; an empty list counts as an empty one.

        Raises:
            RequestError: it is none.
        """
        value = self.get(name) or {}
        if not isinstance(value, dict):
            raise RequestError(name, "must be an object")
        return value


def is_on(value: object) -> bool | None:
    """Return what a switch says, however it is written; None if it is no switch."""
    text = str(value).strip().casefold() if isinstance(value, bool | int | float | str) else None
    return True if text in _ON else False if text in _OFF else None
