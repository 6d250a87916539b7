"""Two server processes with one database: one is killed, or is suspended for longer than its lease."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Row, select

from server.storage.database import Database
from server.storage.tables import requests, servers
from tests.support.server_process import Accounts, ServerProcess, body, callers, eventually, opened, program

pytest_plugins = ["tests.support.postgres"]

LEASE_S = 3.0
SETTINGS = {"metering": True, "price": 0.01, "max_rows": 2, "rate": "100000/minute", "lease_s": LEASE_S}
LONG = {"prompt": "slow", "num_inference_steps": 100}  # 5 seconds
V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"


class Books(Accounts):
    """The keys, credits, requests and servers in the database."""

    def rows(self, mode: str = "v2") -> dict[str, Row[*tuple[Any, ...]]]:
        with self.database.read() as connection:
            found = connection.execute(select(requests).where(requests.c.mode == mode))
            return {row.id: row for row in found}

    def states(self, ids: list[str]) -> list[str]:
        rows = self.rows()
        return [rows[name].state for name in ids]

    def v1_state(self) -> tuple[str, int | None]:
        """Return the state and the error's status of the one v1 request."""
        (row,) = self.rows("v1").values()
        return row.state, row.error_status

    def kinds(self, request_id: str) -> list[str]:
        key_id = self.rows()[request_id].key_id
        return [entry.kind for entry in self.ledger.entries(key_id) if entry.request_id == request_id]

    def servers(self) -> set[str]:
        with self.database.read() as connection:
            return set(connection.scalars(select(servers.c.id)))


@pytest.fixture
def books(postgres: Callable[[], str]) -> Iterator[Books]:
    with Database(postgres()) as database:
        database.migrate()
        yield Books(database)


@pytest.fixture
def start(books: Books, tmp_path: Path) -> Iterator[Callable[[str], ServerProcess]]:
    """Return a function that starts a server process with its own data folder; the rest is shared."""
    with ExitStack() as processes:

        def start(name: str) -> ServerProcess:
            url = books.database.engine.url.render_as_string(hide_password=False)
            shared = {"database_url": url, "blobs_url": (tmp_path / "pictures").as_uri()}
            process = ServerProcess(program(tmp_path / name), **SETTINGS, **shared)
            return processes.enter_context(process).wait_ready()

        yield start


def send(server: ServerProcess, token: str, path: str = V2, **fields: object) -> httpx2.Response:
    headers = {"x-api-key": token}
    return server.client.post(path, json=body(**fields), headers=headers)


def calls(data: Path) -> int:
    """Return the number of UNet calls of a server's engine."""
    return len((data / "calls").read_text().splitlines())


def picture(server: ServerProcess, token: str, request_id: str) -> bytes:
    found = server.client.get(f"/v2/requests/{request_id}/images/0", headers={"x-api-key": token})
    assert found.status_code == 200
    return opened(found.content).tobytes()


@pytest.mark.slow
@pytest.mark.gate
def test_the_requests_of_a_killed_server_are_painted_by_another(
    start: Callable[[str], ServerProcess], books: Books, tmp_path: Path
) -> None:
    """After a lease, v2 requests are painted from their own seeds and charged once; v1 is refunded."""
    _, token = books.key(10.0)
    one = start("a")
    alone = books.servers()
    other = start("b")
    (name,) = books.servers() - alone
    before = [send(one, token, seed=seed).json()["request_id"] for seed in (7, 8)]
    eventually(lambda: books.states(before) == ["COMPLETED"] * 2)
    with callers(1) as call:
        v1 = call(send, one, token, V1, **LONG)
        ids = [send(one, token, seed=seed, **LONG).json()["request_id"] for seed in (7, 8)]
        eventually(lambda: "PROCESSING" in books.states(ids) and books.rows("v1"))
        one.kill()
        killed = time.monotonic()
        assert isinstance(v1.exception(), httpx2.TransportError)
    assert set(books.states(ids)) <= {"QUEUED", "PROCESSING"}
    eventually(lambda: {books.rows()[n].server_id for n in ids} == {name})
    assert time.monotonic() - killed > LEASE_S / 2
    assert books.v1_state() == ("FAILED", 503)
    eventually(lambda: books.states(ids) == ["COMPLETED"] * 2)
    for again, first in zip(ids, before, strict=True):
        assert picture(other, token, again) == picture(other, token, first)
        assert books.kinds(again) == ["reserve", "settle"]
    assert calls(tmp_path / "b") > 50
    assert books.servers() == {name}
    assert books.ledger.check() == []


def taken_up(row: Row[*tuple[Any, ...]], server: str) -> bool:
    return (row.server_id, row.state) == (server, "PROCESSING")


@pytest.mark.slow
def test_a_server_that_was_only_slow_changes_nothing_afterwards(
    start: Callable[[str], ServerProcess], books: Books, tmp_path: Path
) -> None:
    """A host that was suspended has lost its requests: they end once, and it goes on with new ones."""
    _, token = books.key(10.0)
    one = start("a")
    alone = books.servers()
    other = start("b")
    (name,) = books.servers() - alone
    with callers(1) as call:
        v1 = call(send, one, token, V1, **LONG)
        request_id = send(one, token, **LONG).json()["request_id"]
        eventually(lambda: books.states([request_id]) == ["PROCESSING"] and books.rows("v1"))
        os.killpg(one.pid, signal.SIGSTOP)
        try:
            eventually(lambda: taken_up(books.rows()[request_id], name))
        finally:
            os.killpg(one.pid, signal.SIGCONT)  # with less left to paint than the other
        answer = v1.result()  # refunded in either case
    eventually(lambda: books.states([request_id]) == ["COMPLETED"])
    painted = books.rows()[request_id]
    assert painted.server_id == name
    _, key = books.key()
    assert [s.gauge("inpaint_images_total", key) for s in (one, other)] == [0, 1]
    eventually(lambda: len(books.servers()) == 2)
    done = calls(tmp_path / "a")
    next_one = send(one, token).json()["request_id"]
    eventually(lambda: books.states([next_one]) == ["COMPLETED"])
    assert calls(tmp_path / "a") > done, "it paints again"
    assert books.rows()[request_id] == painted
    assert answer.status_code in (200, 503)
    assert books.v1_state() == ("FAILED", 503)
    assert books.kinds(request_id) == ["reserve", "settle"]
    assert books.ledger.check() == []
    assert "bug" not in one.said
