"""Fixtures: a database of each kind that the server runs on, new for every test.

``postgres`` starts Debian's PostgreSQL on a Unix socket of its own, once a session, and stops it.
A test module asks for these with ``pytest_plugins = ["tests.support.postgres"]``.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from bench.lib.postgres import postgres as running
from server.storage.database import Database
from server.storage.tables import metadata
from tests.support.programs import need

NewUrl = Callable[[], str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[NewUrl]:
    """A function that makes an empty database and returns its URL."""
    with running(need("PostgreSQL")) as server:
        yield server.new_database


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'inpaint.db'}"
    return str(request.getfixturevalue("postgres")())


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to copy, because that is faster than migrating for every test."""
    path = tmp_path_factory.mktemp("migrated") / "inpaint.db"
    with Database(f"sqlite:///{path}") as database:
        database.migrate()
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: NewUrl) -> str:
    """The URL of a database to empty, because that is faster than creating one for every test."""
    url = postgres()
    with Database(url) as database:
        database.migrate()
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated database without a row, once of each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path)
        url = f"sqlite:///{tmp_path / 'inpaint.db'}"
    else:
        url = request.getfixturevalue("migrated_postgres")
    with Database(url) as database:
        if request.param == "postgres":
            with database.write() as connection:
                connection.execute(text("SET LOCAL session_replication_role = replica"))  # without triggers
                connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
        yield database
