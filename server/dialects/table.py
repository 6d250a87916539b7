"""The dialects next to the hosted API: each with its routes, and the shape of the errors below its paths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from server.dialects.errors import Shape
from server.dialects.intake import Intake


@dataclass(frozen=True, slots=True)
class Dialect:
    """An API that other programs' clients speak."""

    router: APIRouter
    prefixes: tuple[str, ...]  # of its paths, without a slash at the end
    shape: Shape


# In the order of the documentation.
DIALECTS: Sequence[Callable[[Intake], Dialect]] = ()
