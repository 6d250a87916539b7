"""Fixtures: several servers of one database, and a line to a database.

A test module asks for these with ``pytest_plugins = ["tests.postgres", "tests.served_fixtures",
"tests.fleet_fixtures"]``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fleet import Fleet, Line
from tests.served import Serve

NewUrl = Callable[[], str]


@pytest.fixture
def fleet(serve: Serve, postgres: NewUrl, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(serve, postgres(), tmp_path)
    yield fleet
    fleet.database.close()


@pytest.fixture
def line(postgres: NewUrl) -> Iterator[Line]:
    line = Line(postgres())
    yield line
    line.close()
