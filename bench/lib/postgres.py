"""A temporary PostgreSQL server from Debian's package, on its own Unix socket or also on an address."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    folder: Path  # of its socket

    def new_database(self, host: str | None = None) -> str:
        """Make an empty database and return its URL, by the socket or by an address of the server."""
        with psycopg.connect(
            host=str(self.folder), user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            name = f"test{time.monotonic_ns()}"
            connection.execute(f"CREATE DATABASE {name}")
        if host is None:
            return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"
        return f"postgresql+psycopg://postgres@{host}/{name}"


def installed() -> Path | None:
    """Return the folder of the newest installed server's programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


@contextmanager
def postgres(
    binaries: Path, *, listen: str = "", lets_in: str = "127.0.0.1/32", prefix: tuple[str, ...] = ()
) -> Iterator[Postgres]:
    """Start a server without any durability, and end it.

    Args:
        binaries: from :func:`installed`.
        listen: an address in addition to the socket.
        lets_in: the network that may connect to it without a password.
        prefix: of its command line, for example to enter a network namespace.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # /tmp: other folders may be closed to its user
    try:
        with_user = _other_user(folder)
        server = _start(binaries, folder, with_user, listen, lets_in, prefix)
        try:
            _wait_until_ready(server, folder)
            yield Postgres(folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # immediately: its data is not kept
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _other_user(folder: Path) -> dict[str, str]:
    """Return another user to run as, if this is root: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    names = {user.pw_name for user in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    shutil.chown(folder, user)
    return {"user": user}


def _start(
    binaries: Path,
    folder: Path,
    with_user: dict[str, str],
    listen: str,
    lets_in: str,
    prefix: tuple[str, ...],
) -> subprocess.Popen[bytes]:
    data = folder / "data"
    make = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run([*make, "--no-sync"], check=True, cwd=folder, capture_output=True, **with_user)
    with (data / "pg_hba.conf").open("a") as file:
        file.write(f"host all all {lets_in} trust\n")
    settings = {
        "listen_addresses": listen,
        "unix_socket_directories": str(folder),
        "max_connections": "200",
        "shared_buffers": "16MB",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    as_user = ["setpriv", f"--reuid={with_user['user']}", "--clear-groups"] if prefix and with_user else []
    options = {} if as_user else with_user  # a namespace is entered by root
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*prefix, *as_user, binaries / "postgres", "-D", data, *flags],
            cwd=folder,
            stdout=log,
            stderr=log,
            **options,
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
