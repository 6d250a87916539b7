"""What ``--help`` shows besides the options: examples, and no type after a flag that takes no value."""

from typing import Any

import typer


def examples(*lines: str) -> str:
    """Return the end of a command's help: each line as an example."""
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n\n".join((title, *(f"  {line}" for line in lines)))


def hide_flag_types(command: Any) -> None:
    """Leave out ``<bool>``, which typer writes after every flag, in a command and in those below it."""
    context = typer.Context(command, help_option_names=["-h", "--help"])
    for parameter in (*command.params, command.get_help_option(context)):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    for below in getattr(command, "commands", {}).values():
        hide_flag_types(below)
