"""What docs/operations.md tells an operator to type exists, and its remedies work."""

import re
from pathlib import Path
from typing import Any

from sqlalchemy import text
from typer import Context
from typer.main import get_command

from inpaint.cli.app import app
from server.settings import Settings
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import Ledger
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
ELSEWHERE = {
    "KEY",
    "MODELS",
    "LORAS",
}  # read by the command line and the engine, not by the server's settings


def anchors(page: str) -> set[str]:
    """Of a page's headings, as they are made where it is read."""
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_variable_it_names_exists() -> None:
    """An operator copies them from here."""
    named = set(re.findall(r"INPAINT_([A-Z_]+)\b", PAGE)) - ELSEWHERE
    assert len(named) > 10
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_every_command_it_names_exists() -> None:
    """With its subcommand and its options."""
    root = get_command(app)
    commands = re.findall(r"\binpaint ((?:top|keys|credits|models|serve|doctor|run)\b[^`\n|#;]*)", PAGE)
    assert len(commands) > 10
    for line in commands:
        command: Any = root
        options = []
        for word in line.split():
            if word in getattr(command, "commands", {}):
                # Not command.commands: the server's are placeholders there until they are called.
                _, command, _ = command.resolve_command(Context(command), [word])
            elif word.startswith("--"):
                options.append(word)
        known = {name for parameter in command.params for name in parameter.opts}
        assert command is not root, line
        assert set(options) <= known, line


def test_every_link_within_the_page_leads_somewhere() -> None:
    """At three in the morning."""
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert len(links) > 10
    assert set(links) <= anchors(PAGE)


def test_there_is_a_place_for_the_cluster() -> None:
    """Other pages point there."""
    assert "a-cluster-ray" in anchors(PAGE)


def test_the_remedy_for_credits_adrift_is_one(tmp_path: Path) -> None:
    """The statement as it stands on the page, on a balance that a hand has changed."""
    (statement,) = re.findall(r"```sql\n\s*(.*?)\n\s*```", PAGE, re.DOTALL)
    with Database(f"sqlite:///{tmp_path / 'inpaint.db'}") as database:
        database.migrate()
        keys, ledger = Keys(database), Ledger(database)
        hurt, well = keys.create("hurt")[0].id, keys.create("well")[0].id
        for key_id in (hurt, well):
            ledger.add(key_id, 5_000_000)
        with database.write() as connection:
            connection.execute(text("UPDATE keys SET balance_micro = 9 WHERE id = :id"), {"id": hurt})
        assert len(ledger.check()) == 1
        with database.write() as connection:
            assert connection.execute(text(statement.replace("…", hurt))).rowcount == 1
        assert ledger.check() == []
        assert ledger.balance(hurt) == ledger.balance(well) == 5_000_000
