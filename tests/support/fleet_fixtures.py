"""Fixtures: several servers of one database, and a line to a database.

A test module asks for these with ``pytest_plugins = ["tests.support.postgres",
"tests.support.served_fixtures", "tests.support.fleet_fixtures"]``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, Line
from tests.support.served import Serve

NewUrl = Callable[[], str]


@pytest.fixture
def fleet(serve: Serve, postgres: NewUrl, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(serve, postgres(), tmp_path)
    yield fleet
    fleet.database.close()


@pytest.fixture
def lines() -> Iterator[Callable[[str], Line]]:
    """The URL of a database → a line to it."""
    made: list[Line] = []

    def new(url: str) -> Line:
        made.append(Line(url))
        return made[-1]

    yield new
    for line in made:
        line.close()


@pytest.fixture
def line(postgres: NewUrl, lines: Callable[[str], Line]) -> Line:
    """A line to an empty database."""
    return lines(postgres())
