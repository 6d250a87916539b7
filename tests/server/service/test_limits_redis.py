"""Rates that several servers count together in a real Redis, and their answers when it is unreachable."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inpaint.errors import BusyError
from server.service.limits import Limiter
from server.settings import Settings
from tests.support.programs import need
from tests.support.redis_process import RedisProcess
from tests.support.served import Serve, Served, body

pytest.importorskip("redis", reason="the redis extra is not installed")

pytest_plugins = ["tests.support.served_fixtures"]

Background = Callable[..., "Future[Any]"]
V1, CREDITS = "/v1/sdxl-inpaint", "/v1/get-user-credits"


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    redis = RedisProcess(need("Redis"))
    yield redis
    redis.close()


@pytest.fixture
def two(serve: Serve, redis: RedisProcess, tmp_path: Path) -> tuple[list[Served], str]:
    """Return two servers with the same key, which may make 5 requests a minute, and its token."""
    shared = {"rates_url": redis.url, "rate": "5/minute", "database_url": f"sqlite:///{tmp_path / 'i.db'}"}
    servers = [serve(data=tmp_path / name, **shared) for name in "ab"]
    return servers, servers[0].key()


def send(served: Served, token: str) -> httpx2.Response:
    with served.calling(key=token) as client:
        return client.post(V1, json=body())


def test_a_limit_is_one_for_all_servers(two: tuple[list[Served], str]) -> None:
    """A caller behind a load balancer gets what the operator allows, not that times the number of servers."""
    servers, token = two
    answers = [send(servers[number % 2], token) for number in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert [answer.headers["x-rate-limit-remaining"] for answer in answers[:5]] == list("43210")
    assert 50 < int(answers[5].headers["retry-after"]) <= 60
    assert send(servers[0], token).status_code == 429
    assert send(servers[0], servers[0].key()).status_code == 200, "another key has its own limit"


def test_a_limit_is_exact_when_20_arrive_together(
    two: tuple[list[Served], str], background: Background
) -> None:
    """No request slips through between two servers' counting and comparing."""
    servers, token = two
    sent = [background(send, servers[number % 2], token) for number in range(20)]
    assert Counter(one.result().status_code for one in sent) == {200: 5, 429: 15}


def test_a_redis_that_is_unreachable_is_503_until_it_is_back(
    two: tuple[list[Served], str], redis: RedisProcess
) -> None:
    """The server refuses within 3 s and says why, stays up, and counts again when Redis is back."""
    servers, token = two
    assert send(servers[0], token).status_code == 200
    redis.kill()
    for served in servers:
        began = time.monotonic()
        answer = send(served, token)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json() == {"error": "the server cannot count requests at the moment; try again"}
        assert time.monotonic() - began < 10
        assert served.client.get("/livez").status_code == 200
    redis.start()
    assert [send(servers[number % 2], token).status_code for number in range(6)] == [200] * 5 + [429]


@pytest.mark.slow
def test_a_redis_that_hangs_is_503_too(two: tuple[list[Served], str], redis: RedisProcess) -> None:
    """A host that is gone does not even refuse; a caller must not wait long for that."""
    servers, token = two
    assert send(servers[0], token).status_code == 200
    redis.pause()
    try:
        for served in servers:
            began = time.monotonic()
            assert send(served, token).status_code == 503
            assert time.monotonic() - began < 10
    finally:
        redis.go_on()
    assert send(servers[1], token).status_code == 200


def test_an_operator_may_wait_longer_for_it(redis: RedisProcess) -> None:
    """An operator with a distant Redis sets the timeout in its URL."""

    async def seconds(url: str) -> float:
        limiter = Limiter(Settings(rates_url=url))
        await limiter.check_rate("a")
        redis.pause()
        began = time.monotonic()
        try:
            with pytest.raises(BusyError):
                await limiter.check_rate("a")
        finally:
            redis.go_on()
        return time.monotonic() - began

    # The least of three, since a busy machine may add a second to any of them; without the URL it is 1 s.
    assert min(asyncio.run(seconds(f"{redis.url}?socket_timeout=0.2")) for _ in range(3)) < 0.9
