"""The bodies of edits and generations, as OpenAPI describes them."""

from collections.abc import Sequence
from typing import Any

from inpaint.request import RANGES, Range
from server.dialects.openai.body import OWN
from server.dialects.openai.request import (
    BACKGROUNDS,
    COMPRESSION,
    COUNT,
    FORMATS,
    PARTIAL,
    QUALITY_STEPS,
    RESPONSE_FORMATS,
)
from server.dialects.segmind_request import InpaintBody

_PICTURE = "a file; in JSON and as text a URL, a data: URI or base64."


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _choice(names: Sequence[str], default: str, description: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names), "default": default, "description": description}


def _number(limits: Range, default: object, description: str) -> dict[str, Any]:
    kind = "integer" if limits.kind is int else "number"
    low = "exclusiveMinimum" if limits.above else "minimum"
    found = {"type": kind, low: limits.low, "maximum": limits.high, "description": description}
    return found if default is None else found | {"default": default}


def _shared() -> dict[str, Any]:
    steps = ", ".join(f"{name} {count}" for name, count in QUALITY_STEPS.items())
    return {
        "prompt": _text("What to paint; `(word:1.3)` gives a word more weight."),
        "model": _text(
            "The model that paints: one of `GET /v1/models`, or one of OpenAI's, which means the first of "
            "them. A server with one model takes any name."
        ),
        "n": _number(COUNT, 1, "Number of pictures; their seeds count up."),
        "response_format": _choice(RESPONSE_FORMATS, "b64_json", "Files in base64, or URLs of stored files."),
        "output_format": _choice(FORMATS, "png", "File format of the pictures."),
        "output_compression": _number(COMPRESSION, 100, "Quality of JPEG and WebP files."),
        "quality": _choice(list(QUALITY_STEPS), "auto", f"Denoising steps: {steps}."),
        "background": _choice(BACKGROUNDS, "auto", "Pictures are opaque."),
        "stream": {"type": "boolean", "default": False, "description": "Answer with server-sent events."},
        "partial_images": _number(PARTIAL, 0, "Partial pictures in a stream, at most."),
        **_own(),
    }


def _own() -> dict[str, Any]:
    """Return our own fields, as the hosted API's body describes them, with the engine's ranges."""
    described = InpaintBody.model_json_schema()["properties"]
    found = {}
    for name in OWN:
        field = described[name]
        if name in RANGES:
            found[name] = _number(RANGES[name], None, field["description"])
        elif name == "loras":
            found[name] = {"type": "array", "items": {"type": "string"}, "description": field["description"]}
        else:
            found[name] = {key: value for key, value in field.items() if key not in ("title", "default")}
    return found


def _size(description: str) -> dict[str, Any]:
    return {"type": "string", "pattern": "^(auto|[0-9]{1,5}x[0-9]{1,5})$", "description": description}


def _body(kinds: Sequence[str], required: Sequence[str], properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": list(required), "properties": properties}
    content = {kind: {"schema": schema} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


EDIT = _body(
    ("multipart/form-data", "application/json"),
    ("image", "prompt"),
    {
        "image": _text(f"The picture, {_PICTURE} Of several (`image[]`) the first is edited."),
        "mask": _text(
            f"What is edited, {_PICTURE} It has the picture's size. Its transparent part is edited; in a "
            "file without an alpha channel, what is white. Without a mask the picture's own transparent "
            "part is edited, or all of it."
        ),
        "size": _size(
            "`auto` or the picture's own: as it is. Another size of the same shape: the result is resized. "
            "Another shape: the picture keeps its size, which the answer names."
        ),
        **_shared(),
    },
)
GENERATION = _body(
    ("application/json", "multipart/form-data"),
    ("prompt",),
    {"size": _size("Of the pictures, in pixels; `auto` is 1024x1024."), **_shared()},
)
