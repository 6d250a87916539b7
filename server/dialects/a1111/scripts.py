"""The scripts of a request: soft inpainting, and refusals of all others that are switched on."""

from collections.abc import Mapping
from typing import Any

from inpaint.errors import RequestError
from server.dialects.a1111.errors import ScriptError
from server.dialects.a1111.fields import Reading, is_on
from server.dialects.a1111.models import ScriptArgument, ScriptInfo

SOFT = "soft inpainting"
# Its arguments after the switch: label, default, minimum, maximum and step of the slider.
_SLIDERS = (
    ("Schedule bias", 1, 0, 8, 0.1),
    ("Preservation strength", 0.5, 0, 8, 0.05),
    ("Transition contrast boost", 4, 1, 32, 0.5),
    ("Mask influence", 0, 0, 1, 0.05),
    ("Difference threshold", 0.5, 0, 8, 0.25),
    ("Difference contrast", 2, 0, 8, 0.25),
)


def soft_inpainting(reading: Reading, *, offered: bool) -> bool:
    """Return whether a request switches soft inpainting on; its six other values are not used.

    Args:
        reading: the request.
        offered: whether there is this script for it, as there is not for txt2img.

    Raises:
        ScriptError: it asks for another script. Those that are switched off pass: clients send them always.
        RequestError: the scripts are not as A1111 takes them.
    """
    name = reading.get("script_name")
    if name is not None and str(name).strip().casefold() != "none":
        raise ScriptError(name)
    soft = False
    for script, unit in reading.table("alwayson_scripts").items():
        arguments = _arguments(unit)
        if _is_off(arguments):
            continue
        if not offered or script.strip().casefold() != SOFT:
            raise ScriptError(script)
        soft = is_on(arguments[0]) or False
    return soft


def _arguments(unit: Any) -> list[Any]:
    """Return a script's arguments; Forge also takes them by their labels."""
    given = unit.get("args") if isinstance(unit, Mapping) else unit
    if isinstance(given, Mapping):
        given = list(given.values())
    if given is not None and not isinstance(given, list):
        raise RequestError("alwayson_scripts", 'must hold objects such as {"args": [true]}')
    return given or []


def _is_off(arguments: list[Any]) -> bool:
    """Return whether a script has nothing to do: no arguments, its switch off, or each of its units."""
    return not arguments or arguments[0] is False or all(map(_unit_is_off, arguments))


def _unit_is_off(unit: Any) -> bool:
    if isinstance(unit, Mapping):
        return not unit or is_on(unit.get("enabled", True)) is False
    return unit is None or is_on(unit) is False


def script_infos() -> list[ScriptInfo]:
    """Return the description of the one script."""
    arguments = [ScriptArgument(label="Soft inpainting", value=False)]
    for label, value, minimum, maximum, step in _SLIDERS:
        arguments.append(
            ScriptArgument(label=label, value=value, minimum=minimum, maximum=maximum, step=step)
        )
    return [ScriptInfo(name=SOFT, args=arguments)]
