"""Fixtures: servers of the page, and the page open on one of them.

A test module asks for these with ``pytest_plugins``, together with ``tests.support.browser`` and
``tests.support.served_fixtures``. The server of ``real`` paints with the demo model; that of ``fake`` has an
engine that the test moves step by step.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from tests.support.browser_session import Visit
from tests.support.page_driver import Desk, photo
from tests.support.served import FakeEngine, PictureHost, Served, file_of, server_for


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """A server with the demo model, which paints 128 px in a second."""
    engine = InProcessClient(WorkerSpec("demo", device="cpu"))
    with server_for(tmp_path_factory.mktemp("real"), picture_host, engine) as served:
        yield served


@pytest.fixture
def fake(served: Served) -> Iterator[Served]:
    """The module's server, whose engine fills the mask with the seed's colour, when the test says so.

    A test that changes more of a server than its engine asks for ``own``.
    """
    yield served
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    engine.failures.clear()
    served.do(engine.door.set)
    for ticket in [ticket for ticket in engine.tickets if not ticket.finished]:
        served.do(engine.paint, ticket)  # a test that failed leaves no queue to the next one
    assert not served.unseen


@pytest.fixture
def own(tmp_path: Path, picture_host: PictureHost) -> Iterator[Served]:
    """A server like that of ``fake``, for one test."""
    with server_for(tmp_path, picture_host, FakeEngine()) as served:
        yield served


@pytest.fixture
def desk(fake: Served, visit: Visit) -> Desk:
    """The page on the fake engine, with a picture open."""
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    return desk
