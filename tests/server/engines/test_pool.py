"""The pool survives the death of its workers.

Most tests run real processes with a stub engine (``tests/support/stub_worker.py``), which starts in a moment;
one runs real engines, because of torch.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.errors import (
    BusyError,
    CancelledError,
    ClosedError,
    DeviceError,
    ModelError,
    OutOfMemoryError,
    PaintError,
    RequestError,
)
from server.engines.pool import Pool
from server.engines.ticket import LoopTicket
from server.engines.worker import WorkerSpec
from server.engines.worker_slot import Restarts
from tests.support.paths import STUB_WORKER

T = TypeVar("T")
Make = Callable[..., InpaintRequest]
STUB = (str(STUB_WORKER),)
WAIT_S = 120  # for a slow, busy machine; a test that passes waits far less
QUICK = Restarts(first_s=0.05, longest_s=0.1)
HANG_S = 2.0  # a stub's step takes a hundredth of a second, but this machine may be busy


def run(coroutine: Awaitable[T]) -> T:
    async def main() -> T:
        async with asyncio.timeout(2 * WAIT_S):
            return await coroutine

    return asyncio.run(main())


async def until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def stub_pool(calls: Path, faults: str = "", max_rows: int = 4, **settings: Any) -> AsyncIterator[Pool]:
    calls.touch()
    spec = WorkerSpec(model=str(calls), max_rows=max_rows, faults=faults)
    pool = Pool(spec, program=STUB, **{"restarts": QUICK, "hang_s": 60.0, **settings})
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close(0)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Return the file to which stub workers write the prompts of each call."""
    return tmp_path / "calls"


def gone(pid: int) -> bool:
    try:
        return (
            " Z " in Path(f"/proc/{pid}/stat").read_text()
        )  # dead, even if its new parent never waits for it
    except FileNotFoundError:
        return True


async def outcome(ticket: LoopTicket) -> object:
    try:
        return (await ticket.result()).seeds
    except Exception as error:  # noqa: BLE001 - tests compare its class
        return type(error)


def test_a_result_crosses_the_link_unchanged(calls: Path, request_for: Make) -> None:
    """Pictures, seeds, warnings and timings are the worker's, and every step is an event."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            ticket = await pool.submit(request_for(seed=7, samples=2, num_inference_steps=5, strength=1.0))
            assert ticket.seeds == [7, 8]
            events = [(event.state, event.step) async for event in ticket.events()]
            steps = [("step", i) for i in range(1, 6)]
            assert events == [("queued", 0), ("encoding", 0), *steps, ("done", 5)]
            result = await ticket.result()
            assert [image.getpixel((0, 0)) for image in result.images] == [(7, 0, 0), (8, 0, 0)]
            assert result.box == (0, 0, 8, 8)
            assert (result.seeds, result.warnings, result.timings) == (
                [7, 8],
                ("a warning",),
                {"denoise_s": 1.5},
            )
            health = pool.health()
            assert (health.ready, health.waiting, health.running, health.images) == (True, 0, 0, 2)
            assert ticket.started

    run(main())


def test_only_watchers_get_previews(calls: Path, request_for: Make) -> None:
    """A preview costs a transfer for every step."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            unwatched = await pool.submit(request_for(num_inference_steps=20))
            assert all([event.preview is None async for event in unwatched.events()])
            watched = await pool.submit(request_for(num_inference_steps=20))
            previews = [event.preview async for event in watched.events(preview=True) if event.preview]
            assert previews
            assert previews[0].size == (4, 4)
            assert watched.watchers == 0

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["exit", "sigkill", "hang"])
def test_poison_fails_alone_and_its_neighbours_finish(fault: str, calls: Path, request_for: Make) -> None:
    """One bad request never fails another; it is tried at most twice, the second time alone."""

    async def main() -> None:
        hang_s = HANG_S if fault == "hang" else WAIT_S
        async with stub_pool(calls, f"{fault}@5:prompt=poison", hang_s=hang_s, max_rows=2) as pool:
            prompts = [
                "good",
                "poison",
                "next",
                "late",
                "later",
                "last",
            ]  # from "late" on they wait in the pool
            make = partial(request_for, seed=3, num_inference_steps=10)
            os.kill(pool.pids()[0], signal.SIGSTOP)  # until all are queued
            tickets = [await pool.submit(make(prompt=prompt)) for prompt in prompts]
            os.kill(pool.pids()[0], signal.SIGCONT)
            await until(lambda: not pool.health().ready)
            assert "worker 0" in pool.health().reason
            got = [await outcome(ticket) for ticket in tickets]
            assert got == [[3], PaintError, [3], [3], [3], [3]]
            attempts = [ticket.attempts for ticket in tickets]
            assert (attempts[:2], attempts[3:]) == ([2, 2], [1, 1, 1])
            with pytest.raises(PaintError, match=r"each of the 2 times.*smaller picture"):
                await tickets[1].result()
            await until(lambda: pool.health().ready)
            assert pool.health().restarts == 2

    run(main())
    shared = [line for line in calls.read_text().split() if "poison" in line]
    assert any("," in line for line in shared), "it shared calls at first"
    assert shared[-5:] == ["poison"] * 5, "and was alone when it was tried again"


def test_a_worker_killed_from_outside_is_replaced(calls: Path, request_for: Make) -> None:
    """The kernel may kill a worker when memory runs out; the caller still gets the same picture."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            ticket = await pool.submit(request_for(seed=9, num_inference_steps=60))
            await until(lambda: ticket.started)
            (pid,) = pool.pids()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not pool.health().ready, 1.0)
            with pytest.raises(BusyError, match="not ready: worker 0"):
                await pool.submit(request_for())
            await until(lambda: pool.health().ready)
            assert pool.pids() != [pid]
            states = [event.state async for event in ticket.events()]
            assert states.count("queued") == states.count("encoding") == 2
            assert (await ticket.result()).images[0].getpixel((0, 0)) == (9, 0, 0)

    run(main())


@pytest.mark.slow
def test_slow_is_not_hung(calls: Path, request_for: Make) -> None:
    """Only a worker without progress is killed, no matter how long its work takes."""

    async def main() -> None:
        async with stub_pool(calls, hang_s=HANG_S) as pool:
            started = asyncio.get_running_loop().time()
            await (await pool.submit(request_for(prompt="slow", num_inference_steps=60))).result()
            assert asyncio.get_running_loop().time() - started > HANG_S
            assert pool.health().restarts == 0

    run(main())


@pytest.mark.slow
def test_a_stopped_process_is_killed(calls: Path, request_for: Make) -> None:
    """It cannot answer; its work goes to the next process."""

    async def main() -> None:
        async with stub_pool(calls, hang_s=HANG_S) as pool:
            ticket = await pool.submit(request_for(num_inference_steps=60))
            await until(lambda: ticket.started)
            os.kill(pool.pids()[0], signal.SIGSTOP)
            await ticket.result()
            assert pool.health().restarts == 1

    run(main())


@pytest.mark.slow
def test_a_crash_loop_is_reported(calls: Path, request_for: Make) -> None:
    """A broken GPU is reported, and not tried twice a second for ever."""

    async def main() -> None:
        restarts = Restarts(first_s=0.05, longest_s=0.1, crash_limit=2, broken_s=2.0)
        async with stub_pool(calls, "exit@1", restarts=restarts, max_attempts=3) as pool:
            ticket = await pool.submit(request_for())
            await until(lambda: "2 times in a row" in pool.health().reason)
            health = pool.health()
            assert not health.ready
            assert "exit status 70" in health.reason
            for _ in range(10):
                await asyncio.sleep(0)
            assert pool.pids() == [], "it is tried again, but not immediately"
            assert await outcome(ticket) is PaintError
            await until(lambda: pool.health().ready)

    run(main())


def test_back_off_grows_up_to_the_longest_delay() -> None:
    """With deaths in a row; from the crash limit on it has its own delay."""
    delays = [Restarts().delay_s(deaths) for deaths in range(1, 7)]
    assert delays == [0.5, 1, 2, 4, 60, 60]
    assert Restarts(crash_limit=99).delay_s(20) == 30


def test_a_picture_resets_the_count_of_deaths(calls: Path, request_for: Make) -> None:
    """A worker that dies once a day must never reach the crash limit."""

    async def main() -> None:
        restarts = Restarts(first_s=0.05, crash_limit=2, broken_s=WAIT_S)
        async with stub_pool(calls, "exit@1:start=1,exit@9:start=2", restarts=restarts) as pool:
            for seed in (1, 2):
                ticket = await pool.submit(request_for(seed=seed, num_inference_steps=6, strength=1.0))
                assert await outcome(ticket) == [seed]
            assert pool.health().restarts == 2

    run(main())


def test_a_cancelled_request_leaves_within_a_step(calls: Path, request_for: Make) -> None:
    """Its rows are free for the next request in the queue."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1) as pool:
            long = await pool.submit(request_for(prompt="long", num_inference_steps=150, strength=1.0))
            await until(lambda: long.started)
            before = long.steps_taken
            long.cancel()
            await long.ended()
            assert long.steps_taken < before + 100
            with pytest.raises(CancelledError):
                await long.result()
            assert await outcome(await pool.submit(request_for(seed=2))) == [2]

    run(main())


def test_a_request_in_the_pools_queue_is_cancelled_immediately(calls: Path, request_for: Make) -> None:
    """A worker gets its rows and one more; a request behind those is cancelled without a message."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1) as pool:
            tickets = [await pool.submit(request_for(num_inference_steps=100)) for _ in range(4)]
            await until(lambda: tickets[0].started)
            assert (pool.health().running, pool.health().waiting) == (1, 3)
            assert pool.health().backlog_s > 0
            tickets[3].cancel()
            assert tickets[3].finished
            assert [ticket.attempts for ticket in tickets] == [1, 1, 0, 0]
            for ticket in tickets:
                ticket.cancel()
            assert {await outcome(ticket) for ticket in tickets} == {CancelledError}
            assert pool.health().waiting == 0

    run(main())


def test_a_cancelled_request_is_not_tried_again(calls: Path, request_for: Make) -> None:
    """Its caller left just before the worker died and wants no picture."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            ticket = await pool.submit(request_for(num_inference_steps=100))
            await until(lambda: ticket.started)
            os.kill(pool.pids()[0], signal.SIGSTOP)  # so that the cancel cannot arrive
            ticket.cancel()
            os.kill(pool.pids()[0], signal.SIGKILL)
            with pytest.raises(CancelledError):
                await ticket.result()

    run(main())


def test_workers_share_the_work(calls: Path, request_for: Make) -> None:
    """Two GPUs paint twice as much as one; while one restarts, the other goes on."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=8, workers=2) as pool:
            await until(lambda: len(pool.pids()) == 2 and all(slot.ready for slot in pool._slots))
            tickets = [await pool.submit(request_for(num_inference_steps=60, seed=i)) for i in range(4)]
            assert [len(slot.tickets) for slot in pool._slots] == [2, 2]
            os.kill(pool.pids()[0], signal.SIGKILL)
            await until(lambda: not pool._slots[0].ready)
            assert pool.health().ready
            assert [await outcome(ticket) for ticket in tickets] == [[0], [1], [2], [3]]

    run(main())


def test_close_drains_and_leaves_no_process(calls: Path, request_for: Make) -> None:
    """Accepted requests are finished first; then no process of the server is left."""

    async def main() -> list[int]:
        async with stub_pool(calls, workers=2) as pool:
            pids = pool.pids()
            ticket = await pool.submit(request_for(seed=5))
            closing = asyncio.create_task(pool.close(WAIT_S))
            await until(lambda: not pool.health().ready)
            with pytest.raises(BusyError, match="stopping"):
                await pool.submit(request_for())
            await closing
            assert await outcome(ticket) == [5]
            assert pool.pids() == []
            return pids

    assert all(gone(pid) for pid in run(main()))


def test_close_fails_what_it_does_not_finish(calls: Path, request_for: Make) -> None:
    """With an error of its own, not as cancelled: the service may keep such a request for the next start."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1) as pool:
            tickets = [await pool.submit(request_for(num_inference_steps=150)) for _ in range(3)]
            await pool.close(0.01)
            assert [await outcome(ticket) for ticket in tickets] == [ClosedError] * 3

    run(main())


def test_a_missing_model_fails_the_start(calls: Path) -> None:
    """With one sentence for the operator, and no process left behind."""

    async def main() -> None:
        pool = Pool(WorkerSpec(model=str(calls)), workers=2, program=STUB, restarts=QUICK)
        with pytest.raises(ModelError, match="there is no model"):
            await pool.start()
        assert pool.pids() == []

    run(main())


def test_a_worker_that_cannot_start_fails_the_start() -> None:
    """Instead of a server that is never ready."""

    async def main() -> None:
        pool = Pool(WorkerSpec(), program=("-c", "raise SystemExit(9)"))
        with pytest.raises(DeviceError, match="exit status 9"):
            await pool.start()

    run(main())


def test_a_black_mask_is_refused_before_the_queue(calls: Path, request_for: Make) -> None:
    """It must not wait in a queue to be refused."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            with pytest.raises(RequestError, match="nothing to repaint"):
                await pool.submit(request_for(mask=Image.new("L", (128, 128), 127)))

    run(main())


def test_listeners_that_hang_up_leave_nothing_behind(calls: Path, request_for: Make) -> None:
    """Fifty clients that hang up cost no thread and no task."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=8) as pool:
            tickets = [await pool.submit(request_for(num_inference_steps=150)) for _ in range(50)]
            threads, tasks = threading.active_count(), len(asyncio.all_tasks())
            listeners = [asyncio.create_task(outcome(ticket)) for ticket in tickets]
            await until(lambda: tickets[0].started)
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            assert threading.active_count() <= threads
            assert len(asyncio.all_tasks()) <= tasks

    run(main())


def test_workers_ignore_the_process_groups_signals(calls: Path, request_for: Make) -> None:
    """Ctrl-C goes to the whole group, but a worker has pictures to finish while the server drains."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            ticket = await pool.submit(request_for(seed=6, num_inference_steps=40))
            await until(lambda: ticket.started)
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pool.pids()[0], number)
            assert await outcome(ticket) == [6]
            assert pool.health().restarts == 0

    run(main())


PARENT = """
import asyncio, sys
from server.engines.pool import Pool
from server.engines.worker import WorkerSpec

async def main():
    pool = Pool(WorkerSpec(model=sys.argv[1]), workers=2, program=[sys.argv[2]])
    await pool.start()
    heavy = {"torch", "diffusers", "transformers"} & set(sys.modules)
    print(*pool.pids(), *heavy, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_no_worker_outlives_a_killed_server_which_imports_no_torch(calls: Path) -> None:
    """A process left behind would hold the GPU's memory, and the server itself must not use any."""
    calls.touch()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(calls), *STUB], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        parent.kill()
    run(until(lambda: all(gone(pid) for pid in pids)))


# Real engines from here on.


@pytest.fixture
def real_spec(checkpoint: Callable[[int], Path]) -> Callable[[str], WorkerSpec]:
    """Return a function from faults to a spec of the tiny model on the CPU."""
    return lambda faults: WorkerSpec(model=str(checkpoint(9)), device="cpu", faults=faults)


@pytest.mark.slow
def test_real_engines_survive_every_fault(
    real_spec: Callable[[str], WorkerSpec], engine: Engine, request_for: Make
) -> None:
    """A fault of one request fails no other, and a death of the process changes no picture.

    Out of memory and NaN fail in place; a device assert costs two processes. Then three processes die in
    three ways, each in the middle of a shared batch.
    """
    kinds = ("exit", "sigkill", "hang")
    deaths = ",".join(f"{kind}@2:start={3 + i}:prompt={kind}" for i, kind in enumerate(kinds))
    faults = f"oom@1+:prompt=huge,nan@1:prompt=blank,assert@2:prompt=poison,{deaths}"

    def check(picture: Image.Image, **settings: Any) -> None:
        """Assert that it is what an engine in this process paints."""
        expected = np.asarray(engine.paint(request_for(**settings)).images[0], dtype=int)
        assert np.abs(np.asarray(picture, dtype=int) - expected).max() <= 1, settings

    async def main() -> None:
        pool = Pool(real_spec(faults), restarts=QUICK, hang_s=6.0, max_attempts=2)
        await pool.start()
        try:
            tickets = [await pool.submit(request_for(prompt=p, seed=1)) for p in ("good", "huge", "blank")]
            got = [await outcome(ticket) for ticket in tickets]
            assert got == [[1], OutOfMemoryError, PaintError]
            health = pool.health()
            assert (health.restarts, health.ready) == (0, True)
            assert health.out_of_memory > 0

            tickets = [await pool.submit(request_for(prompt=p, seed=2)) for p in ("good", "poison")]
            got = [await outcome(ticket) for ticket in tickets]
            assert got == [[2], PaintError]
            with pytest.raises(PaintError, match="device-side assert"):
                await tickets[1].result()
            check((await tickets[0].result()).images[0], prompt="good", seed=2)
            assert pool.health().images == 2, "pictures of earlier processes count too"
            await until(lambda: pool.health().ready)
            assert pool.health().restarts == 2

            for i, kind in enumerate(kinds):
                tickets = [await pool.submit(request_for(prompt=kind, seed=seed)) for seed in (1, 2)]
                await until(lambda: not pool.health().ready)
                for seed, ticket in enumerate(tickets, 1):
                    check((await ticket.result()).images[0], prompt=kind, seed=seed)
                assert pool.health().ready, kind
                assert pool.health().restarts == 3 + i, kind
        finally:
            await pool.close(0)

    run(main())
