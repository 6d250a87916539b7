"""The fields of a request, from the options of ``inpaint run`` and from a picture that was painted before."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from inpaint.errors import ModelError, RequestError
from inpaint.images.made import Made
from inpaint.lora.spec import parse_loras
from inpaint.request import DEFAULTS, SETTINGS
from inpaint.weights import BUILT_IN, find_entry, models_dir


def settings_from(context: typer.Context, made: Made | None) -> dict[str, Any]:
    """Return each field that has an option of its name: as typed, else as ``made`` has it, else the default.

    Raises:
        RequestError: ``--guidance-interval`` is not two numbers, or a ``--lora`` cannot be read.
    """
    settings = {name: context.params[name] for name in SETTINGS if name in context.params}
    settings["guidance_interval"] = _interval(settings["guidance_interval"])
    settings["loras"] = parse_loras(settings["loras"] or DEFAULTS["loras"])
    if made is not None:
        settings |= {name: value for name, value in made.settings.items() if not is_typed(context, name)}
    return settings


def left_out_of(
    context: typer.Context, made: Made, settings: Mapping[str, Any], source: Path
) -> Iterator[str]:
    """Yield a sentence for each setting that could not be taken over, with what is used instead."""
    for each in made.left_out:
        value = settings.get(each.field)
        if is_typed(context, each.field):
            continue
        instead = "" if value in (None, ()) else f"; painting with {'a new one' if value == -1 else value}"
        yield f"{source}: {each.problem}{instead}"


def model_from(context: typer.Context, made: Made | None, source: Path | None) -> str:
    """Return the model: ``--model`` as typed, else the one that ``made`` names, else the default.

    Only a name is taken from a picture, never a path: the picture may come from a stranger.

    Raises:
        ModelError: the picture names a model that is not known here.
    """
    option: str = context.params["model"]
    if made is None or made.model is None or is_typed(context, "model"):
        return option
    if made.model in BUILT_IN or find_entry(made.model, models_dir()) is not None:
        return made.model
    raise ModelError(
        f"{source} was painted with {made.model!r}, which is not in `inpaint models list`; "
        "choose one with --model"
    )


def is_typed(context: typer.Context, name: str) -> bool:
    """Return whether the option of the parameter ``name`` was on the command line."""
    origin = context.get_parameter_source(name)
    return origin is not None and origin.name == "COMMANDLINE"


def _interval(text: str | None) -> tuple[float, float]:
    """Return ``A,B`` as two numbers; the request checks that they are an interval."""
    if text is None:
        default: tuple[float, float] = DEFAULTS["guidance_interval"]
        return default
    try:
        begin, end = map(float, text.split(","))
    except ValueError:
        raise RequestError(
            "guidance_interval", f"must be two numbers A,B such as 0.2,0.8, not {text!r}"
        ) from None
    return begin, end
