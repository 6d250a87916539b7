"""Faults of a worker as the callers of a whole server see them; ``test_pool.py`` has the rest.

Each fault hits the requests with a word in their prompt, on any worker.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.server_process import (
    ServerProcess,
    accounts,
    body,
    callers,
    eventually,
    gone,
    opened,
    program,
)

PAINT = "/v1/sdxl-inpaint"
STUB_FAULTS = "exit@5:prompt=exits,sigkill@5:prompt=dies,hang@5:prompt=hangs"
REAL_FAULTS = "oom@1+:prompt=huge,nan@1+:prompt=blank,assert@2:prompt=asserts"


@dataclass(frozen=True)
class Metered:
    """A server with a key that has credits."""

    server: ServerProcess
    data: Path
    key_id: str
    token: str

    def refunds(self) -> int:
        """Return the number of refunds so far, and check that the ledger is consistent."""
        with accounts(self.data) as books:
            assert books.ledger.check() == []
            return sum(entry.kind == "refund" for entry in books.ledger.entries(self.key_id))

    def running(self, count: int) -> None:
        eventually(lambda: self.server.gauge("inpaint_running", self.token) == count)


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[int], Path]
) -> Iterator[dict[str, Metered]]:
    """Start a server with a stub engine, for deaths of the process, and one with a real engine, for torch."""
    started = {}
    with ExitStack() as stack:
        for name, faults in (("stub", STUB_FAULTS), ("real", REAL_FAULTS)):
            data = tmp_path_factory.mktemp(name)
            with accounts(data) as books:
                key_id, token = books.key(1.0)
            command = program(data, stub=name == "stub", faults=faults, model=str(checkpoint(9)))
            hang_s = 2 if name == "stub" else 100  # torch's first steps take a while on a busy machine
            server = stack.enter_context(ServerProcess(command, metering=True, price=0.01, hang_s=hang_s))
            started[name] = Metered(server, data, key_id, token)
        for metered in started.values():
            metered.server.client.headers["x-api-key"] = metered.token
            metered.server.wait_ready()
        yield started


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "poison"),
    [
        ("stub", "exits"),
        pytest.param("stub", "dies", marks=pytest.mark.gate),
        ("stub", "hangs"),
        ("real", "asserts"),
    ],
)
def test_poison_fails_alone_and_the_server_comes_back(
    servers: dict[str, Metered], kind: str, poison: str
) -> None:
    """Its neighbours get their pictures, it gets a 500 and its credits back, and readiness shows it."""
    metered = servers[kind]
    server, before, workers = metered.server, metered.refunds(), metered.server.workers()
    restarts = server.gauge("inpaint_restarts_total", metered.token)
    with callers() as call:
        good = [call(server.client.post, PAINT, json=body(num_inference_steps=100)) for _ in range(2)]
        metered.running(2)
        bad = call(server.client.post, PAINT, json=body(prompt=poison))
        eventually(lambda: not server.ready())
        assert [opened(answer.result().content).format for answer in good] == ["JPEG", "JPEG"]
        assert bad.result().status_code == 500
        assert "each of the 2 times" in bad.result().json()["error"]
    eventually(server.ready)
    assert metered.refunds() == before + 1
    assert server.gauge("inpaint_restarts_total", metered.token) == restarts + 2
    assert all(map(gone, workers))
    eventually(lambda: len(server.workers()) == 1)
    assert server.client.post(PAINT, json=body()).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(("poison", "status", "word"), [("huge", 503, "memory"), ("blank", 500, "request")])
def test_a_fault_that_spares_the_process_costs_no_worker(
    servers: dict[str, Metered], poison: str, status: int, word: str
) -> None:
    """Out of memory and NaN: no black picture but a refund, and a neighbour gets its picture."""
    metered = servers["real"]
    server, before = metered.server, metered.refunds()
    restarts = server.gauge("inpaint_restarts_total", metered.token)
    with callers() as call:
        good = call(server.client.post, PAINT, json=body(num_inference_steps=100))
        metered.running(1)
        bad = server.client.post(PAINT, json=body(prompt=poison))
        assert (bad.status_code, "retry-after" in bad.headers) == (status, status == 503)
        assert word in bad.json()["error"]
        assert opened(good.result().content).format == "JPEG"
    assert server.ready()
    assert metered.refunds() == before + 1
    assert server.gauge("inpaint_restarts_total", metered.token) == restarts
