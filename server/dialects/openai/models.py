"""The list of models: the one that this server has. A request to paint may name any."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Request
from pydantic import BaseModel, Field

from server.dialects.intake import Intake
from server.dialects.openai.errors import UnknownModelError
from server.service.caller import MODEL_SCOPE


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
        """Return the model of this server. A request to paint may name any; it means this one."""
        (await self.intake.gate.admit(request)).require(MODEL_SCOPE)
        return ModelList(data=[self._own()])

    async def one(self, request: Request, model_id: str) -> ModelFacts:
        """Return the model of this server, if it is asked for by its name."""
        (await self.intake.gate.admit(request)).require(MODEL_SCOPE)
        own = self._own()
        if model_id != own.id:
            raise UnknownModelError(
                f"model: this server has {own.id!r} only, which any name means in a request"
            )
        return own

    def _own(self) -> ModelFacts:
        # Not the path, which is the operator's.
        return ModelFacts(id=Path(self.intake.service.parts.settings.model).stem, created=self.created)
