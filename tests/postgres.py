"""Fixtures: a database of each kind that the server runs on, new for every test.

``postgres`` starts Debian's PostgreSQL on a Unix socket of its own, once a session, and stops it.
A test module asks for these with ``pytest_plugins = ["tests.postgres"]``.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from server.db import Database
from server.tables import metadata

NewUrl = Callable[[], str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[NewUrl]:
    """A function that makes an empty database and returns its URL."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # not pytest's: its parents are closed to other users
    try:
        with_user = _other_user(folder)
        server = _start(_binaries(), folder, with_user)
        try:
            _wait_until_ready(server, folder)
            yield lambda: _new_database(folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait(30)
    finally:
        shutil.rmtree(folder)


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


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if not found:
        pytest.skip("PostgreSQL's server is not installed; on Debian or Ubuntu: apt install postgresql")
    return found[-1].parent


def _other_user(folder: Path) -> dict[str, str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    names = {user.pw_name for user in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    shutil.chown(folder, user)
    return {"user": user}


def _start(binaries: Path, folder: Path, with_user: dict[str, str]) -> subprocess.Popen[bytes]:
    data = str(folder / "data")
    make = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run([*make, "--no-sync"], check=True, cwd=folder, capture_output=True, **with_user)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "max_connections": "100",
        "shared_buffers": "16MB",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    log = (folder / "log").open("wb")
    with log:
        return subprocess.Popen(
            [binaries / "postgres", "-D", data, *flags], cwd=folder, stdout=log, stderr=log, **with_user
        )


def _wait_until_ready(server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            log = (folder / "log").read_text("utf-8", "replace")
            assert server.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        else:
            return


def _new_database(folder: Path) -> str:
    with psycopg.connect(host=str(folder), user="postgres", dbname="postgres", autocommit=True) as connection:
        name = f"test{time.monotonic_ns()}"
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://postgres@/{name}?host={folder}"
