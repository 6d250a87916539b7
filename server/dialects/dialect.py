"""A dialect beyond the hosted API: its routes, and the shape of the errors below its paths."""

from dataclasses import dataclass

from fastapi import APIRouter

from server.dialects.errors import Shape


@dataclass(frozen=True, slots=True)
class Dialect:
    """An API that other programs' clients speak."""

    router: APIRouter
    prefixes: tuple[str, ...]  # of its paths, without a slash at the end
    shape: Shape
