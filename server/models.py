"""The models of one server: their names for clients, what each is loaded from, and its workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Self

from inpaint.errors import RequestError, shown

_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Models:
    """The models that are served; the first paints what names none."""

    given: Mapping[str, str]  # name → a name or a path, as the operator gave it

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read models with commas between them; the comma in the path of one that exists is its own.

        Raises:
            ValueError: a name is empty, or two models would have the same.
        """
        parts = [part.strip() for part in text.split(",")] if "," in text and not _exists(text) else [text]
        given: dict[str, str] = {}
        for part in parts:
            if not part:
                raise ValueError(f"must be models with one comma between two, not {shown(text)}")
            name = name_of(part)
            if name in given:
                raise ValueError(f"names two models that clients would both know as {name!r}; rename one")
            given[name] = part
        return cls(given)

    @property
    def names(self) -> Sequence[str]:
        """The names by which clients choose."""
        return list(self.given)

    @property
    def default(self) -> str:
        """The name of the first."""
        return next(iter(self.given))

    @property
    def several(self) -> bool:
        """True if there is a choice."""
        return len(self.given) > 1

    def named(self, wanted: str | None) -> str:
        """Return the name of the model that a request wants; the first if it wants none.

        Raises:
            RequestError: there is no such model.
        """
        if not wanted:
            return self.default
        if wanted not in self.given:
            raise RequestError("model", f"must be one of {', '.join(self.given)}, not {shown(wanted)}")
        return wanted

    def workers(self, count: int) -> Mapping[str, Sequence[int]]:
        """Return the numbers of each model's workers, dealt in turn: at least one each, ``count`` in all."""
        numbers = range(max(count, len(self.given)))
        return {name: numbers[place :: len(self.given)] for place, name in enumerate(self.given)}


def name_of(given: str) -> str:
    """Return the name of a model for clients: of its path, which is the operator's, only the last part."""
    return PurePath(given).name.removesuffix(_SUFFIX) or "model"


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, the home of nobody, or no path at all
        return False
