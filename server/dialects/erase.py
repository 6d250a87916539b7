"""The route that erases: no prompt, no engine, no credits."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from server.dialects.intake import Intake, watched
from server.dialects.openapi import problems
from server.dialects.segmind_checks import read_erase_fields
from server.service.caller import Caller
from server.service.erasing import Answered, Wanted, erased
from server.service.order import Order
from server.service.pictures import CONTENT_TYPES

_BODY = {
    "required": True,
    "content": {
        kind: {"schema": {"$ref": "#/components/schemas/EraseBody"}}
        for kind in ("application/json", "multipart/form-data")
    },
}
_PICTURES = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES.values()}


@dataclass(frozen=True, slots=True)
class Erase:
    """The handler that erases a part of a picture, with its route."""

    intake: Intake

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter(tags=["sdxl-inpaint"])
        router.add_api_route(
            "/v2/erase",
            self.erase,
            methods=["POST"],
            summary="A picture without the part under the mask, filled from its surroundings",
            response_class=Response,
            responses={200: {"content": _PICTURES}, **problems(400, 404, 406, 413, 415, 422, 502, 504)},
            openapi_extra={"requestBody": _BODY},
        )
        return router

    async def erase(self, request: Request) -> Response:
        """Return the picture, or the part of it that has changed; `X-Box` is the place of that part."""
        async with self.intake.arrival(request) as arrival:
            body = read_erase_fields(arrival.fields)
            order = self.intake.own(request, body.order())
            wanted = Wanted(body.format, body.quality, crop=body.crop == "box")
            async with watched(request) as gone:
                work = self._erased(arrival.caller, order, wanted)
                answered = await self.intake.service.in_time(work, gone)
        headers = {"X-Box": ",".join(map(str, answered.box)), "Cache-Control": "no-store"}
        return Response(answered.data, media_type=answered.content_type, headers=headers)

    async def _erased(self, caller: Caller, order: Order, wanted: Wanted) -> Answered:
        service = self.intake.service
        async with service.preparation.gathered(caller, order) as (image, mask):
            assert mask is not None, "the body has one"
            return await service.parts.threads.fills(erased, image, mask, order.settings, wanted)
