"""Said no at once rather than too late, in turn between keys: the pool with stub workers, and the service."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from inpaint import Engine
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket
from inpaint.canvas.crop import cut, working_size_of
from inpaint.errors import BusyError, DeadlineError
from inpaint.model.load import Model
from inpaint.request import InpaintRequest
from server.engines.client import Terms
from server.engines.forecast import Engines, load
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from tests.server.engines.test_pool import outcome, run, stub_pool, until
from tests.support.served import Serve, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]
Make = Callable[..., InpaintRequest]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Where stub workers write down who shared their calls."""
    return tmp_path / "calls"


def test_what_cannot_be_in_time_even_alone_is_refused_at_once(calls: Path, request_for: Make) -> None:
    """Nobody waits for an answer that was never going to come."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            endless = request_for(num_inference_steps=150, strength=1.0)  # 1.5 s
            with pytest.raises(BusyError, match="even alone"):
                await pool.submit(endless, Terms(deadline_s=0.5))
            assert pool.health().waiting == pool.health().running == 0
            quick = await pool.submit(request_for(), Terms(deadline_s=60))
            assert (await quick.result()).seeds == [5]

    run(main())


def test_what_would_wait_too_long_is_refused_with_the_time_to_come_back(
    calls: Path, request_for: Make
) -> None:
    """Under overload most are served in time and the rest know at once, instead of nobody being served."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1) as pool:
            endless = request_for(num_inference_steps=150, strength=1.0)
            held = [await pool.submit(endless) for _ in range(4)]
            with pytest.raises(BusyError, match="too much is ahead") as refused:
                await pool.submit(endless, Terms(slowdown=2.0))
            assert 0.5 < refused.value.retry_after_s < 30
            for ticket in held:
                ticket.cancel()
            await until(lambda: all(ticket.finished for ticket in held))
            taken = await pool.submit(request_for(), Terms(slowdown=200.0))
            assert (await taken.result()).images

    run(main())


def test_a_request_that_waited_too_long_leaves_the_line(calls: Path, request_for: Make) -> None:
    """A promise that cannot be kept any more is not kept at others' cost."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1, hang_s=2.0) as pool:
            slow = request_for(prompt="slow", num_inference_steps=40, strength=1.0)  # five times as foreseen
            held = [await pool.submit(slow) for _ in range(3)]
            late = await pool.submit(request_for(), Terms(deadline_s=3.0))
            assert await outcome(late) is DeadlineError
            assert not held[2].finished
            for ticket in held:
                ticket.cancel()
            await until(lambda: all(ticket.finished for ticket in held))
        assert "a red circle" not in calls.read_text()

    run(main())


def test_keys_take_turns_in_the_line(calls: Path, request_for: Make) -> None:
    """One caller's hundred requests do not make the others wait for all of them."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1) as pool:
            first = await pool.submit(request_for(prompt="slow", num_inference_steps=20), Terms("many"))
            await until(lambda: first.begun)
            many = [await pool.submit(request_for(prompt=f"many {i}"), Terms("many")) for i in range(6)]
            one = await pool.submit(request_for(prompt="one"), Terms("one"))
            await one.result()
            assert sum(ticket.finished for ticket in many) <= 2
            for ticket in many:
                await ticket.result()

    run(main())


def test_a_backlog_is_told_in_seconds(calls: Path, request_for: Make) -> None:
    """An operator scales by it, and callers are told when to come back."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1) as pool:
            assert pool.health().backlog_s == 0
            tickets = [
                await pool.submit(request_for(num_inference_steps=100, strength=1.0)) for _ in range(3)
            ]
            assert 1.5 < pool.health().backlog_s <= 3.01, "three hundred steps of a hundredth of a second"
            for ticket in tickets:
                ticket.cancel()
            await until(lambda: all(ticket.finished for ticket in tickets))

    run(main())


def test_an_engine_in_the_servers_process_refuses_the_same(model: Model, request_for: Make) -> None:
    """``--workers 0`` keeps the same promises."""

    async def main() -> None:
        client = InProcessClient(WorkerSpec(), load=lambda *_: Engine(model))
        await client.start()
        try:
            await (await client.submit(request_for())).result()  # it learns what steps cost
            with pytest.raises(BusyError):
                await client.submit(request_for(num_inference_steps=100), Terms(deadline_s=1e-3))
            ticket = await client.submit(request_for(), Terms(deadline_s=600.0, slowdown=1000.0))
            assert (await ticket.result()).images
        finally:
            await client.close(0)

    run(main())


def test_terms_are_the_servers_settings(serve: Serve) -> None:
    """v1's callers hold the line and get a deadline; v2's come back when it is done."""
    server = serve(deadline_s=44.0, max_slowdown=3.0)
    assert server.client.post("/v1/sdxl-inpaint", json=body()).status_code == 200
    assert server.client.post("/v2/sdxl-inpaint", json=body()).status_code == 200
    eventually(lambda: len(server.engine.terms) == 2)
    assert server.engine.terms == [Terms("", 44.0, 3.0), Terms("")]


def test_a_refusal_is_503_refunded_and_says_when_to_come_back(serve: Serve) -> None:
    """Whoever is turned away pays nothing."""
    server = serve(metering=True, price=0.01)
    key = server.key(balance=5)
    server.engine.failures.append(BusyError("too much is ahead of this; try again later", 41.2))
    with server.calling(key=key) as client:
        answer = client.post("/v1/sdxl-inpaint", json=body())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "42")
    assert server.parts.ledger.balance(server.parts.keys.authenticate(key).id) == 5_000_000


def test_a_size_is_known_without_the_cutting(request_for: Make) -> None:
    """What a request costs is decided before anybody does its work."""
    boxes = (((0, 0, 40, 40), (900, 700)), ((100, 50, 700, 90), (900, 700)), ((1, 1, 3, 3), (64, 64)))
    for box, size in boxes:
        mask = Image.new("L", size)
        mask.paste(255, box)
        for area in ("auto", "whole"):
            request = request_for(image=Image.new("RGB", size), mask=mask, area=area)
            assert working_size_of(request, 128) == cut(request, 128).size


def test_what_a_worker_tells_of_its_engine_arrives_whole() -> None:
    """The pool decides by the costs that its workers measured."""
    profile = Profile(MadeFor("gpu", "1", "2", "demo", "float16", ("qkv",)), max_slots=8)
    profile.survey(Bucket(16, 16), {1: 0.5, 2: 0.75}, encode_s=0.1, decode_s=0.2)
    told = Engines.from_json(Engines(512, 4, profile).to_json())
    assert (told.native_size, told.vae_factor) == (512, 4)
    assert told.profile.to_json() == profile.to_json()


def test_until_costs_are_known_only_the_deadline_counts(request_for: Make) -> None:
    """Before the first picture nobody is refused by a guess."""
    engines = Engines(128, 8)
    work = engines.work(request_for(), "key")
    assert engines.given_s(work, Terms(deadline_s=9.0, slowdown=2.0)) == 9.0
    engines.profile.survey(work.bucket, {1: 1.0, 2: 1.0}, encode_s=0.5, decode_s=0.5)
    assert engines.given_s(work, Terms(deadline_s=99.0, slowdown=2.0)) == 2.0 * (3 + 0.5 + 0.5)
    assert load(work, 1, 3).left == 2
