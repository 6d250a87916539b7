"""The server's commands in the engine's command line: named as strings and imported when called.

Nothing in ``inpaint`` imports ``server``, and ``inpaint --help`` loads none of it.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from inpaint.cli.help import examples, hide_flag_types
from inpaint.errors import OutputError


class LazyCommand(NamedTuple):
    """A command of another package: its import path, and its line in ``inpaint --help``."""

    target: str  # "module:attribute"; the attribute is a function or a typer.Typer
    help: str
    epilog: str | None = None


SERVER_COMMANDS: Mapping[str, LazyCommand] = {
    "serve": LazyCommand(
        "server.cli.serve:serve",
        "Serve the sdxl-inpaint API and a page to paint masks on.",
        examples(
            "inpaint serve --open",
            "inpaint serve --model sdxl-inpainting --host 0.0.0.0",
            "inpaint serve --model sdxl-inpainting --workers 4 --port 9000",
        ),
    ),
    "top": LazyCommand(
        "server.cli.top:top", "Watch a running server: requests, latencies, queue and engine."
    ),
    "keys": LazyCommand("server.cli.keys:app", "Create, list and revoke the server's API keys."),
    "credits": LazyCommand("server.cli.keys:credits_app", "Give credits to API keys, and show them."),
}
_ORDER = (
    "run",
    "erase",
    "serve",
    "mcp",
    "top",
    "models",
    "loras",
    "keys",
    "credits",
    "krita",
    "comfyui",
    "schedulers",
    "info",
    "doctor",
)


class LazyGroup(TyperGroup):
    """The top-level command group, with ``SERVER_COMMANDS`` among its commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, lazy in SERVER_COMMANDS.items():  # placeholders, for --help and for "did you mean"
            self.add_command(TyperCommand(name, help=lazy.help))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order of ``--help``."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return the command that ``args`` call, its name and the arguments left for it.

        Raises:
            OutputError: the server is not installed.
        """
        if args[0] in SERVER_COMMANDS:
            return args[0], loaded(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def not_installed(error: ImportError) -> OutputError:
    """Return the error that says how to install the server, after a module of it was not found."""
    command = "pip install 'sdxl-inpaint[server]'"
    return OutputError(
        f"the HTTP server is not installed; install it with: {command} ({error.name} is missing)"
    )


def loaded(name: str) -> Any:
    """Import one of ``SERVER_COMMANDS`` and return it as click's command.

    Raises:
        OutputError: the server is not installed.
    """
    module, _, attribute = SERVER_COMMANDS[name].target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as error:
        raise not_installed(error) from error
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name, epilog=SERVER_COMMANDS[name].epilog)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    hide_flag_types(command)
    return command
