"""The limits of one key, which must not affect the others."""

import asyncio
import contextlib
import sys
import time

import pytest

from inpaint.errors import BusyError, RequestError
from server.errors import RateError
from server.service.limits import Limiter
from server.settings import Settings


def limiter(**settings: object) -> Limiter:
    return Limiter(Settings(**settings))  # type: ignore[arg-type]


def test_a_key_over_its_rate_waits_and_the_others_do_not() -> None:
    """429 concerns one caller, and says after how many seconds it is admitted again."""

    async def check() -> None:
        limits = limiter(rate="3/minute")
        before = time.time()
        assert [(await limits.check_rate("a")).remaining for _ in range(3)] == [2, 1, 0]
        with pytest.raises(
            RateError, match=r"this key may make 3 requests per 60 seconds; try again in"
        ) as caught:
            await limits.check_rate("a")
        assert 50 < caught.value.retry_after_s <= 60
        state = await limits.check_rate("b")
        assert state.remaining == 2
        assert before + 59 < state.reset_at < time.time() + 61

    asyncio.run(check())


def test_a_caller_that_waits_as_retry_after_says_is_admitted() -> None:
    """The window moves, so that the oldest request has left it by then."""

    async def check() -> None:
        limits = limiter(rate="2/second")
        await limits.check_rate("a")
        await limits.check_rate("a")
        with pytest.raises(RateError) as caught:
            await limits.check_rate("a")
        await asyncio.sleep(caught.value.retry_after_s + 0.01)
        await limits.check_rate("a")

    asyncio.run(check())


def test_a_burst_gets_no_more_than_the_rate() -> None:
    """Simultaneous requests of one key must not slip through between counting and comparing."""

    async def check() -> None:
        limits = limiter(rate="5/minute")
        answers = await asyncio.gather(*(limits.check_rate("a") for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(answer, RateError) for answer in answers) == 15

    asyncio.run(check())


def test_of_several_rates_the_tightest_counts() -> None:
    """An operator may allow 600 requests a minute, and no more than 2 a second."""

    async def check() -> None:
        limits = limiter(rate="600/minute; 2/second")
        assert (await limits.check_rate("a")).remaining == 1
        await limits.check_rate("a")
        with pytest.raises(RateError, match="2 requests per 1 seconds"):
            await limits.check_rate("a")

    asyncio.run(check())


@pytest.mark.parametrize("rate", ["", "many", "5", "5/fortnight", "-1/minute"])
def test_a_rate_that_means_nothing_is_named_at_the_start(rate: str) -> None:
    """A typo in a limit must not remove the limit."""
    with pytest.raises(RequestError, match="INPAINT_RATE: must be like 600/minute"):
        limiter(rate=rate)


@pytest.mark.parametrize("url", ["nowhere://", "memory://", "async+memcached-nowhere://x"])
def test_a_rate_store_that_cannot_be_used_is_named_at_the_start(url: str) -> None:
    """The synchronous stores of the same library are refused: they would block the event loop."""
    with pytest.raises(RequestError, match="INPAINT_RATES_URL: "):
        limiter(rates_url=url)


def test_redis_without_its_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message holds a command that an operator can copy and run."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(RequestError, match=r"run: pip install 'sdxl-inpaint\[redis\]'"):
        limiter(rates_url="async+redis://127.0.0.1:1")


def test_a_rate_store_that_is_unreachable_is_busy() -> None:
    """Counting in Redis fails closed, and the caller is asked to try again."""
    pytest.importorskip("redis", reason="the redis extra is not installed")

    async def check() -> None:
        with pytest.raises(BusyError):
            await limiter(rates_url="async+redis://127.0.0.1:1").check_rate("a")

    asyncio.run(check())


def test_a_key_has_a_limited_number_of_requests_under_way() -> None:
    """One busy caller leaves room for the others, and a request that fails makes room again, too."""
    limits = limiter(max_in_flight_per_key=2)
    with limits.slot("a"):
        for _ in range(2):
            with contextlib.suppress(ZeroDivisionError), limits.slot("a"):
                with pytest.raises(RateError, match="this key has 2 requests under way"), limits.slot("a"):
                    pytest.fail("a third request was admitted")
                with limits.slot("b"):
                    raise ZeroDivisionError


def test_keys_that_are_gone_leave_nothing_in_memory() -> None:
    """A server that has served a million keys must not hold them all in memory."""

    async def check() -> None:
        limits = limiter()
        for number in range(100):
            with limits.slot(str(number)):
                async with limits.fetches(str(number)):
                    pass
        assert not limits._in_flight
        assert not limits._fetching

    asyncio.run(check())


def test_fetches_of_one_key_take_turns() -> None:
    """20 slow URLs from one key take 2 places here, and another key's fetch starts immediately."""

    async def check() -> None:
        limits = limiter(fetch_per_key=2)
        release, running, most = asyncio.Event(), 0, 0

        async def fetch(key_id: str) -> None:
            nonlocal running, most
            async with limits.fetches(key_id):
                running += key_id == "a"
                most = max(most, running)
                if key_id == "a":
                    await release.wait()
                    running -= 1

        slow = [asyncio.create_task(fetch("a")) for _ in range(20)]
        await asyncio.sleep(0)
        slow[-1].cancel()  # a caller that hangs up while it waits must not keep a place
        await asyncio.wait_for(fetch("b"), 5)
        assert running == 2
        release.set()
        await asyncio.gather(*slow, return_exceptions=True)
        assert most == 2
        assert not limits._fetching

    asyncio.run(check())
