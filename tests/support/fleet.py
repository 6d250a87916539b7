"""Servers under test that share one Postgres and one folder of pictures, and a line to it that can be cut.

The fixtures are in ``tests.support.fleet_fixtures``.
"""

import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select

from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import MICRO, Ledger
from server.storage.requests import Record, Store
from server.storage.tables import requests, servers
from tests.support.served import FakeEngine, Serve, Served

PRICED = {"metering": True, "price": 1.0}


class Fleet:
    """Any number of servers, each with a data folder of its own."""

    def __init__(self, serve: Serve, url: str, folder: Path) -> None:
        self._serve, self._folder = serve, folder
        self.shared = {"database_url": url, "blobs_url": (folder / "pictures").as_uri()}
        self.database = Database(url)
        self.database.migrate()
        self.ledger = Ledger(self.database)
        self.key, self.token = self.new_key(100.0)

    def new_key(self, balance: float = 0.0) -> tuple[str, str]:
        """Its id and its token."""
        key, token = Keys(self.database).create("test")
        if balance:
            self.ledger.add(key.id, round(balance * MICRO))
        return key.id, token

    def start(self, name: str, engine: FakeEngine | None = None, **settings: Any) -> Served:
        """One more server."""
        plain = {"lease_s": 60.0, "rate": "100000/minute", **PRICED, **self.shared}  # no server dies
        return self._serve(engine, data=self._folder / name, **(plain | settings))

    def records(self) -> dict[str, Record]:
        """Every request."""
        with self.database.read() as connection:
            rows = connection.execute(select(requests.c.id, requests.c.key_id)).all()
        return {row.id: Store(self.database).get(row.id, row.key_id) for row in rows}

    def beats(self) -> dict[str, int]:
        """The last heartbeat of each server."""
        with self.database.read() as connection:
            return {row.id: row.beats for row in connection.execute(select(servers))}

    def kinds(self, request_id: str) -> list[str]:
        """What the ledger has of a request."""
        entries = self.ledger.entries(self.records()[request_id].key_id)
        return [entry.kind for entry in entries if entry.request_id == request_id]


class Line:
    """The way to a Postgres, which can be cut. Its ``url`` leads through it."""

    def __init__(self, url: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="line-"))  # short: the path of a socket has its limits
        name, _, real = url.partition("?host=")
        self.url = f"{name}?host={self._folder}"
        self.real = real
        self._ours, self._real = str(self._folder / ".s.PGSQL.5432"), f"{real}/.s.PGSQL.5432"
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.cut_at_commit = False  # the next COMMIT is carried out, and its answer never comes
        self._committing = False
        self.mend()

    def mend(self) -> None:
        """Let connections through."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._ours)
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            Path(self._ours).unlink()
        self.drop()

    def drop(self) -> None:
        """End every connection."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        shutil.rmtree(self._folder)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(self._real)
                self._open |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._committing:  # this is the answer
                    self.cut_at_commit = self._committing = False
                    self.cut()
                    break
                self._committing = self.cut_at_commit and b"COMMIT" in data
                sink.sendall(data)
        for end in (source, sink):  # the other direction's thread ends with it
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()
