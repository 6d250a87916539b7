"""Programs that write their settings as one flat JSON object: InvokeAI, SwarmUI, NovelAI, Fooocus.

Each is a row: where the object is, by which keys it is known, and its names for our fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inpaint.images.foreign_metadata.found import Found, json_object

COMMENT = "parameters"  # where the comment of a JPEG or WebP is put as well
_FIELDS = ("prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "seed")


@dataclass(frozen=True, slots=True)
class _Tool:
    """One program's notation. The names of a field are tried in turn."""

    name: str
    chunk: str  # the text in a PNG
    marks: tuple[str, ...]  # one of these keys is there
    keys: Mapping[str, tuple[str, ...]]
    inside: str | None = None  # the key of the object that holds the settings, itself or as JSON again


_TOOLS = (
    # invokeai/app/invocations/metadata.py, CoreMetadataInvocation.
    _Tool(
        "InvokeAI",
        "invokeai_metadata",
        ("positive_prompt", "generation_mode", "app_version"),
        {
            "prompt": ("positive_prompt",),
            "negative_prompt": ("negative_prompt",),
            "num_inference_steps": ("steps",),
            "guidance_scale": ("cfg_scale",),
            "seed": ("seed",),
            "sampler": ("scheduler",),
            "model": ("model",),
        },
    ),
    # SwarmUI, src/Text2Image/T2IParamInput.cs, GenRawMetadata.
    _Tool(
        "SwarmUI",
        COMMENT,
        ("sui_image_params",),
        {
            "prompt": ("prompt",),
            "negative_prompt": ("negativeprompt",),
            "num_inference_steps": ("steps",),
            "guidance_scale": ("cfgscale",),
            "seed": ("seed",),
            "sampler": ("sampler", "comfyuisampler"),
            "schedule": ("scheduler", "comfyuischeduler"),
            "model": ("model",),
        },
        inside="sui_image_params",
    ),
    # In a WebP the texts of a NovelAI picture are one object, and "Comment" is JSON inside it.
    _Tool(
        "NovelAI",
        "Comment",
        ("uc", "v4_prompt", "noise_schedule", "request_type", "Comment"),
        {
            "prompt": ("prompt",),
            "negative_prompt": ("uc",),
            "num_inference_steps": ("steps",),
            "guidance_scale": ("scale",),
            "seed": ("seed",),
            "sampler": ("sampler",),
            "schedule": ("noise_schedule",),
        },
        inside="Comment",
    ),
    # Fooocus, modules/meta_parser.py, FooocusMetadataParser; the second names are RuinedFooocus'.
    _Tool(
        "Fooocus",
        COMMENT,
        ("prompt", "Prompt"),
        {
            "prompt": ("prompt", "Prompt"),
            "negative_prompt": ("negative_prompt", "Negative"),
            "num_inference_steps": ("steps",),
            "guidance_scale": ("guidance_scale", "cfg"),
            "seed": ("seed",),
            "sampler": ("sampler", "sampler_name"),
            "schedule": ("scheduler",),
            "model": ("base_model", "base_model_name"),
        },
    ),
)


def read(texts: Mapping[str, str]) -> Found | None:
    """Return what one of the programs says in the texts of a file; None if none does."""
    for tool in _TOOLS:
        for chunk in dict.fromkeys((tool.chunk, COMMENT)):
            outer = json_object(texts.get(chunk))
            if outer is not None and any(mark in outer for mark in tool.marks):
                return _found(tool, _inner(tool, outer), texts.get("Description") or outer.get("Description"))
    return None


def _inner(tool: _Tool, outer: Mapping[str, Any]) -> Mapping[str, Any]:
    inside = outer.get(tool.inside) if tool.inside else None
    inner = inside if isinstance(inside, dict) else json_object(inside)
    return outer if inner is None else inner


def _found(tool: _Tool, settings: Mapping[str, Any], description: object) -> Found:
    def value(name: str) -> object:
        keys = tool.keys.get(name, ())
        return next((settings[key] for key in keys if settings.get(key) is not None), None)

    values = {name: value(name) for name in _FIELDS}
    if tool.name == "NovelAI" and values["prompt"] is None:  # its first versions wrote it there only
        values["prompt"] = description
    return Found(
        {name: found for name, found in values.items() if found is not None},
        sampler=value("sampler"),
        schedule=value("schedule"),
        model=model_name(value("model")),
        tool=tool.name,
    )


def model_name(value: object) -> object:
    """Return a model's name without its folder and its ending."""
    if isinstance(value, dict):
        value = value.get("name") or value.get("model_name")
    if not isinstance(value, str):
        return None
    name = value.replace("\\", "/").rpartition("/")[2]
    return name.removesuffix(".safetensors").removesuffix(".ckpt")
