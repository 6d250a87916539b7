"""``inpaint keys`` and ``inpaint credits``: data on stdout, words on stderr, the server's own database."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from inpaint.cli.app import app
from inpaint.errors import OutputError, RequestError
from server.errors import CreditsError, NotFoundError, UnauthorizedError
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import MICRO, Ledger
from server.storage.tables import keys as table

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's folder, which does not exist yet."""
    monkeypatch.delenv("INPAINT_DATABASE_URL", raising=False)
    return tmp_path / "server" / "data"


@pytest.fixture
def run(data: Path) -> Run:
    """Run ``inpaint ARGUMENTS --data DATA``."""

    def run(group: str, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [group, command, "--data", str(data), *arguments])

    return run


def made(done: Result) -> dict[str, str]:
    """What ``keys create --json`` printed."""
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_a_new_key_is_all_that_stdout_holds(run: Run, data: Path) -> None:
    """`KEY=$(inpaint keys create)` works, on a machine where no server ran yet."""
    done = run("keys", "create", "--name", "anna")
    assert done.exit_code == 0, done.output
    assert "cannot be shown again" in done.stderr
    with Database(f"sqlite:///{data / 'inpaint.db'}") as database:
        key = Keys(database).authenticate(done.stdout.removesuffix("\n"))
    assert (key.name, key.expires_at) == ("anna", None)
    assert data.stat().st_mode & 0o077 == 0


def test_a_key_can_be_scoped_and_expire(run: Run, data: Path) -> None:
    """A key for a contractor, for a month."""
    key = made(
        run("keys", "create", "--scope", "metrics", "--scope", "sdxl-inpaint", "--days", "30", "--json")
    )
    assert key["scopes"] == ["metrics", "sdxl-inpaint"]
    assert float(key["expires_at"]) == pytest.approx(time.time() + 30 * 86400, abs=60)
    assert "until 2" in run("keys", "list").stderr
    run("keys", "create", "--days", "0")
    assert "expired 2" in run("keys", "list").stderr


def test_the_list_shows_no_secret(run: Run) -> None:
    """What is on the screen, or in a script's output, opens nothing."""
    key = made(run("keys", "create", "--name", "anna", "--json"))
    words, objects = run("keys", "list"), run("keys", "list", "--json")
    secret = key["key"].split("_")[2]
    assert secret not in words.output + objects.output
    assert words.stdout == objects.stderr == ""
    assert key["id"] in words.stderr
    assert "anna" in words.stderr
    assert json.loads(objects.stdout) == {name: key[name] for name in key if name != "key"}


def test_an_empty_list_says_how_to_make_a_key(run: Run) -> None:
    """The first thing an operator types."""
    done = run("keys", "list")
    assert "make one with: inpaint keys create" in done.stderr
    assert run("keys", "list", "--json").output == ""


def test_a_revoked_key_opens_nothing_and_says_so(run: Run, data: Path) -> None:
    """A leaked key is closed with one command, also while the server runs."""
    key = made(run("keys", "create", "--json"))
    assert run("keys", "revoke", key["id"]).exit_code == 0
    assert f"{key['id']}  revoked 2" in run("keys", "list").stderr
    with Database(f"sqlite:///{data / 'inpaint.db'}") as database, pytest.raises(UnauthorizedError):
        Keys(database).authenticate(key["key"])
    assert isinstance(run("keys", "revoke", "000000000000").exception, NotFoundError)


def test_credits_are_given_taken_back_and_shown(run: Run) -> None:
    """What an operator does for a customer who paid, and after a typo."""
    key = made(run("keys", "create", "--json"))
    assert (
        f"Key {key['id']} has 12.5 credits."
        in run("credits", "add", key["id"], "12.5", "--note", "paid").stderr
    )
    assert "has 10.25 credits." in run("credits", "add", key["id"], "--", "-2.25").stderr
    words = run("credits", "show", key["id"])
    assert words.stdout == ""
    assert "12.5  paid" in words.stderr
    assert "has 10.25 credits." in words.stderr
    lines = [json.loads(line) for line in run("credits", "show", key["id"], "--json").stdout.splitlines()]
    assert [(line["kind"], line["credits"]) for line in lines] == [
        ("add", 12.5),
        ("add", -2.25),
        ("balance", 10.25),
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("ID", "lots"), RequestError),
        (("ID", "--", "-1"), CreditsError),
        (("000000000000", "1"), NotFoundError),
    ],
)
def test_credits_that_cannot_be_given_are_one_sentence(
    run: Run, arguments: tuple[str, ...], error: type[Exception]
) -> None:
    """The program's one handler turns these into an exit code."""
    key = made(run("keys", "create", "--json"))
    done = run("credits", "add", *(key["id"] if word == "ID" else word for word in arguments))
    assert isinstance(done.exception, error)


def test_a_damaged_ledger_fails_the_command(run: Run, data: Path) -> None:
    """An operator who looks gets a sentence, and a script stops."""
    key = made(run("keys", "create", "--json"))
    with Database(f"sqlite:///{data / 'inpaint.db'}") as database:
        Ledger(database).add(key["id"], MICRO)
        with database.write() as connection:
            connection.execute(table.update().values(balance_micro=5 * MICRO))
    assert "has 5 credits, its entries sum to 1" in str(run("credits", "show", key["id"]).exception)


def test_without_the_servers_extra_the_command_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install sdxl-inpaint` alone has no database; the answer can be copied and run."""
    monkeypatch.delitem(sys.modules, "server.storage.database")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    done = run("keys", "list")
    assert isinstance(done.exception, OutputError)
    assert "pip install 'sdxl-inpaint[server]' (sqlalchemy is missing)" in str(done.exception)


def test_a_variable_that_is_wrong_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """INPAINT_PORT=x is the operator's mistake, not a bug."""
    monkeypatch.setenv("INPAINT_PORT", "x")
    error = run("keys", "list").exception
    assert isinstance(error, RequestError)
    assert str(error).startswith("INPAINT_PORT: must be a valid integer")
    assert "\n" not in str(error)


def test_the_commands_start_without_torch(data: Path) -> None:
    """Making a key takes no seconds and no GPU."""
    code = (
        "import sys; from inpaint.cli.app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "sys.exit(', '.join({'torch', 'diffusers', 'fastapi'} & set(sys.modules)) or None)"
    )
    command = [sys.executable, "-c", code, "keys", "create", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:4]) == (0, "inp_"), done.stderr
