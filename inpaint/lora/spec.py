"""The notations of LoRAs in a request: a list of objects, ``style:0.8,other``, or ``<lora:style:0.8>``.

A request holds names and never paths; :mod:`inpaint.lora.lookup` compares them with the files that there
are. A name may hold a comma in a list and in a tag, but not in text such as ``style:0.8,other``, which
commas divide.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from inpaint.errors import RequestError, shown

MAX_LORAS = 8
MAX_SCALE = 4.0
MAX_NAME = 200  # characters

# A1111's notation; ``lyco`` means the same there. Source: its modules/extra_networks.py.
_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
NOT_IN_NAMES = re.compile(r"[\\:<>]")  # separators of the notations and of paths


class LoraUse(NamedTuple):
    """A LoRA's name and its scale: 1 is the strength that it was trained at, 0 none, below 0 the opposite."""

    name: str
    scale: float = 1.0


def combine(prompt: str, loras: object) -> tuple[str, tuple[LoraUse, ...]]:
    """Take the ``<lora:…>`` tags out of a prompt, and combine them with ``loras``; a tag wins.

    That is A1111's rule for its setting of a default LoRA: it is left out if the prompt names it.

    Args:
        prompt: the prompt with its tags.
        loras: LoRAs in any notation of :func:`parse_loras`.

    Returns:
        The prompt without tags, and the LoRAs of both sorted by name.

    Raises:
        RequestError: a tag or one of ``loras`` is wrong, or there are too many.
    """
    given = parse_loras(loras)
    tags = _TAG.findall(prompt)
    if not tags:
        return prompt, given
    if len(tags) > MAX_LORAS:
        raise RequestError("prompt", f"must name at most {MAX_LORAS} LoRAs, not {len(tags)}")
    typed = added_up("prompt", [_from_tag(tag) for tag in tags])
    names = {use.name for use in typed}
    both = added_up("loras", [*typed, *(use for use in given if use.name not in names)])
    return _TAG.sub("", prompt).strip(), both


def parse_loras(value: object) -> tuple[LoraUse, ...]:
    """Parse LoRAs in any notation; each name once, sorted, so that equal sets are equal values.

    Args:
        value: text such as ``style:0.8,other``, or a list whose items are such text, pairs, or objects with
            a ``name`` and perhaps a ``scale``. The scales of a name that comes twice are added.

    Raises:
        RequestError: an item, a name or a scale is wrong, or there are too many.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part for part in value.split(",", MAX_LORAS) if part.strip()]
    if not isinstance(value, Sequence):
        raise RequestError("loras", f"must be a list of names and scales, not {type(value).__name__}")
    if len(value) > MAX_LORAS:  # counted before any item is looked at
        raise RequestError("loras", f"must be at most {MAX_LORAS} LoRAs")
    return added_up("loras", [_from_item(item) for item in value])


def effective(loras: Sequence[LoraUse]) -> tuple[LoraUse, ...]:
    """Return the LoRAs whose scale is not 0."""
    return tuple(use for use in loras if use.scale)


def tags(loras: Sequence[LoraUse]) -> str:
    """Write LoRAs as the tags of a prompt."""
    return "".join(f"<lora:{use.name}:{use.scale:.10g}>" for use in loras)


def without_tags(prompt: str) -> str:
    """Return a prompt without its tags, even those that cannot be parsed."""
    return _TAG.sub("", prompt).strip() if _TAG.search(prompt) else prompt


def is_name(text: str) -> bool:
    """Return whether ``text`` can be a LoRA's name: its file's, perhaps after the folders that it lies in."""
    if not 0 < len(text) <= MAX_NAME:
        return False
    # A part that begins with a dot is hidden, or leads out of the folder.
    parts_are_plain = all(part and part == part.strip() and part[0] != "." for part in text.split("/"))
    return text.isprintable() and parts_are_plain and not NOT_IN_NAMES.search(text)


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
            raise RequestError(
                "loras", f"an item may have a name and a scale, not {shown(min(map(str, unknown)))}"
            )
        return _use("loras", item.get("name"), item.get("scale", 1.0))
    if isinstance(item, Sequence) and len(item) == 2:
        return _use("loras", item[0], item[1])
    raise RequestError("loras", f"must be items such as style:0.8, not {type(item).__name__}")


def _use(field: str, name: object, scale: object) -> LoraUse:
    if not isinstance(name, str) or not is_name(name.strip()):
        raise RequestError(field, f"must name a LoRA of `inpaint loras list`, not {shown(name)}")
    try:
        number = math.nan if isinstance(scale, bool) else float(scale)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    return LoraUse(name.strip(), _checked_scale(field, name.strip(), number, scale))


def _checked_scale(field: str, name: str, number: float, given: object) -> float:
    if not -MAX_SCALE <= number <= MAX_SCALE:  # NaN is in no range
        limits = f"a number from {-MAX_SCALE:g} to {MAX_SCALE:g}"
        raise RequestError(field, f"the scale of the LoRA {name} must be {limits}, not {shown(given)}")
    return number + 0.0  # -0.0 is 0.0


def added_up(field: str, uses: Sequence[LoraUse]) -> tuple[LoraUse, ...]:
    """Return each name once, with the sum of its scales, sorted.

    Raises:
        RequestError: about ``field``; a sum is too large, or there are too many names.
    """
    scales: dict[str, float] = {}
    for use in uses:
        scales[use.name] = round(scales.get(use.name, 0.0) + use.scale, 9)  # as tags can write it
    if len(scales) > MAX_LORAS:
        raise RequestError(field, f"must be at most {MAX_LORAS} LoRAs, not {len(scales)}")
    return tuple(
        LoraUse(name, _checked_scale(field, name, scales[name], scales[name])) for name in sorted(scales)
    )
