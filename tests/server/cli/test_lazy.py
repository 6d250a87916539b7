"""The server's commands in the engine's command line: what ``--help`` says before and after they load."""

from typing import Any

import pytest
import typer

from inpaint.cli.app import app
from inpaint.cli.lazy import SERVER_COMMANDS, LazyGroup
from server.settings import Settings


@pytest.fixture
def group() -> LazyGroup:
    """The top-level command group, with placeholders for the server's commands."""
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    return group


def loaded(group: LazyGroup, name: str) -> Any:
    """The command behind a placeholder."""
    return group.resolve_command(None, [name])[1]


@pytest.mark.parametrize("name", SERVER_COMMANDS)
def test_the_placeholder_says_what_the_command_says(group: LazyGroup, name: str) -> None:
    """`inpaint --help` and `inpaint NAME --help` describe one command in the same words."""
    first, _, _ = loaded(group, name).help.partition("\n\n")
    assert SERVER_COMMANDS[name].help == first


def test_the_flags_of_serve_show_the_defaults_of_the_settings(group: LazyGroup) -> None:
    """The flags' defaults are only shown, not used: without a flag, the setting decides."""
    flags = {flag.name: flag.default for flag in loaded(group, "serve").params}
    fields = {name: Settings.model_fields[name] for name in flags if name in Settings.model_fields}
    shown = {name: flags[name] for name in fields if flags[name] is not None}
    assert shown == {name: fields[name].default for name in shown}
    assert {"host", "port", "model", "workers", "log_level"} <= set(shown)
    assert set(flags) - set(fields) <= {"cluster", "browse", "help"}, "each other flag is a setting"
