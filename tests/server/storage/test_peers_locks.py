"""Work that one of several servers does for all of them: sweeping and migrating the tables."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from inpaint.errors import BusyError
from server.service.sweeper import _SWEEP_LOCK, sweep
from server.storage.database import Database
from server.storage.ledger import Ledger
from server.storage.requests import Store
from server.storage.tables import keys, ledger, metadata, requests
from tests.server.dialects.test_segmind_v2 import ended, submitted
from tests.support.fleet import Fleet, Line
from tests.support.served import eventually

pytest_plugins = ["tests.support.postgres", "tests.support.served_fixtures", "tests.support.fleet_fixtures"]

STARTERS = 8


# Advisory locks.


def test_one_server_holds_a_lock_at_a_time(migrated_postgres: str) -> None:
    """A second thread of the same server does not get it either; a lock with another id is independent."""
    with Database(migrated_postgres) as one, Database(migrated_postgres) as other:
        with one.try_lock(5) as won:
            assert won
            for database in (other, one):
                with database.try_lock(5) as second:
                    assert not second
            with other.try_lock(6) as elsewhere:
                assert elsewhere
        with other.try_lock(5) as won:
            assert won


def test_a_lock_is_free_after_an_error(migrated_postgres: str) -> None:
    """A sweep that failed must not be the last one."""
    with Database(migrated_postgres) as one, Database(migrated_postgres) as other:
        with pytest.raises(ZeroDivisionError), one.try_lock(5):
            raise ZeroDivisionError
        with other.try_lock(5) as won:
            assert won


def test_a_lock_is_free_after_its_holders_death(line: Line) -> None:
    """The database notices that the connection ended; a holder that only lost it gets BusyError."""
    real = line.url.replace(line.url.partition("?host=")[2], line.real)
    with Database(line.url) as holder, Database(real) as other:

        def won() -> bool:
            with other.try_lock(5) as won:
                return won

        with pytest.raises(BusyError), holder.try_lock(5) as held:  # noqa: PT012 - it is the block that is tested
            assert held
            assert not won()
            line.drop()
            eventually(won)


def test_the_only_server_of_a_file_always_gets_the_lock(tmp_path: Path) -> None:
    """SQLite has one server, so there is no other to wait for."""
    with Database(f"sqlite:///{tmp_path / 'inpaint.db'}") as database, database.try_lock(5) as won:
        assert won


def test_one_of_three_servers_sweeps(fleet: Fleet) -> None:
    """While one sweeps the others do nothing, and it deletes the pictures of all of them."""
    with fleet.database.try_lock(_SWEEP_LOCK):  # held from the start, else each would sweep when it starts
        servers = [fleet.start(name, requests_ttl_s=0.001, pictures_ttl_s=0.001) for name in "abc"]
        pictures = servers[0].settings.data.parent / "pictures"
        for served in servers:
            with served.calling(key=fleet.token) as client:
                ended(client, submitted(client))
        assert [sweep(served.parts, audits=True) for served in servers] == [False] * 3
        assert len(list(pictures.iterdir())) == 3
    assert sweep(servers[1].parts, audits=True)
    assert list(pictures.iterdir()) == []
    assert sweep(servers[2].parts, audits=True)
    assert fleet.records() == {}
    assert fleet.ledger.check() == []


# Migrations.


_STARTERS = """
import os, sys, traceback
from server.storage.database import Database

wait, go = os.pipe()
children = []
for _ in range(int(sys.argv[2])):
    if (pid := os.fork()) == 0:
        os.close(go)
        os.read(wait, 1)  # returns in all children simultaneously, when the parent closes its end
        try:
            Database(sys.argv[1]).migrate()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(pid)
os.close(go)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


def start_all(url: str) -> None:
    """Have several servers bring one database up to date at the same moment."""
    command = [sys.executable, "-c", _STARTERS, url, str(STARTERS)]
    starters = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert starters.returncode == 0, starters.stderr


def assert_current(url: str) -> None:
    """Assert that the tables are the ones that the code uses."""
    with Database(url) as database, database.read() as connection:
        assert connection.scalars(text("SELECT version_num FROM alembic_version")).all() == ["0003"]
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_eight_starters_build_one_database(database_url: str) -> None:
    """An operator may deploy eight replicas on a new database."""
    start_all(database_url)
    assert_current(database_url)


@pytest.mark.slow
def test_eight_starters_bring_rows_along(database_url: str) -> None:
    """An update of a running deployment keeps the requests that were accepted, each taken over once."""
    with Database(database_url) as database:
        at_revision(database, "0001")
        with database.write() as connection:
            for statement in _OLD_ROWS:
                connection.execute(text(statement))
    start_all(database_url)
    assert_current(database_url)
    with Database(database_url) as database:
        with database.read() as connection:
            (row,) = connection.execute(select(requests))
            assert (row.server_id, row.step, row.cancel_asked) == ("", 0, False)
            assert (row.fields, row.seeds, row.idempotency_sha256) == ({"prompt": "é"}, [7], "i")
            assert connection.scalar(select(keys.c.balance_micro)) == 90
            assert len(connection.execute(select(ledger)).all()) == 2
        with pytest.raises(Exception, match="append-only"), database.write() as connection:
            connection.execute(text("DELETE FROM ledger"))
        assert Ledger(database).check() == []
        store = Store(database, server_id="new")
        assert [record.id for record in store.recover()] == ["r"]
        assert store.begin("r")


_OLD_ROWS = (
    "INSERT INTO keys (id, name, secret_sha256, scopes, created_at, balance_micro)"
    " VALUES ('k', 'n', 's', '[]', 1.0, 90)",
    "INSERT INTO ledger (key_id, request_id, kind, amount_micro, note, created_at)"
    " VALUES ('k', NULL, 'add', 100, '', 1.0), ('k', 'r', 'reserve', -10, '', 1.0)",
    "INSERT INTO requests (id, key_id, mode, state, fields, seeds, cost_micro, attempts, created_at, outputs,"
    " idempotency_sha256, body_digest, expired, has_pictures) VALUES ('r', 'k', 'v2', 'PROCESSING',"
    """ '{"prompt": "é"}', '[7]', 10, 0, 1.0, '[]', 'i', 'd', false, true)""",
)


def at_revision(database: Database, revision: str) -> None:
    """Build the tables as an earlier version left them."""
    config = Config()
    config.set_main_option("script_location", "server.storage:migrations")
    with database._startup_lock(), database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
