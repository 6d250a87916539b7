"""The database: SQLite next to the pictures by default, Postgres by URL. Transactions and migrations only.

SQLite runs in WAL mode, so that readers never wait, and every transaction that will write starts with
``BEGIN IMMEDIATE``: one that starts as a reader and then writes fails immediately if another wrote first.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, delete, event, func, insert, make_url, select
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from inpaint.errors import BusyError, OutputError, RequestError
from server.storage.tables import servers

_BUSY_TIMEOUT_S = 30  # enough for 16 writers that each wait for the disk; painting takes longer anyway
_CONNECTIONS = 16
_RETRY_AFTER_S = 5.0
_PROBE = "probe"  # an id that no server has: theirs are hexadecimal
_MIGRATION_LOCK = 7_011_889_514  # an advisory lock of Postgres: any number, the same in every server
_POSTGRES = "postgresql+psycopg"
# What SQLite says when another try may succeed, and when its file cannot be written for now: the disk is
# full, broken or read-only, or the file is gone.
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNWRITABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# A host that disappears is noticed within half a minute; with Linux's defaults it takes a quarter of an hour.
_CONNECTION_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


class Database:
    """The server's database. Every method may be called from any thread."""

    def __init__(self, url: str) -> None:
        """Check the URL, and connect to nothing yet.

        Raises:
            RequestError: the URL names no database that the server can use, or its driver is not installed.
        """
        self._url = _check_url(url)
        self.engine = _engine(self._url)
        self.writable = True  # False from a write that failed for want of space until one that succeeds
        self._writer = self.engine
        if self.file is not None:
            self._writer = self.engine.execution_options(begin="BEGIN IMMEDIATE")
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database; None for Postgres."""
        return Path(self._url.database or "") if self._url.drivername == "sqlite" else None

    @property
    def shared(self) -> bool:
        """True if several servers may use this database at the same time."""
        return self.file is None

    def read(self) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads.

        Raises:
            BusyError: the database is unreachable.
            OutputError: the database is damaged.
        """
        return self._transaction(self.engine)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes; it is rolled back if the block raises.

        Raises:
            BusyError: the database is unreachable, its disk is full, or it was locked for over 30 seconds.
            OutputError: the database is damaged.
        """
        with self._transaction(self._writer) as connection:
            yield connection
        self.writable = True

    def check_writable(self) -> None:
        """Write something if the last write found the disk full, so that ``writable`` is true again soon.

        Raises:
            BusyError: it still cannot be written.
        """
        if not self.writable:
            with self.write() as connection:  # the row is never there: a write that changes nothing
                connection.execute(insert(servers).values(id=_PROBE, beats=0))
                connection.execute(delete(servers).where(servers.c.id == _PROBE))

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except (DatabaseError, PoolTimeoutError) as error:
            code = _sqlite_code(error)
            if code in _DAMAGED:
                raise OutputError(
                    f"the database {self.file} is damaged, or is no database; put its backup in its place, "
                    "or move it away to begin with an empty one"
                ) from error
            if code in _UNWRITABLE:
                self.writable = False
                problem = "The server's disk is full or cannot be written; try again."
                raise BusyError(problem, _RETRY_AFTER_S) from error
            if code not in _LOCKED and not _is_unreachable(error):
                raise
            raise BusyError("The server's database does not answer; try again.", _RETRY_AFTER_S) from error

    def migrate(self) -> None:
        """Bring the tables up to date; several servers may do so at the same time.

        Raises:
            OutputError: the folder of the SQLite file cannot be created.
            RequestError: a newer version of the server wrote this database.
            BusyError: the database is unreachable.
        """
        config = Config()
        config.set_main_option("script_location", "server.storage:migrations")
        with self._startup_lock(), self.write() as connection:
            if self.file is None:
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                problem = "a newer version of inpaint wrote this database; install that version"
                raise RequestError("INPAINT_DATABASE_URL", problem) from error

    @contextmanager
    def try_lock(self, lock_id: int) -> Iterator[bool]:
        """Try to take an advisory lock for the length of the block; yield whether this server has it.

        The database releases the lock of a server that dies.

        Args:
            lock_id: any number, the same in every server.
        """
        if not self.shared:
            yield True
            return
        with self._transaction(self.engine.execution_options(isolation_level="AUTOCOMMIT")) as connection:
            won = bool(connection.scalar(select(func.pg_try_advisory_lock(lock_id))))
            try:
                yield won
            finally:
                if won:
                    connection.execute(select(func.pg_advisory_unlock(lock_id)))

    def _startup_lock(self) -> AbstractContextManager[object]:
        """Lock a SQLite file for its first connection: the switch to WAL waits for no other process."""
        file = self.file
        if file is None:
            return nullcontext()
        if file.is_dir():
            raise OutputError(f"the database {file} is a folder; move it away")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return FileLock(f"{file}.lock").acquire(_BUSY_TIMEOUT_S)
        except OSError as error:
            problem = f"data: the folder {file.parent} cannot be used: {error.strerror or error}"
            raise OutputError(problem) from error

    def close(self) -> None:
        """Close every connection; the database may be used again afterwards."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_url(text: str) -> URL:
    right = f"must be sqlite:///path/to/file or {_POSTGRES}://user:password@host/name"
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise RequestError("INPAINT_DATABASE_URL", right) from error
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    if url.drivername == _POSTGRES:
        return url
    raise RequestError("INPAINT_DATABASE_URL", f"{right}, not {url.render_as_string(hide_password=True)!r}")


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {
        "pool_size": _CONNECTIONS,
        "max_overflow": 0,
        "pool_timeout": _BUSY_TIMEOUT_S,
        "hide_parameters": True,  # an error's text would carry prompts into the log
    }
    if url.drivername == _POSTGRES:
        connect_args = {name: value for name, value in _CONNECTION_OPTIONS.items() if name not in url.query}
        options |= {"pool_pre_ping": True, "connect_args": connect_args}
    try:
        return create_engine(url, **options)
    except ModuleNotFoundError as error:
        problem = "Postgres needs its driver; run: pip install 'sdxl-inpaint[postgres]'"
        raise RequestError("INPAINT_DATABASE_URL", problem) from error


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we issue BEGIN ourselves, see _begin_sqlite
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a power cut must not undo a commit: it is about money
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _sqlite_code(error: Exception) -> int | None:
    """Return SQLite's primary result code; None for an error of Postgres or of the pool."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF if isinstance(cause, sqlite3.Error) else None


def _is_unreachable(error: Exception) -> bool:
    """Return whether Postgres or the pool did not answer; SQLite reports mistakes in our SQL like that."""
    return isinstance(error, OperationalError | PoolTimeoutError) and _sqlite_code(error) is None
