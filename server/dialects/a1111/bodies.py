"""The bodies that img2img, txt2img and png-info take, for the OpenAPI description.

Only fields that have a meaning here are in it; all others are accepted, as are null and numbers sent as text.
"""

from collections.abc import Mapping
from typing import Any

from inpaint.request import MAX_SIDE, MIN_SIDE, RANGES

_TEXT = {"type": ["string", "null"]}
_SWITCH = {"type": ["boolean", "integer", "string", "null"]}


def _number(default: float, low: float, high: float, description: str = "") -> dict[str, Any]:
    """Describe a number, which may be sent as text."""
    kinds = ["integer" if isinstance(default, int) else "number", "string", "null"]
    found = {"type": kinds, "default": default, "minimum": low, "maximum": high}
    return found | ({"description": description} if description else {})


_STEPS, _GUIDANCE, _SEED = (RANGES[name] for name in ("num_inference_steps", "guidance_scale", "seed"))
_COMMON: Mapping[str, Any] = {
    "prompt": _TEXT,
    "negative_prompt": _TEXT,
    "sampler_name": {**_TEXT, "description": "An unknown one is painted with the nearest that there is."},
    "sampler_index": {
        **_TEXT,
        "description": "The older name of ``sampler_name``; Euler if both are absent.",
    },
    "scheduler": {**_TEXT, "description": "Automatic or Karras."},
    "steps": _number(50, _STEPS.low, _STEPS.high),
    "cfg_scale": _number(7.0, _GUIDANCE.low, _GUIDANCE.high),
    "seed": _number(-1, _SEED.low, _SEED.high, "Of the first picture; the others count up from it."),
    "n_iter": _number(1, 1, 16, "Times ``batch_size`` it is the number of pictures, 16 at most."),
    "batch_size": _number(1, 1, 16),
    "width": _number(512, MIN_SIDE, MAX_SIDE),
    "height": _number(512, MIN_SIDE, MAX_SIDE),
    "send_images": {**_SWITCH, "default": True},
    "override_settings": {
        "type": ["object", "array", "null"],
        "description": "``sd_model_checkpoint``: a ``title`` of sd-models, if there are several.",
    },
    "alwayson_scripts": {"type": ["object", "null"]},
    "script_name": {**_TEXT, "description": "There are no scripts of this kind."},
}
TXT2IMG: dict[str, Any] = {"type": "object", "properties": dict(_COMMON)}
IMG2IMG: dict[str, Any] = {
    "type": "object",
    "required": ["init_images"],
    "properties": {
        **_COMMON,
        "init_images": {
            "type": "array",
            "items": {"type": "string"},
            "description": "One picture: base64, a data: URI or a URL.",
        },
        "mask": {
            "type": ["string", "array", "null"],
            "items": {"type": "string"},
            "description": "White is repainted; in one with transparency, what is opaque. If it is absent: "
            "the picture's transparent part, else all of it.",
        },
        "inpainting_mask_invert": {**_SWITCH, "default": 0},
        "mask_blur": _number(4, 0, 100, "Sets ``mask_blur_x`` and ``mask_blur_y``; sigma in pixels."),
        "mask_blur_x": _number(4, 0, 100),
        "mask_blur_y": _number(4, 0, 100),
        "inpainting_fill": _number(0, 0, 3, "Fill, original, latent noise, latent nothing."),
        "inpaint_full_res": {
            **_SWITCH,
            "default": True,
            "description": "Paint the surroundings of the mask, and answer a picture of the size of the one "
            "that was sent; false: resize it to ``width`` × ``height`` and paint it as a whole.",
        },
        "inpaint_full_res_padding": _number(0, 0, 1024, "Pixels of the picture."),
        "resize_mode": _number(0, 0, 3, "Stretch, crop, fill with the edges' colours, stretch."),
        "denoising_strength": _number(0.75, 0, 1, "At least one step is taken."),
        "include_init_images": {**_SWITCH, "default": False},
    },
}
PNG_INFO: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "string", "description": "Base64 or a data: URI of a picture."}},
}
