"""Fixtures: a server with keys and prices that is attacked, and the check that it took no harm.

A test module asks for these with ``pytest_plugins = ["tests.support.attacked_fixtures"]``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from server.storage import tables
from tests.support.hostile_urls import answer as resolver
from tests.support.loopback import Canary, Switchboard, fetcher, public
from tests.support.served import FakeEngine, PictureHost, Served, eventually, server_for

pytest_plugins = ["tests.support.served_fixtures"]

BALANCE = 5.0
MAX_GROWTH_MB = 100
MAX_BODY_BYTES = 30_000_000


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    """Yield the listener that every address leads to."""
    canary = Canary()
    yield canary
    canary.close()


@pytest.fixture(scope="module")
def network(canary: Canary) -> Switchboard:
    """Return a network whose addresses all lead to the canary."""
    return Switchboard(canary.port)


@pytest.fixture(scope="module")
def metered(
    tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost, network: Switchboard, canary: Canary
) -> Iterator[Served]:
    """Serve with keys and prices; fetching may use the canary's port, so only the addresses are judged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.app.Fetcher", lambda rules: fetcher(public(canary.port), network, resolver))
        data = tmp_path_factory.mktemp("metered")
        served = server_for(data, picture_host, metering=True, price=0.01, max_body_bytes=MAX_BODY_BYTES)
    with served:
        yield served


@pytest.fixture(scope="module")
def caller(metered: Served) -> Iterator[httpx2.Client]:
    """Yield a client that has a key and credits."""
    with metered.calling(key=metered.key(balance=BALANCE)) as client:
        yield client


@pytest.fixture
def unharmed(
    metered: Served, caller: httpx2.Client, network: Switchboard, canary: Canary
) -> Iterator[Callable[..., Any]]:
    """Check that nothing has changed when the test ends; yield the same check for a block."""
    engine = metered.engine
    assert isinstance(engine, FakeEngine)

    def records() -> int:
        with metered.parts.store._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(tables.requests)).scalar_one())

    def left() -> float:
        return float(caller.get("/v1/get-user-credits").json()["credits"])

    @contextmanager
    def block() -> Iterator[None]:
        before, painted, rss_mb = (records(), left()), len(engine.requests), _rss_mb()
        _forget_peak()
        network.dialled.clear()
        yield
        growth_mb = _peak_mb() - rss_mb
        eventually(lambda: _holds_nothing(metered))
        assert (records(), left()) == before
        assert len(engine.requests) == painted
        assert network.dialled == []
        assert canary.received() == []
        assert growth_mb < MAX_GROWTH_MB

    # What earlier tests queued reaches the engine and is settled before anything is counted.
    eventually(lambda: not metered.running.queue._live)
    with block():
        yield block


def _holds_nothing(served: Served) -> bool:
    """Return whether no request has a place, pixels or one of its key's slots any more."""
    service, limiter = served.running.service, served.parts.limiter
    return not (service._under_way or service.preparation.pixels.held or limiter._in_flight)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(name)), 0)


def _rss_mb() -> int:
    return _status("VmRSS")


def _peak_mb() -> int:
    return _status("VmHWM")


def _forget_peak() -> None:
    """Reset the peak in /proc; where that is impossible, the peak so far counts, and is too high."""
    Path("/proc/self/clear_refs").write_text("5")
