"""The arguments of the tools as agents read of them: types, ranges and what each means."""

from typing import Annotated, Any

from pydantic import Field

from inpaint.images.formats import READ
from inpaint.request import FILLS, MAX_SIDE, RANGES
from inpaint.schedulers import SCHEDULERS
from inpaint.selection.hints import VARIANTS, WHATS


def _ranged(name: str, text: str) -> Any:
    # Said to the agent, and checked by the engine, whose errors are one sentence.
    limits = RANGES[name]
    return Field(description=text, json_schema_extra={"minimum": limits.low, "maximum": limits.high})


ImagePath = Annotated[str, Field(description=f"Path of a {READ} picture. It is not changed.")]
MaskPath = Annotated[
    str | None,
    Field(
        description="Path of a mask of the picture's size: white is repainted, black is kept. Give it or box."
    ),
]
Box = Annotated[
    list[float] | None,
    Field(
        description="The part to repaint as [left, top, right, bottom], in pixels of the picture from its "
        "upper left corner. Leave some room around the thing: the box's rim fades into the picture, and no "
        "pixel outside it changes."
    ),
]
Points = Annotated[
    list[list[float]] | None,
    Field(
        description="Pixels of the picture: [x, y] or [x, y, 1] inside the object, [x, y, 0] outside of it."
    ),
]
Around = Annotated[
    list[int] | None, Field(description="A box around the object: [left, top, right, bottom] in pixels.")
]
SelectWhat = Annotated[
    str,
    Field(
        description="object needs points or a box; subject is the main thing, background all the rest.",
        json_schema_extra={"enum": list(WHATS)},
    ),
]
SelectVariant = Annotated[
    str,
    Field(
        description="If the best selection is too large or too small: smaller or larger.",
        json_schema_extra={"enum": list(VARIANTS)},
    ),
]
Prompt = Annotated[
    str, Field(description="What is seen there afterwards, e.g. `a red door`: a description, no instruction.")
]
NegativePrompt = Annotated[str | None, Field(description="What must not be seen there.")]
Seed = Annotated[int, _ranged("seed", "Another seed gives another picture; -1 draws one.")]
Strength = Annotated[
    float, _ranged("strength", "How much of what is there is replaced; at 0.4 its shapes stay.")
]
Steps = Annotated[int, _ranged("num_inference_steps", "Denoising steps; fewer are faster.")]
Guidance = Annotated[float, _ranged("guidance_scale", "How closely to follow the prompt.")]
Scheduler = Annotated[str, Field(description="The sampler.", json_schema_extra={"enum": list(SCHEDULERS)})]
Fill = Annotated[
    str,
    Field(
        description="What the part holds before it is painted: the original, or telea or blur to forget it.",
        json_schema_extra={"enum": list(FILLS)},
    ),
]
Added = Annotated[
    int,
    Field(description="Pixels to add on this side.", json_schema_extra={"minimum": 0, "maximum": MAX_SIDE}),
]
