"""The names on the command line of a request's fields: an error names the flag that the user typed."""

from collections.abc import Mapping, Sequence
from typing import Any

from inpaint.errors import InpaintError


def flags_of(command: Any) -> dict[str, str]:
    """Return each option of a command by the field that it sets: ``--steps`` by ``num_inference_steps``.

    Args:
        command: click's command. Its parameters have the names of the fields; ``--from`` sets no field, and
            is found by its own name.
    """
    found: dict[str, str] = {}
    for parameter in command.params:
        flag = max(parameter.opts, key=len)
        if flag.startswith("--"):
            found.setdefault(flag.removeprefix("--").replace("-", "_"), flag)
            found[parameter.name] = flag
    return found


def explained(error: InpaintError, flags: Mapping[str, str]) -> str:
    """Return an error's sentence, with the flag in place of the field that it begins with."""
    field, colon, problem = str(error).partition(": ")
    return f"{flags[field]}: {problem}" if colon and field in flags else str(error)


def called_by(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments of ``inpaint`` call, or the group in which they name none."""
    from typer.main import get_command

    from inpaint.cli.app import app
    from inpaint.cli.lazy import SERVER_COMMANDS, loaded

    command: Any = get_command(app)
    for word in arguments:
        if word in SERVER_COMMANDS and word in getattr(command, "commands", {}):
            command = loaded(word)
        else:
            command = getattr(command, "commands", {}).get(word, command)
    return command
