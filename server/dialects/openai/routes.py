"""The routes of the dialect: paths, methods and what OpenAPI says about them."""

import time
from typing import Any

from fastapi import APIRouter

from server.dialects.dialect import Dialect
from server.dialects.intake import Intake
from server.dialects.openai.answers import Images
from server.dialects.openai.errors import ErrorAnswer, answer
from server.dialects.openai.images import Painting
from server.dialects.openai.models import ModelFacts, ModelList, Models
from server.dialects.openai.schema import EDIT, GENERATION
from server.dialects.openai.stream import EVENT_NAMES

PREFIXES = ("/v1/images", "/v1/models")
_PAINT_ERRORS = (400, 413, 415, 502, 504)
# One event of the answer with ``stream``.
_EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "required": ["event", "data"],
            "properties": {
                "event": {"type": "string", "enum": [*EVENT_NAMES, "error"]},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "description": "A picture in base64 with its format, size and seed, or an error.",
                },
            },
        }
    }
}


def openai(intake: Intake) -> Dialect:
    """Return OpenAI's images API."""
    painting, models = Painting(intake), Models(intake, int(time.time()))
    router = APIRouter(tags=["OpenAI"])
    for path, handler, body, summary in (
        ("/v1/images/edits", painting.edit, EDIT, "Edit a picture, as OpenAI's API"),
        ("/v1/images/generations", painting.generate, GENERATION, "Paint from a prompt, as OpenAI's API"),
    ):
        router.add_api_route(
            path,
            handler,
            methods=["POST"],
            summary=summary,
            responses={200: {"model": Images, "content": _EVENTS}, **_problems(*_PAINT_ERRORS)},
            openapi_extra=body,
        )
    for path, facts, of_models, summary in (
        ("/v1/models", ModelList, models.list, "The model, as OpenAI's API"),
        ("/v1/models/{model_id}", ModelFacts, models.one, "The model by its name, as OpenAI's API"),
    ):
        router.add_api_route(
            path,
            of_models,
            methods=["GET"],
            summary=summary,
            response_model=facts,
            responses=_problems(*((404,) if facts is ModelFacts else ())),
        )
    return Dialect(router, PREFIXES, answer)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route: those that every route has, and these."""
    return {status: {"model": ErrorAnswer} for status in (401, 403, 429, 500, 503, *statuses)}
