"""Fixtures: servers under test, and a host of pictures.

A test module asks for these with ``pytest_plugins = ["tests.support.served_fixtures"]``.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from server.engines.client import EngineClient
from tests.support.http_server import serving
from tests.support.served import FakeEngine, PictureHost, Serve, Served, eventually, handler, server_for


@pytest.fixture(scope="session")
def plain_logs() -> Iterator[None]:
    """Lines of JSON for pytest to capture; structlog's own default formats every local variable."""
    chain: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(processors=chain, logger_factory=structlog.stdlib.LoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def picture_host(plain_logs: None) -> Iterator[PictureHost]:
    """Pictures by URL."""
    host = PictureHost()
    with serving(handler(host)) as host.port:
        host.url = f"http://127.0.0.1:{host.port}"
        yield host


@pytest.fixture
def serve(tmp_path: Path, picture_host: PictureHost) -> Iterator[Serve]:
    """Settings → a running server, stopped after the test; on the same data folder unless told otherwise."""
    with ExitStack() as servers:

        def start(engine: EngineClient | None = None, **settings: Any) -> Served:
            data = settings.pop("data", tmp_path / "data")
            return servers.enter_context(server_for(data, picture_host, engine, **settings))

        yield start


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """One open server for all tests of a module that leave nothing behind in it."""
    with server_for(tmp_path_factory.mktemp("data"), picture_host) as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    """The module's server, its engine as new.

    What an earlier test did not wait for is painted first: else this test's engine gets its requests.
    """
    engine = shared.engine
    assert isinstance(engine, FakeEngine)
    engine.held = False
    engine.failures.clear()
    shared.do(engine.door.set)

    def is_idle() -> bool:
        for ticket in [ticket for ticket in engine.tickets if not ticket.finished]:
            shared.do(engine.paint, ticket)
        return not shared.running.queue._live

    eventually(is_idle)
    engine.requests.clear()
    engine.tickets.clear()
    while not engine.submitted.empty():
        engine.submitted.get()
    return shared


@pytest.fixture
def background() -> Iterator[Callable[..., "Future[Any]"]]:
    """Call something in a thread; the test waits for its end."""
    with ThreadPoolExecutor(16) as pool:
        yield pool.submit
