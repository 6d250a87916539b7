"""The list of models, and the one that a request means.

On a server with one model a request to paint may name any. With several, OpenAI's own names mean the first:
some clients can send no others.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Request
from pydantic import BaseModel, Field

from server.dialects.intake import Intake
from server.dialects.openai.body import Body
from server.dialects.openai.errors import UnknownModelError
from server.http.body import Fields
from server.models import Models as Served
from server.service.caller import MODEL_SCOPE

_OPENAI = ("gpt-image-", "chatgpt-image-", "dall-e-")


def chosen(fields: Fields, models: Served) -> str:
    """Return the name of the model that a request means.

    Raises:
        RequestError: there are several, and none of this name.
    """
    wanted = Body(fields).given("model")
    if isinstance(wanted, str) and wanted in models.given:
        return wanted
    if models.several and wanted is not None and not str(wanted).startswith(_OPENAI):
        models.named(str(wanted))
    return models.default


class ModelFacts(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="When this server was started, in seconds since 1970.")]
    owned_by: str = "sdxl-inpaint"


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelFacts]


@dataclass(frozen=True, slots=True)
class Models:
    """The handlers about models."""

    intake: Intake
    created: int

    async def list(self, request: Request) -> ModelList:
        """Return the models of this server. If it has one, a request to paint may name any."""
        (await self.intake.gate.admit(request)).require(MODEL_SCOPE)
        return ModelList(data=[self._facts(name) for name in self._served.names])

    async def one(self, request: Request, model_id: str) -> ModelFacts:
        """Return a model of this server, if it is asked for by its name."""
        (await self.intake.gate.admit(request)).require(MODEL_SCOPE)
        served = self._served
        if model_id not in served.given:
            raise UnknownModelError(
                f"model: must be one of {', '.join(served.names)}"
                if served.several
                else f"model: this server has {served.default!r} only, which any name means in a request"
            )
        return self._facts(model_id)

    @property
    def _served(self) -> Served:
        return self.intake.service.parts.settings.models

    def _facts(self, name: str) -> ModelFacts:
        return ModelFacts(id=name, created=self.created)
