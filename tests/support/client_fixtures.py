"""Fixtures: a server with the demo model and a key, and what each client showed against it.

A test module asks for these with ``pytest_plugins = ["tests.support.client_fixtures"]``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import CLIENTS, Painter, Show, Shown, run, write_pictures
from tests.support.server_process import ServerProcess, accounts, program


@pytest.fixture(scope="session")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pictures that the clients send."""
    folder = tmp_path_factory.mktemp("sent")
    write_pictures(folder)
    return folder


@pytest.fixture(scope="session")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    """Serve the demo model with metering, in one process for all clients; it fails for the prompt "blank"."""
    data = tmp_path_factory.mktemp("painter")
    with accounts(data) as books:
        key, poor_key = books.key(1000)[1], books.key()[1]
    start = program(data, stub=False, faults="nan@1+:prompt=blank", model="demo")
    with ServerProcess(start, metering=True, price=0.001) as server:
        server.wait_ready()
        yield Painter(f"http://127.0.0.1:{server.port}", key, poor_key)


@pytest.fixture(scope="session")
def show(request: pytest.FixtureRequest, sent: Path, tmp_path_factory: pytest.TempPathFactory) -> Show:
    """Run a client's cases, once, and return what it showed."""
    shown: dict[str, Shown] = {}

    def of(name: str) -> Shown:
        if name not in shown:
            command = CLIENTS[name].command()  # or the test is skipped, before a server is started for it
            painter = request.getfixturevalue("painter")
            shown[name] = run(command, painter, sent, tmp_path_factory.mktemp("shown"))
        return shown[name]

    return of
