"""Several models in one client: each paints what it paints alone, and waits for no other."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from inpaint.errors import BusyError, ModelError
from inpaint.request import InpaintRequest
from server.engines.client import Terms
from server.engines.fleet import Fleet, client_of
from server.engines.pool import Pool
from server.engines.worker import WorkerSpec
from tests.server.engines.test_pool import HANG_S, QUICK, STUB, WAIT_S, run, until
from tests.support.tiny_checkpoint import write_tiny_checkpoint

Make = Callable[..., InpaintRequest]
A, B = Terms(model="a"), Terms(model="b")


@asynccontextmanager
async def stubs(
    folder: Path, *, present: str = "ab", faults: str = "", **settings: Any
) -> AsyncIterator[Fleet]:
    """Yield the models ``a`` and ``b`` with a stub worker each; those that are ``present`` can be loaded."""
    for name in present:
        (folder / name).touch()

    def pool(name: str) -> Pool:
        spec = WorkerSpec(model=str(folder / name), max_rows=4, faults=faults)
        options = {"restarts": QUICK, "hang_s": 60.0, "keeps_trying": True, **settings}
        return Pool(spec, program=STUB, numbers=[ord(name) - ord("a")], **options)

    fleet = client_of(["a", "b"], pool)
    assert isinstance(fleet, Fleet)
    try:
        yield fleet
    finally:
        await fleet.close(0)


def calls(folder: Path, name: str) -> list[str]:
    """Return the prompts of each UNet call of a model."""
    return (folder / name).read_text().split()


async def both_ready(fleet: Fleet) -> None:
    """Wait until both models paint."""
    await until(lambda: all(health.ready for health in fleet.health().models.values()))


def test_each_request_goes_to_its_model(tmp_path: Path, request_for: Make) -> None:
    """One that names none goes to the first; counts are each model's, and summed."""

    async def main() -> None:
        async with stubs(tmp_path) as fleet:
            await fleet.start()
            await both_ready(fleet)
            for terms, prompt in ((A, "one"), (B, "two"), (Terms(), "three")):
                ticket = await fleet.submit(request_for(prompt=prompt), terms)
                await ticket.result()
            health = fleet.health()
            assert {name: each.images for name, each in health.models.items()} == {"a": 2, "b": 1}
            assert (health.images, health.ready, health.reason, health.failed) == (3, True, "", False)
            assert health.of("b").native_size == 1024

    run(main())
    assert set(calls(tmp_path, "a")) == {"one", "three"}
    assert set(calls(tmp_path, "b")) == {"two"}


def test_a_model_that_cannot_be_loaded_stops_no_other(tmp_path: Path, request_for: Make) -> None:
    """It is tried again, so that a file which comes late is found; until then its requests are refused."""

    async def main() -> None:
        async with stubs(tmp_path, present="b") as fleet:
            await fleet.start()
            await (await fleet.submit(request_for(), B)).result()
            await until(lambda: fleet.health().of("a").failed)
            health = fleet.health()
            assert (health.ready, health.failed, health.of("a").ready) == (True, False, False)
            assert "there is no model" in health.of("a").reason
            with pytest.raises(BusyError, match="there is no model"):
                await fleet.submit(request_for(), A)
            (tmp_path / "a").touch()
            await until(lambda: fleet.health().of("a").ready)
            assert not fleet.health().of("a").failed
            await (await fleet.submit(request_for(), A)).result()

    run(main())


def test_if_no_model_can_be_loaded_the_start_fails(tmp_path: Path) -> None:
    """The server then ends with the first model's sentence, as with one model."""

    async def main() -> None:
        async with stubs(tmp_path, present="") as fleet:
            with pytest.raises(ModelError, match=f"there is no model {tmp_path / 'a'}"):
                await fleet.start()

    run(main())


def test_a_worker_that_dies_is_restarted_while_the_other_model_paints(
    tmp_path: Path, request_for: Make
) -> None:
    """Its request is tried again on its own model."""

    async def main() -> None:
        async with stubs(tmp_path) as fleet:
            await fleet.start()
            await both_ready(fleet)
            slow = {"prompt": "slow", "num_inference_steps": 60, "strength": 1.0}
            dying = await fleet.submit(request_for(**slow), A)
            await until(lambda: dying.started)
            pool = fleet._clients["a"]
            assert isinstance(pool, Pool)
            os.kill(pool.pids()[0], signal.SIGKILL)
            await until(lambda: not fleet.health().of("a").ready)
            await (await fleet.submit(request_for(prompt="other"), B)).result()
            await dying.result()
            health = fleet.health()
            assert (health.of("a").restarts, health.of("b").restarts, health.restarts) == (1, 0, 1)

    run(main())
    assert "slow" not in calls(tmp_path, "b")


def test_a_full_model_refuses_and_the_other_does_not(tmp_path: Path, request_for: Make) -> None:
    """Forecasts look at the model's own queue."""

    async def main() -> None:
        async with stubs(tmp_path, hang_s=HANG_S) as fleet:
            await fleet.start()
            await both_ready(fleet)
            endless = request_for(num_inference_steps=150, strength=1.0, samples=8)
            for _ in range(40):
                await fleet.submit(endless, A)
            with pytest.raises(BusyError):
                await fleet.submit(endless, Terms(deadline_s=8.0, model="a"))
            taken = await fleet.submit(endless, Terms(deadline_s=WAIT_S, model="b"))
            assert fleet.health().of("b").waiting + fleet.health().of("b").running == 1
            assert (
                fleet.health().backlog_s
                == fleet.health().of("a").backlog_s
                > fleet.health().of("b").backlog_s
            )
            taken.cancel()

    run(main())


@pytest.mark.slow
def test_two_real_models_paint_what_each_paints_alone(tmp_path: Path, request_for: Make) -> None:
    """Bit for bit, while both are at work; each has its own native size."""
    tiny = write_tiny_checkpoint(tmp_path / "tiny")
    specs = {
        name: WorkerSpec(given, device="cpu", dtype="float32", max_rows=4)
        for name, given in (("demo", "demo"), ("tiny", str(tiny)))
    }
    request = request_for(num_inference_steps=4, samples=2, seed=11)

    async def painted(client: Fleet | Pool, *models: str) -> list[list[bytes]]:
        await client.start()
        await until(lambda: all(client.health().of(model).ready for model in models))
        try:
            tickets = [await client.submit(request, Terms(model=model)) for model in models]
            results = await asyncio.gather(*(ticket.result() for ticket in tickets))
            return [[image.tobytes() for image in result.images] for result in results]
        finally:
            await client.close(0)

    async def main() -> None:
        pools = {name: Pool(spec, numbers=[i]) for i, (name, spec) in enumerate(specs.items())}
        together = await painted(Fleet(pools), "demo", "tiny")
        alone = [(await painted(Pool(specs[name]), name))[0] for name in specs]
        assert together == alone
        assert together[0] != together[1]

    run(main())
