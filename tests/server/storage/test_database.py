"""The database: its URL, migrations and transactions, on SQLite and on Postgres."""

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from filelock import FileLock
from sqlalchemy import insert, inspect, select, text

from inpaint.errors import BusyError, OutputError, RequestError
from server.storage.database import Database
from server.storage.tables import keys, metadata

pytest_plugins = ["tests.support.postgres"]

KEY = {"name": "n", "secret_sha256": "", "scopes": [], "created_at": 1.0, "balance_micro": 0}


def test_the_migrations_build_the_tables_that_the_code_uses(database: Database) -> None:
    """A column that was added to one of the two but not to the other fails here."""
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    """Every start migrates, and must keep the rows that are there."""
    with database.write() as connection:
        connection.execute(insert(keys).values(id="a", **KEY))
    database.migrate()
    with database.read() as connection:
        assert connection.scalars(select(keys.c.id)).all() == ["a"]


@pytest.mark.slow
def test_two_starters_may_migrate_simultaneously(database_url: str) -> None:
    """A supervisor may start two servers, or an operator may create a key while a server starts."""
    imports = "import sys; from server.storage.database import Database"
    code = f"{imports}; sys.stdin.read(1); Database(sys.argv[1]).migrate()"
    command = [sys.executable, "-c", code, database_url]
    starters = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for starter in starters:  # both wait with everything imported
        assert starter.stdin is not None
        starter.stdin.write(b"!")
        starter.stdin.flush()
    for starter in starters:
        _, complaint = starter.communicate(timeout=60)
        assert starter.returncode == 0, complaint.decode()
    with Database(database_url) as database, database.read() as connection:
        assert {"keys", "ledger", "requests"} <= set(inspect(connection).get_table_names())


def test_a_starter_waits_until_the_other_has_made_the_file(tmp_path: Path) -> None:
    """SQLite's switch to WAL does not wait for other processes: without a lock, 2 of 120 starters failed."""
    path = tmp_path / "inpaint.db"
    with Database(f"sqlite:///{path}") as database:
        starter = threading.Thread(target=database.migrate)
        with FileLock(f"{path}.lock"):
            starter.start()
            starter.join(0.3)
            assert not path.exists()
        starter.join()
        with database.read() as connection:
            assert connection.execute(select(keys)).all() == []


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    """A server of an older version must not damage what a newer one wrote."""
    with Database(database_url) as database:
        database.migrate()
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(RequestError, match="a newer version of inpaint wrote this database"):
            database.migrate()


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    """An error between two changes of one transaction undoes both."""
    with contextlib.suppress(ZeroDivisionError), database.write() as connection:
        connection.execute(insert(keys).values(id="a", **KEY))
        raise ZeroDivisionError
    with database.read() as connection:
        assert connection.execute(select(keys)).all() == []


def test_reading_waits_for_no_writer(database: Database) -> None:
    """Health checks and polls are answered while a request is being written."""
    with database.write() as writer:
        writer.execute(insert(keys).values(id="a", **KEY))
        with database.read() as reader:
            assert reader.execute(select(keys)).all() == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://user:geheim@host/name",
        "postgresql://host/name",
    ],
)
def test_a_url_that_is_no_database_is_named_without_its_password(url: str) -> None:
    """The message tells the operator what would be right, and no password reaches the log."""
    with pytest.raises(RequestError, match="must be sqlite:///path/to/file or postgresql") as caught:
        Database(url)
    assert "geheim" not in str(caught.value)


def test_a_database_that_is_unreachable_is_busy() -> None:
    """The caller is asked to try again; it is not a bug of this server."""
    with Database("postgresql+psycopg://postgres@127.0.0.1:1/none") as database, pytest.raises(BusyError):
        database.migrate()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A `--data` folder inside a file ends in one sentence, not in a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the folder .*file/data cannot be used: Not a directory"):
        Database(f"sqlite:///{tmp_path}/file/data/inpaint.db").migrate()


def test_a_mistake_in_our_sql_is_not_called_busy(database: Database) -> None:
    """A bug must show as one, instead of asking every caller to try again."""
    with pytest.raises(Exception, match="nowhere") as caught, database.read() as connection:
        connection.execute(text("SELECT * FROM nowhere"))
    assert not isinstance(caught.value, BusyError)


def test_the_database_needs_no_torch() -> None:
    """The API process and `inpaint keys` start without it."""
    names = ("database", "keys", "ledger", "requests", "blobs")
    modules = ", ".join([*(f"server.storage.{name}" for name in names), "server.service.limits"])
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
