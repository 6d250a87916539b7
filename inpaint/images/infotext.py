"""Generation parameters as text, in the format that A1111 and its relatives write into pictures.

Compatible with ``modules/infotext_utils.py`` of AUTOMATIC1111/stable-diffusion-webui: the prompt, a line
``Negative prompt: …``, then one line of ``Key: value`` pairs, values quoted as JSON where they hold a comma,
colon or newline. This module knows the names of a request's settings, and neither files nor pictures.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from inpaint.images.foreign_metadata.found import Found, as_number
from inpaint.lora.spec import parse_loras, tags
from inpaint.pace import call_plan
from inpaint.schedulers import SCHEDULERS

MAX_CHARACTERS = 200_000
_NEGATIVE = "Negative prompt:"
_FEWEST_PAIRS = 3  # upstream: a last line with fewer belongs to the prompt
# Tried once per comma, so that reading any text takes time linear in its length.
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"(?=,|$)|[^,]*)')

_KARRAS = " karras"
# The name that A1111 had for each of ours before 1.9; since then " Karras" at its end is a schedule type.
_THEIRS = {name: (*spec.known_as, name)[0] for name, spec in SCHEDULERS.items()}
_KNOWN = {theirs.casefold() for theirs in _THEIRS.values()}
_CONTENT = {
    "patch": "fill",
    "telea": "fill",
    "blur": "fill",
    "noise": "latent noise",
    "neutral": "latent nothing",
}
_FILLS = {"original": "original", "fill": "blur", "latent noise": "noise", "latent nothing": "neutral"}
_AREAS = {"only masked": "auto", "whole picture": "whole"}
_BLUR = 2.5  # A1111 blurs the mask with a Gaussian that it cuts off at this many sigmas


def write(settings: Mapping[str, object], size: tuple[int, int], model: str | None, version: str) -> str:
    """Return the text for one painted picture.

    Args:
        settings: fields of an ``InpaintRequest``.
        size: width and height of the picture in pixels.
        model: the model's name, if it is known.
        version: this package's version.
    """
    # A1111 keeps LoRAs in the prompt; InpaintRequest takes them out of it again.
    lines = [" ".join(filter(None, [str(settings.get("prompt", "")), _tags(settings.get("loras"))]))]
    if settings.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {settings['negative_prompt']}")
    pairs = _pairs(settings) | {"Size": f"{size[0]}x{size[1]}", "Model": model}
    pairs["Version"] = f"sdxl-inpaint {version}"
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items() if value is not None))
    return "\n".join(lines).strip()


def _tags(loras: object) -> str:
    return tags(parse_loras(loras))


def _pairs(settings: Mapping[str, object]) -> dict[str, object]:
    sampler, schedule = sampler_pair(str(settings.get("scheduler")))
    feather = settings.get("feather")
    return {
        "Steps": settings.get("num_inference_steps"),
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": settings.get("guidance_scale"),
        "Seed": settings.get("seed"),
        "Denoising strength": settings.get("strength"),
        "Mask blur": round(feather / _BLUR) if isinstance(feather, int) else None,
        "Inpaint area": "Only masked" if settings.get("area") == "auto" else None,
        "Masked area padding": settings.get("padding") if settings.get("area") == "auto" else None,
        "Masked content": _CONTENT.get(str(settings.get("fill"))),
        "Soft inpainting enabled": True if settings.get("soft") else None,
        "Pace": _pace(settings) if settings.get("pace") == "near" else None,
    }


def _pace(settings: Mapping[str, object]) -> str:
    """Return ``near`` and how many of the UNet's calls were made."""
    fields = ("scheduler", "num_inference_steps", "strength", "pace")
    given: dict[str, Any] = {name: settings[name] for name in fields}
    interval: Any = settings.get("guidance_interval", (0.0, 1.0))
    plan = call_plan(**given, guidance_interval=tuple(interval))
    return f"near ({plan.made} of {plan.calls} UNet calls)"


def sampler_pair(scheduler: str) -> tuple[str, str | None]:
    """Return A1111's sampler and schedule type for a name of ``SCHEDULERS``; None if it has no type."""
    theirs = _THEIRS.get(scheduler, scheduler)
    if theirs.casefold().endswith(_KARRAS):
        return theirs[: -len(_KARRAS)], "Karras"
    # Of these A1111 takes the Karras form where no type is given.
    return theirs, "Uniform" if theirs.casefold() + _KARRAS in _KNOWN else None


def _quoted(value: object) -> str:
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,\n:"]', text) else text


def read(text: str) -> Found | None:
    """Read a text of this format; None if it is some other text."""
    *lines, last = text[:MAX_CHARACTERS].strip(" \t\r\n\0\ufeff").split("\n")
    pairs = _parse_pairs(last)
    if len(pairs) < _FEWEST_PAIRS or "Steps" not in pairs:
        return None
    prompt, negative = _parse_prompts(lines)
    values: dict[str, object] = {"prompt": prompt}
    if negative:
        values["negative_prompt"] = negative
    for name, (key, parse) in _PARSERS.items():
        if key in pairs and (value := parse(pairs[key])) is not None:
            values[name] = value
    return Found(
        values,
        sampler=pairs.get("Sampler"),
        # Fooocus, and nodes that save ComfyUI's pictures in this format, call it "Scheduler".
        schedule=pairs.get("Schedule type") or pairs.get("Scheduler"),
        model=pairs.get("Model"),
    )


def pairs_of(text: str) -> dict[str, str]:
    """Return a text's prompts and pairs by A1111's names, unchecked; none if it is of another format."""
    *lines, last = text[:MAX_CHARACTERS].strip().split("\n")
    pairs = _parse_pairs(last)
    if len(pairs) < _FEWEST_PAIRS:
        return {}
    prompt, negative = _parse_prompts(lines)
    return {"Prompt": prompt, "Negative prompt": negative, **pairs}


def _parse_prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    into = prompt
    for line in map(str.strip, lines):
        if line.startswith(_NEGATIVE):
            into = negative
            into.append(line.removeprefix(_NEGATIVE).strip())
        else:
            into.append(line)
    return "\n".join(prompt), "\n".join(negative)


def _parse_pairs(line: str) -> dict[str, str]:
    found, at = {}, 0
    while at < len(line):
        pair = _PAIR.match(line, at)
        if pair is not None:
            found[pair[1]] = _unquoted(pair[2])
            at = pair.end()
        comma = line.find(",", at)
        at = len(line) if comma < 0 else comma + 1
    return found


def _unquoted(value: str) -> str:
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _feather(blur: str) -> object:
    pixels = as_number(blur)
    return blur if pixels is None else round(pixels * _BLUR)


# Numbers stay text here; ``settings_of`` reads all programs' numbers alike.
_PARSERS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "num_inference_steps": ("Steps", str),
    "guidance_scale": ("CFG scale", str),
    "seed": ("Seed", str),
    "strength": ("Denoising strength", str),
    "feather": ("Mask blur", _feather),
    "area": ("Inpaint area", lambda text: _AREAS.get(text.casefold())),
    "padding": ("Masked area padding", str),
    "fill": ("Masked content", lambda text: _FILLS.get(text.casefold())),
    "pace": ("Pace", lambda text: "near" if text.startswith("near") else None),
    "soft": ("Soft inpainting enabled", lambda text: True if text == "True" else None),
}
