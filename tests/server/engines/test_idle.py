"""A worker that nobody needs gives its GPU back, and nobody notices but by a wait.

Real processes with a stub engine (``tests/support/stub_worker.py``) but for the last test.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from inpaint import InpaintRequest
from inpaint.errors import BusyError
from server.engines.client import Terms
from server.engines.pool import Pool
from server.engines.worker import WorkerSpec
from server.engines.worker_slot import Restarts
from server.start import read_settings
from tests.support.paths import STUB_WORKER

pytest_plugins = ["tests.support.served_fixtures"]
Make = Callable[..., InpaintRequest]
STUB = (str(STUB_WORKER),)
WAIT_S = 120  # for the slowest, busiest machine
IDLE_S = 0.2


def run(work: Awaitable[None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(WAIT_S):
            await work

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def napping(model: Path, **settings: Any) -> AsyncIterator[Pool]:
    """A pool of stubs that sleeps soon; the model is a file, to which stubs write who shared their calls."""
    model.touch()
    restarts = Restarts(first_s=0.05, longest_s=0.1)
    spec = WorkerSpec(model=str(model), max_rows=1)
    pool = Pool(spec, program=STUB, **{"idle_unload_s": IDLE_S, "restarts": restarts, **settings})
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close(0)


async def unloaded(pool: Pool) -> None:
    await until(lambda: not pool.pids())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def test_an_idle_worker_ends_and_the_next_request_starts_it(model: Path, request_for: Make) -> None:
    """Whoever plays or trains on the same GPU gets its memory; whoever paints again waits for the load."""

    async def main() -> None:
        async with napping(model) as pool:
            (first,) = pool.pids()
            await unloaded(pool)
            assert not Path(f"/proc/{first}").exists(), "memory is given back by the end of its process alone"
            for seed in (7, 8):  # it can sleep again and again
                health = pool.health()
                assert health.ready, "a load balancer must not take a sleeping server out"
                assert health.native_size == 1024
                result = await (await pool.submit(request_for(seed=seed))).result()
                assert result.seeds == [seed]
                (now,) = pool.pids()
                assert now != first
                await unloaded(pool)
            health = pool.health()
            assert (health.restarts, health.images) == (0, 2), "a nap is no crash, and what was done counts"

    run(main())


def test_who_works_or_is_waited_for_does_not_sleep(model: Path, request_for: Make) -> None:
    """A picture of minutes is no idleness."""

    async def main() -> None:
        async with napping(model) as pool:
            (pid,) = pool.pids()
            tickets = [
                await pool.submit(request_for(prompt="slow", num_inference_steps=12)) for _ in range(2)
            ]
            for ticket in tickets:  # 0.6 s each, one after the other
                await ticket.result()
                assert pool.pids() == [pid]

    run(main())


def test_as_many_wake_as_are_needed(model: Path, request_for: Make) -> None:
    """One picture must not load a model on every GPU; three at once may."""

    async def main() -> None:
        async with napping(model, workers=3) as pool:
            await until(lambda: len(pool.pids()) == 3)
            await unloaded(pool)
            await (await pool.submit(request_for(num_inference_steps=30))).result()
            assert len(pool.pids()) == 1
            await unloaded(pool)
            tickets = [
                await pool.submit(request_for(prompt="slow", num_inference_steps=30)) for _ in range(3)
            ]
            await until(lambda: len(pool.pids()) == 3)
            for ticket in tickets:
                await ticket.result()

    run(main())


def test_a_request_at_the_very_moment_is_painted(model: Path, request_for: Make) -> None:
    """It arrives while the process is on its way out."""

    async def main() -> None:
        async with napping(model, idle_unload_s=0.02) as pool:
            for seed in range(12):
                await asyncio.sleep(0.002 * seed)
                assert (await (await pool.submit(request_for(seed=seed))).result()).seeds == [seed]

    run(main())


def test_nobody_is_refused_for_the_loading(model: Path, request_for: Make) -> None:
    """``max_slowdown`` times a picture of a second is shorter than any load; it begins after it."""

    async def main() -> None:
        async with napping(model) as pool:
            await unloaded(pool)
            ticket = await pool.submit(request_for(), Terms("", 60.0, 4.0))
            await ticket.result()

    run(main())


def test_a_worker_that_cannot_be_loaded_again_is_said(model: Path, request_for: Make) -> None:
    """Another program took the GPU meanwhile: readiness tells, and it paints when it can again."""

    async def main() -> None:
        async with napping(model) as pool:
            await unloaded(pool)
            model.rename(model.with_suffix(".gone"))
            ticket = await pool.submit(request_for(seed=3))
            await until(lambda: not pool.health().ready)
            assert "there is no model" in pool.health().reason
            with pytest.raises(BusyError, match="there is no model"):
                await pool.submit(request_for())
            model.with_suffix(".gone").rename(model)
            assert (await ticket.result()).seeds == [3]
            assert pool.health().ready

    run(main())


def test_a_sleeping_pool_closes_at_once(model: Path) -> None:
    """SIGTERM at night."""

    async def main() -> None:
        async with napping(model) as pool:
            await unloaded(pool)
        assert not pool.health().ready

    run(main())


def test_it_stays_loaded_unless_told_otherwise(model: Path) -> None:
    """The default: a server is there to answer quickly."""

    async def main() -> None:
        async with napping(model, idle_unload_s=float("inf"), hang_s=1.0) as pool:
            (pid,) = pool.pids()
            await asyncio.sleep(0.5)  # the watch looks eight times a second
            assert pool.pids() == [pid]

    run(main())


def test_the_setting_needs_a_worker_process() -> None:
    """In the server's own process memory would not come back, so it is refused in one sentence."""
    assert read_settings({"idle_unload_s": 600}).idle_unload_s == 600
    with pytest.raises(Exception, match="workers 0"):
        read_settings({"idle_unload_s": 600, "workers": 0})
    with pytest.raises(Exception, match="greater than 0"):
        read_settings({"idle_unload_s": 0})
