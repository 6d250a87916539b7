"""Admission: requests that would be too late are refused immediately, and keys take turns.

These tests run the pool with stub workers, and the service.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from inpaint import Engine
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket
from inpaint.canvas.crop import cut, working_sizes_of
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
    """Return the file in which stub workers note the requests of each UNet call."""
    return tmp_path / "calls"


def test_a_request_too_slow_even_alone_is_refused_immediately(calls: Path, request_for: Make) -> None:
    """A caller must not wait for an answer that can never come in time."""

    async def main() -> None:
        async with stub_pool(calls) as pool:
            endless = request_for(num_inference_steps=150, strength=1.0)  # 1.5 s
            with pytest.raises(BusyError, match="even alone"):
                await pool.submit(endless, Terms(deadline_s=0.5))
            assert pool.health().waiting == pool.health().running == 0
            quick = await pool.submit(request_for(), Terms(deadline_s=60))
            assert (await quick.result()).seeds == [5]

    run(main())


def test_a_request_that_would_wait_too_long_is_refused_with_the_time_to_retry(
    calls: Path, request_for: Make
) -> None:
    """Under overload most requests are served in time and the rest refused immediately; none just waits."""

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


@pytest.mark.slow
def test_a_request_that_waited_too_long_leaves_the_queue(calls: Path, request_for: Make) -> None:
    """A request that has missed its deadline must not take the GPU's time from others."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1, hang_s=2.0) as pool:
            slow = request_for(prompt="slow", num_inference_steps=40, strength=1.0)  # 5 times the forecast
            held = [await pool.submit(slow) for _ in range(3)]
            late = await pool.submit(request_for(), Terms(deadline_s=3.0))
            assert await outcome(late) is DeadlineError
            assert not held[2].finished
            for ticket in held:
                ticket.cancel()
            await until(lambda: all(ticket.finished for ticket in held))
        assert "a red circle" not in calls.read_text()

    run(main())


def test_keys_take_turns_in_the_queue(calls: Path, request_for: Make) -> None:
    """Other callers do not wait until all the requests of one caller are painted."""

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


def test_a_backlog_is_reported_in_seconds(calls: Path, request_for: Make) -> None:
    """An operator scales by it, and it becomes the Retry-After of callers."""

    async def main() -> None:
        async with stub_pool(calls, max_rows=1) as pool:
            assert pool.health().backlog_s == 0
            tickets = [
                await pool.submit(request_for(num_inference_steps=100, strength=1.0)) for _ in range(3)
            ]
            assert 1.5 < pool.health().backlog_s <= 3.01, "300 steps of 0.01 s"
            for ticket in tickets:
                ticket.cancel()
            await until(lambda: all(ticket.finished for ticket in tickets))

    run(main())


def test_an_engine_in_the_servers_process_refuses_the_same(model: Model, request_for: Make) -> None:
    """``--workers 0`` applies the same deadlines."""

    async def main() -> None:
        client = InProcessClient(WorkerSpec(), load=lambda *_: Engine(model))
        await client.start()
        try:
            await (await client.submit(request_for())).result()  # measures the cost of a step
            with pytest.raises(BusyError):
                await client.submit(request_for(num_inference_steps=100), Terms(deadline_s=1e-3))
            ticket = await client.submit(request_for(), Terms(deadline_s=600.0, slowdown=1000.0))
            assert (await ticket.result()).images
        finally:
            await client.close(0)

    run(main())


def test_terms_are_the_servers_settings(serve: Serve) -> None:
    """A v1 caller waits for the answer, so its request has a deadline; a v2 request has none."""
    server = serve(deadline_s=44.0, max_slowdown=3.0)
    assert server.client.post("/v1/sdxl-inpaint", json=body()).status_code == 200
    assert server.client.post("/v2/sdxl-inpaint", json=body()).status_code == 200
    eventually(lambda: len(server.engine.terms) == 2)
    assert server.engine.terms == [Terms("", 44.0, 3.0, "demo"), Terms("", model="demo")]


def test_a_refusal_is_503_refunded_and_says_when_to_retry(serve: Serve) -> None:
    """A caller that is refused pays nothing."""
    server = serve(metering=True, price=0.01)
    key = server.key(balance=5)
    server.engine.failures.append(BusyError("too much is ahead of this; try again later", 41.2))
    with server.calling(key=key) as client:
        answer = client.post("/v1/sdxl-inpaint", json=body())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "42")
    assert server.parts.ledger.balance(server.parts.keys.authenticate(key).id) == 5_000_000


def test_the_working_sizes_are_known_without_cropping(request_for: Make) -> None:
    """Admission needs a request's cost before any work is done for it."""
    boxes = (((0, 0, 40, 40), (900, 700)), ((100, 50, 700, 90), (900, 700)), ((1, 1, 3, 3), (64, 64)))
    for box, size in boxes:
        mask = Image.new("L", size)
        mask.paste(255, box)
        mask.paste(255, (size[0] - 9, size[1] - 9, *size))  # far from some of the boxes
        for area in ("auto", "whole"):
            request = request_for(image=Image.new("RGB", size), mask=mask, area=area)
            sizes = tuple(canvas.size for canvas in cut(request, 128).canvases)
            assert working_sizes_of(request, 128) == sizes


def test_a_workers_report_of_its_engine_arrives_complete() -> None:
    """The pool decides by the costs that its workers measured."""
    profile = Profile(MadeFor("gpu", "1", "2", "demo", "float16", ("qkv",)), max_slots=8)
    profile.survey(Bucket(16, 16), {1: 0.5, 2: 0.75}, encode_s=0.1, decode_s=0.2)
    received = Engines.from_json(Engines(512, 4, profile, 4).to_json())
    assert (received.native_size, received.vae_factor, received.in_channels) == (512, 4, 4)
    assert received.profile.to_json() == profile.to_json()


def test_until_costs_are_known_only_the_deadline_counts(request_for: Make) -> None:
    """Before the first picture no request is refused because of a guess."""
    engines = Engines(128, 8)
    work = engines.work(request_for(), "key")
    assert engines.given_s(work, Terms(deadline_s=9.0, slowdown=2.0)) == 9.0
    engines.profile.survey(work.bucket, {1: 1.0, 2: 1.0}, encode_s=0.5, decode_s=0.5)
    assert engines.given_s(work, Terms(deadline_s=99.0, slowdown=2.0)) == 2.0 * (3 + 0.5 + 0.5)
    assert load(work, 1, 3).left == 2
