"""The answers to edits and generations."""

import base64
import time
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from server.dialects.openai.request import Wanted


class TokenDetails(BaseModel):
    """The tokens of a request by kind."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Tokens, which are not counted here; clients refuse an answer in which one of these is missing."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()


class ImageFacts(BaseModel):
    """A painted picture."""

    b64_json: Annotated[str | None, Field(description="The file in base64.")] = None
    url: Annotated[str | None, Field(description="The file's URL, which needs no key.")] = None
    seed: Annotated[int, Field(description="Paints this picture again.")]


class Images(BaseModel):
    """The answer to an edit or a generation that was not streamed."""

    created: int
    data: list[ImageFacts]
    output_format: str
    size: Annotated[str, Field(description="Width and height of the pictures, such as 1024x1024.")]
    quality: str
    background: str = "opaque"
    usage: Usage = Usage()
    warnings: Annotated[list[str], Field(description="Such as: the prompt was cut.")] = []


def images(wanted: Wanted, data: list[ImageFacts], size: tuple[int, int], warnings: Sequence[str]) -> Images:
    """Return the answer with these pictures of one size."""
    return Images(
        created=int(time.time()),
        data=data,
        output_format=wanted.order.output_format,
        size=f"{size[0]}x{size[1]}",
        quality=wanted.quality,
        warnings=[*wanted.notes, *warnings],
    )


def in_base64(files: Sequence[bytes], seeds: Sequence[int]) -> list[ImageFacts]:
    """Return painted files with their seeds."""
    return [
        ImageFacts(b64_json=base64.b64encode(data).decode("ascii"), seed=seed)
        for data, seed in zip(files, seeds, strict=True)
    ]
