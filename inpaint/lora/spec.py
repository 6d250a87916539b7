"""LoRA in a request: ``[{"name": "style", "scale": 0.8}]``, ``style:0.8,other``, ``<lora:style:0.8>``.

Names alone: which file a name stands for is for ``lora_files`` to say, and a request never holds a path.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from inpaint.errors import RequestError

MAX_LORAS = 8
MAX_SCALE = 4.0
MAX_NAME = 100  # characters

# A1111's notation; ``lyco`` is its other name for the same. Source: its modules/extra_networks.py.
_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
_NO_NAME = re.compile(r"[/\\:,<>]")  # what parts the notations, and paths


class LoraUse(NamedTuple):
    """One LoRA and how strongly: 1 is as it was trained, 0 not at all, below 0 the other way round."""

    name: str
    scale: float = 1.0


def combine(prompt: str, loras: object) -> tuple[str, tuple[LoraUse, ...]]:
    """The prompt without its ``<lora:…>`` tags, and the LoRAs of both, by name; the tags' word counts.

    That is A1111's rule for its setting of a default LoRA: it is left out where the prompt names it.

    Args:
        prompt: as it was typed.
        loras: as :func:`parse_loras` takes them.

    Raises:
        RequestError: a tag or one of ``loras`` is wrong, or they are too many.
    """
    given = parse_loras(loras)
    tags = _TAG.findall(prompt)
    if not tags:
        return prompt, given
    typed = _added_up("prompt", [_from_tag(tag) for tag in tags])
    names = {use.name for use in typed}
    both = _added_up("loras", [*typed, *(use for use in given if use.name not in names)])
    return _TAG.sub("", prompt).strip(), both


def parse_loras(value: object) -> tuple[LoraUse, ...]:
    """LoRAs as callers give them, one a name, by name: so that equal sets are equal values.

    Args:
        value: text such as ``style:0.8,other``, or a list whose items are such text, pairs, or objects with
            a ``name`` and perhaps a ``scale``. A name that comes twice counts with the sum.

    Raises:
        RequestError: names what is wrong.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, Sequence):
        raise RequestError("loras", f"must be a list of names and scales, not {type(value).__name__}")
    return _added_up("loras", [_from_item(item) for item in value])


def effective(loras: Sequence[LoraUse]) -> tuple[LoraUse, ...]:
    """Those that change anything."""
    return tuple(use for use in loras if use.scale)


def tags(loras: Sequence[LoraUse]) -> str:
    """The tags that stand for ``loras`` in a prompt."""
    return "".join(f"<lora:{use.name}:{use.scale:g}>" for use in loras)


def without_tags(prompt: str) -> str:
    """The prompt alone, also where its tags cannot be read."""
    return _TAG.sub("", prompt).strip() if _TAG.search(prompt) else prompt


def is_name(text: str) -> bool:
    """Whether a LoRA can be called so in every notation."""
    plain = text.isprintable() and text == text.strip() and not text.startswith(".")
    return plain and 0 < len(text) <= MAX_NAME and not _NO_NAME.search(text)


def _from_tag(tag: str) -> LoraUse:
    name, *scales = tag.split(":")
    if len(scales) > 1:
        raise RequestError("prompt", f"<lora:{tag}> must have one scale, such as <lora:{name}:0.8>")
    return _use("prompt", name, scales[0] if scales else 1.0)


def _from_item(item: object) -> LoraUse:
    if isinstance(item, str):
        name, colon, scale = item.partition(":")
        return _use("loras", name, scale if colon else 1.0)
    if isinstance(item, Mapping):
        if unknown := set(item) - {"name", "scale"}:
            raise RequestError("loras", f"an item has a name and a scale, not {min(map(str, unknown))!r}")
        return _use("loras", item.get("name"), item.get("scale", 1.0))
    if isinstance(item, Sequence) and len(item) == 2:
        return _use("loras", item[0], item[1])
    raise RequestError("loras", f"must be items such as style:0.8, not {type(item).__name__}")


def _use(field: str, name: object, scale: object) -> LoraUse:
    if not isinstance(name, str) or not is_name(name.strip()):
        raise RequestError(field, f"a LoRA has a name from `inpaint loras list`, not {_short(name)}")
    try:
        number = math.nan if isinstance(scale, bool) else float(scale)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    return LoraUse(name.strip(), _checked_scale(field, name.strip(), number, scale))


def _checked_scale(field: str, name: str, number: float, given: object) -> float:
    if not -MAX_SCALE <= number <= MAX_SCALE:  # NaN is in no range
        limits = f"a number from {-MAX_SCALE:g} to {MAX_SCALE:g}"
        raise RequestError(field, f"the scale of the LoRA {name} must be {limits}, not {_short(given)}")
    return number + 0.0  # -0.0 is 0.0


def _added_up(field: str, uses: Sequence[LoraUse]) -> tuple[LoraUse, ...]:
    scales: dict[str, float] = {}
    for use in uses:
        scales[use.name] = scales.get(use.name, 0.0) + use.scale
    if len(scales) > MAX_LORAS:
        raise RequestError(field, f"at most {MAX_LORAS} LoRAs at once, not {len(scales)}")
    return tuple(
        LoraUse(name, _checked_scale(field, name, scales[name], scales[name])) for name in sorted(scales)
    )


def _short(value: object) -> str:
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 64 else f"{text[:60]}…"
