"""A small dialect of the tests' own, which uses all that dialects share: intake, adapting, shapes."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from inpaint.errors import OutOfMemoryError
from server.dialects.errors import Failure
from server.dialects.intake import Intake
from server.dialects.pictures import GENERATION, resized, with_a_mask
from server.dialects.table import Dialect
from server.http.body import Fields
from server.service.order import Blank, Given, Order, source

PATH, INNER = "/plain", "/plain/inner"


def shape(failure: Failure) -> JSONResponse:
    """Return an error with everything that a dialect is told."""
    said = {
        "said": failure.text,
        "status": failure.status,
        "field": failure.field,
        "kind": type(failure.error).__name__,
        "id": failure.request_id,
    }
    return JSONResponse(said, failure.status, failure.headers)


def inner_shape(failure: Failure) -> JSONResponse:
    """Return an error of the paths below ``INNER``."""
    return JSONResponse([failure.text], failure.status, failure.headers)


def order_of(fields: Fields) -> Order:
    """Return an order of what was sent: pictures or none, in ``width`` × ``height``, or to ``resize``."""
    settings: dict[str, Any] = {"prompt": "x", "seed": 7, "samples": fields.get("samples", 1)}
    size = (int(str(fields.get("width", 0))), int(str(fields.get("height", 0))))
    if "image" not in fields:
        return Order(Blank(*size), None, settings | GENERATION, output_format="png")
    mask = source("mask", fields["mask"]) if "mask" in fields else None

    def adapt(given: Given) -> Given:
        grey = None if given.mask is None else given.mask.convert("L")
        given = with_a_mask(Given(given.image, grey, given.settings))
        return resized(given, size, fields["resize"]) if "resize" in fields else given  # type: ignore[arg-type]

    return Order(
        source("image", fields["image"]),
        mask,
        settings,
        output_format="png",
        adapt=adapt,
        size=size if all(size) else None,
        metadata=fields.get("metadata") is True,
    )


@dataclass(frozen=True, slots=True)
class Plain:
    """The handlers of the dialect."""

    intake: Intake

    async def paint(self, request: Request) -> Response:
        async with self.intake.arrival(request) as arrival:
            painted = await self.intake.paint(request, arrival.caller, order_of(arrival.fields))
            return Response(
                painted.files[0], media_type=painted.content_type, headers={"size": str(painted.size)}
            )

    async def store(self, request: Request) -> dict[str, Any]:
        async with self.intake.arrival(request) as arrival:
            record = await self.intake.store(request, arrival.caller, order_of(arrival.fields))
            return {"id": record.id, "urls": self.intake.picture_urls(request, record)}

    async def stop(self, request: Request) -> dict[str, Any]:
        async with self.intake.arrival(request, optional=True) as arrival:
            return {"fields": sorted(arrival.fields)}

    async def number(self, number: int, count: int = 1) -> int:
        return number * count

    async def full(self) -> None:
        raise OutOfMemoryError("too large for this GPU")

    async def bug(self) -> None:
        raise RuntimeError("a bug")


def plain(intake: Intake) -> Dialect:
    """Return the dialect, for ``server.app.DIALECTS``."""
    handlers, router = Plain(intake), APIRouter(prefix=PATH)
    for name in ("paint", "store", "stop"):
        router.add_api_route(f"/{name}", getattr(handlers, name), methods=["POST"], response_model=None)
    for path, handler in (
        ("/bug", handlers.bug),
        ("/full", handlers.full),
        ("/number/{number}", handlers.number),
    ):
        router.add_api_route(path, handler, methods=["GET"], response_model=None)
    return Dialect(router, (PATH,), shape)


def inner(intake: Intake) -> Dialect:
    """Return a dialect without routes whose paths begin as those of the other."""
    return Dialect(APIRouter(), (INNER,), inner_shape)
