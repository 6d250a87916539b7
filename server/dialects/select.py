"""The route that selects an object in a picture: a click, a box or a stroke in, a mask out."""

import base64
import io
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel, Field

from server.dialects.intake import Intake, base_url
from server.dialects.openapi import problems
from server.dialects.select_body import read_select_fields
from server.service.selecting import Answer

_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        kind: {"schema": {"$ref": "#/components/schemas/SelectBody"}}
        for kind in ("application/json", "multipart/form-data")
    },
}


class Selected(BaseModel):
    """A selection: its box, and a mask of that box."""

    picture: Annotated[str, Field(description="Names the picture in further requests of this key.")]
    method: Annotated[str, Field(description="`snap` or `sam`.")]
    width: Annotated[int, Field(description="Of the picture, in pixels.")]
    height: int
    box: Annotated[
        tuple[int, int, int, int] | None,
        Field(description="Left, top, right, bottom of the mask; null if nothing was found."),
    ] = None
    mask: Annotated[
        str | None, Field(description="A grey PNG of the box in base64; 255 is selected, grey is an edge.")
    ] = None
    score: Annotated[float | None, Field(description="How sure the model is, 0 to 1; null with `snap`.")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class Select:
    """The handler of selections, with its route."""

    intake: Intake

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter(tags=["sdxl-inpaint"])
        router.add_api_route(
            "/v2/select",
            self.select,
            methods=["POST"],
            summary="Select an object with points, a box or a stroke",
            response_model=Selected,
            responses=problems(400, 404, 406, 413, 415, 422, 502),
            openapi_extra={"requestBody": _BODY},
        )
        return router

    async def select(self, request: Request) -> Selected:
        """Return the mask of what the hints mean; it costs no credits, and counts for the key's rate."""
        async with self.intake.arrival(request) as arrival:
            service = self.intake.service
            question = read_select_fields(arrival.fields).question(base_url(request, service.parts.settings))
            answer = await service.selecting.select(arrival.caller, question)
            return await service.parts.threads.pixels(_answered, answer)


def _answered(answer: Answer) -> Selected:
    selection = answer.selection
    mask = None
    if selection.mask is not None:
        file = io.BytesIO()
        Image.fromarray(selection.mask).save(file, "PNG", compress_level=1)
        mask = base64.b64encode(file.getvalue()).decode("ascii")
    width, height = selection.size
    return Selected(
        picture=answer.picture,
        method=answer.method,
        width=width,
        height=height,
        box=selection.box,
        mask=mask,
        score=selection.score,
    )
