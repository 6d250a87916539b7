"""The routes ``/v2beta/stable-image/edit/…``: read a form, paint, answer with a picture."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from server.dialects.dialect import Dialect
from server.dialects.intake import Intake
from server.dialects.stability.answers import answer_of, responses, shape, wants_json
from server.dialects.stability.forms import EraseForm, Form, InpaintForm, OutpaintForm, read_form

PREFIX = "/v2beta"
EDIT = f"{PREFIX}/stable-image/edit"


@dataclass(frozen=True, slots=True)
class Stability:
    """The handlers of the routes."""

    intake: Intake

    async def inpaint(self, request: Request) -> Response:
        """Paint what the prompt says where the mask is white."""
        return await self._edit(request, InpaintForm)

    async def erase(self, request: Request) -> Response:
        """Remove what the mask covers, and continue the surroundings."""
        return await self._edit(request, EraseForm)

    async def outpaint(self, request: Request) -> Response:
        """Add pixels on the sides of a picture, and paint them."""
        return await self._edit(request, OutpaintForm)

    async def _edit(self, request: Request, form: type[Form]) -> Response:
        async with self.intake.arrival(request) as arrival:
            order = read_form(form, arrival.fields).order()
            painted = await self.intake.paint(request, arrival.caller, order)
            threads = self.intake.service.parts.threads
            return await threads.pixels(answer_of, painted, wants_json(request))


def stability(intake: Intake) -> Dialect:
    """Return the dialect with its routes."""
    router, handlers = APIRouter(tags=["stability"]), Stability(intake)
    for name, handler, form, summary in (
        ("inpaint", handlers.inpaint, InpaintForm, "Paint where a mask is white"),
        ("erase", handlers.erase, EraseForm, "Remove what a mask covers"),
        ("outpaint", handlers.outpaint, OutpaintForm, "Add pixels on the sides, and paint them"),
    ):
        router.add_api_route(
            f"{EDIT}/{name}",
            handler,
            methods=["POST"],
            summary=summary,
            response_class=Response,
            responses=responses(),
            openapi_extra=_taking(form),
        )
    return Dialect(router, (PREFIX,), shape)


def _taking(form: type[Form]) -> dict[str, Any]:
    """Describe a route that reads a form itself."""
    content = {"multipart/form-data": {"schema": form.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
