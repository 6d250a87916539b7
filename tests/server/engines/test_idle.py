"""Idle workers are unloaded, which frees their GPU; callers notice only that the next request waits.

All tests but the last run real processes with a stub engine (``tests/support/stub_worker.py``).
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
from server.settings import read_settings
from tests.support.paths import STUB_WORKER

pytest_plugins = ["tests.support.served_fixtures"]
Make = Callable[..., InpaintRequest]
STUB = (str(STUB_WORKER),)
WAIT_S = 120  # for a slow, busy machine
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
async def unloading_pool(model: Path, **settings: Any) -> AsyncIterator[Pool]:
    """Run a pool of stubs that are unloaded after ``IDLE_S``; their model is the file of their calls."""
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
    """Other programs on the same GPU get its memory; the next request waits for the load."""

    async def main() -> None:
        async with unloading_pool(model) as pool:
            (first,) = pool.pids()
            await unloaded(pool)
            assert not Path(f"/proc/{first}").exists(), "only the end of the process frees all memory"
            for seed in (7, 8):  # it can be unloaded repeatedly
                health = pool.health()
                assert health.ready, "a load balancer must not drop an unloaded server"
                assert health.native_size == 1024
                result = await (await pool.submit(request_for(seed=seed))).result()
                assert result.seeds == [seed]
                (now,) = pool.pids()
                assert now != first
                await unloaded(pool)
            health = pool.health()
            assert (health.restarts, health.images) == (0, 2), (
                "an unload is no crash, and pictures stay counted"
            )

    run(main())


def test_a_worker_with_work_is_not_unloaded(model: Path, request_for: Make) -> None:
    """Nor while a request waits, even if one picture takes minutes."""

    async def main() -> None:
        async with unloading_pool(model) as pool:
            (pid,) = pool.pids()
            tickets = [
                await pool.submit(request_for(prompt="slow", num_inference_steps=12)) for _ in range(2)
            ]
            for ticket in tickets:  # 0.6 s each, one after the other
                await ticket.result()
                assert pool.pids() == [pid]

    run(main())


@pytest.mark.slow
def test_only_the_needed_workers_are_loaded_again(model: Path, request_for: Make) -> None:
    """One picture must not load a model on every GPU; three simultaneous ones may."""

    async def main() -> None:
        async with unloading_pool(model, workers=3) as pool:
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


@pytest.mark.slow
def test_a_request_during_an_unload_is_painted(model: Path, request_for: Make) -> None:
    """It arrives while the process is ending."""

    async def main() -> None:
        async with unloading_pool(model, idle_unload_s=0.02) as pool:
            for seed in range(12):
                await asyncio.sleep(0.002 * seed)
                assert (await (await pool.submit(request_for(seed=seed))).result()).seeds == [seed]

    run(main())


def test_no_request_is_refused_because_of_a_load(model: Path, request_for: Make) -> None:
    """``max_slowdown`` times a picture's second is shorter than any load, so it does not count meanwhile."""

    async def main() -> None:
        async with unloading_pool(model) as pool:
            await unloaded(pool)
            ticket = await pool.submit(request_for(), Terms("", 60.0, 4.0))
            await ticket.result()

    run(main())


def test_a_worker_that_cannot_be_loaded_again_is_reported(model: Path, request_for: Make) -> None:
    """Another program took the GPU meanwhile: the pool is not ready, and paints when it can load again."""

    async def main() -> None:
        async with unloading_pool(model) as pool:
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


def test_an_unloaded_pool_closes(model: Path) -> None:
    """There is no worker to wait for."""

    async def main() -> None:
        async with unloading_pool(model) as pool:
            await unloaded(pool)
        assert not pool.health().ready

    run(main())


def test_by_default_it_stays_loaded(model: Path) -> None:
    """A server is there to answer quickly."""

    async def main() -> None:
        async with unloading_pool(model, idle_unload_s=float("inf"), hang_s=1.0) as pool:
            (pid,) = pool.pids()
            await asyncio.sleep(0.5)  # the supervisor checks eight times a second
            assert pool.pids() == [pid]

    run(main())


def test_the_setting_needs_a_worker_process() -> None:
    """In the server's own process the memory would not be freed, so the setting is refused."""
    assert read_settings({"idle_unload_s": 600}).idle_unload_s == 600
    with pytest.raises(Exception, match="workers 0"):
        read_settings({"idle_unload_s": 600, "workers": 0})
    with pytest.raises(Exception, match="greater than 0"):
        read_settings({"idle_unload_s": 0})
