"""Parts of the Ray deployment that need no cluster: routing, scaling, the lock of a replica, the proxy."""

import asyncio
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID

from inpaint.errors import CancelledError, DeviceError, RequestError
from server.ray.client import RayClient
from server.ray.ingress import _replicas, build, settings_of
from server.ray.proxy import ProxyMiddleware
from server.ray.replica import ExclusiveGate
from server.ray.replica_stats import ReplicaStats, replica_stats_of
from server.ray.router import LeastBacklogRouter
from server.ray.scaling import TARGET_S, by_backlog
from server.ray.start import _connect


def reports(**backlogs: float) -> dict[str, dict[str, Any]]:
    now = time.time()
    return {n: {"backlog_s": s, "counts": {"images": 1}, "at": now} for n, s in backlogs.items()}


def test_a_late_report_counts_from_when_it_was_made() -> None:
    """Requests sent since then are added to it; a wrong clock does little harm."""
    stats = ReplicaStats()
    stats.update(reports(a=0.0, b=2.0))
    stats.sent("a", 5.0)
    late = reports(a=0.0)["a"] | {"at": time.time() - 0.5}
    stats.update({"a": late, "b": reports(b=2.0)["b"]})
    assert stats.ranked(["a", "b"]) == ["b", "a"]
    stats.update({"a": reports(a=9.0)["a"] | {"at": time.time() + 3600}, "b": reports(b=2.0)["b"]})
    assert stats.ranked(["a", "b"]) == ["b", "a"]


def test_the_replica_with_the_least_work_comes_first() -> None:
    stats = ReplicaStats()
    stats.update(reports(a=30.0, b=10.0, c=20.0))
    assert stats.ranked(["a", "b", "c"]) == ["b", "c", "a"]
    stats.sent("b", 15.0)
    assert stats.ranked(["a", "b", "c"]) == ["c", "b", "a"]
    assert stats.least_s == pytest.approx(20.0, abs=1.0)


def test_the_same_report_again_does_not_undo_what_was_sent() -> None:
    """Ray passes the last report to the router again with every change of any replica."""
    stats = ReplicaStats()
    first = reports(a=0.0, b=1.0)
    stats.update(first)
    stats.sent("a", 5.0)
    stats.update(dict(first))
    assert stats.ranked(["a", "b"]) == ["b", "a"]


def test_equal_replicas_are_ranked_at_random() -> None:
    """Or all routers would send to the same one."""
    stats = ReplicaStats()
    stats.update(reports(a=0.0, b=0.0, c=0.0))
    assert {stats.ranked("abc")[0] for _ in range(100)} == {"a", "b", "c"}


def test_a_stopped_replica_is_forgotten() -> None:
    stats = ReplicaStats()
    stats.update(reports(a=5.0, b=9.0))
    stats.update(reports(b=9.0) | {"new": {}})
    assert stats.size == 2
    assert stats.ranked(["b", "new"]) == ["new", "b"]


def test_counts_of_a_stopped_replica_stay() -> None:
    """Prometheus takes a counter that falls for one that was reset, and counts the rest again."""
    stats = ReplicaStats()
    counts = {"images": 3, "waiting": 2, "running": 1, "us:4": 7}
    stats.update({name: {"backlog_s": 0.0, "counts": counts, "at": time.time()} for name in "ab"})
    assert stats.totals() == {"images": 6, "waiting": 4, "running": 2, "us:4": 14}
    stats.update({"b": {"backlog_s": 0.0, "counts": counts, "at": time.time()}, "new": {}})
    assert stats.totals() == {"images": 6, "waiting": 2, "running": 1, "us:4": 14}


def test_full_replicas_are_asked_together_and_last() -> None:
    """One after the other, the engines would be idle before the last one was asked."""

    async def ranks() -> list[list[str]]:
        deployment = DeploymentID("Full")
        router = LeastBacklogRouter(deployment, DeploymentHandleSource.REPLICA)
        replicas: list[Any] = [
            SimpleNamespace(replica_id=ReplicaID(n, deployment), max_ongoing_requests=4)
            for n in (f"r{n}" for n in range(8))
        ]
        for number, replica in enumerate(replicas):
            replica.routing_stats = {"backlog_s": 10.0 - number, "counts": {}, "at": time.time()}
            if number:  # the queue of r0 is unknown
                router.replica_queue_len_cache.update(replica.replica_id, 3 if number == 2 else 4)
        chosen = await router.choose_replicas(replicas)
        return [[replica.replica_id.unique_id for replica in rank] for rank in chosen]

    assert asyncio.run(ranks()) == [["r2"], ["r0"], ["r7", "r6", "r5", "r4"]]


@pytest.mark.parametrize(
    ("backlogs", "queued", "wanted"),
    [
        ({"a": 0.0}, 0, 1.0),
        ({"a": 3 * TARGET_S}, 0, 3.0),
        ({"a": TARGET_S, "b": 2 * TARGET_S}, 0, 3.0),
        ({"a": TARGET_S}, 2, 2.0),  # 2 running for 10 s: 5 s each
    ],
)
def test_replicas_are_wanted_by_their_backlog(
    backlogs: dict[str, float], queued: float, wanted: float
) -> None:
    context = SimpleNamespace(
        aggregated_metrics={"backlog_s": backlogs},
        total_queued_requests=queued,
        total_num_requests=queued + 2,
        capacity_adjusted_min_replicas=1,
    )
    assert by_backlog(context)[0] == pytest.approx(wanted)


def test_without_reports_each_request_counts_as_a_replicas_target() -> None:
    context = SimpleNamespace(
        aggregated_metrics=None,
        total_queued_requests=5,
        total_num_requests=5,
        capacity_adjusted_min_replicas=0,
    )
    assert by_backlog(context)[0] == 5.0


async def _enter(
    gate: ExclusiveGate, log: list[str], name: str, *, alone: bool, until: asyncio.Event
) -> None:
    async with gate.entered(alone=alone):
        log.append(f"{name} in")
        await until.wait()
        log.append(f"{name} out")


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_an_exclusive_task_waits_for_the_others_and_they_for_it() -> None:
    async def enter_all() -> list[str]:
        gate, log = ExclusiveGate(), list[str]()
        first, second, third = asyncio.Event(), asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(_enter(gate, log, "a", alone=False, until=first))]
        await _settle()
        tasks.append(asyncio.create_task(_enter(gate, log, "suspect", alone=True, until=second)))
        await _settle()
        tasks.append(asyncio.create_task(_enter(gate, log, "b", alone=False, until=third)))
        await _settle()
        for event in (first, second, third):
            event.set()
            await _settle()
        await asyncio.gather(*tasks)
        return log

    assert asyncio.run(enter_all()) == ["a in", "a out", "suspect in", "suspect out", "b in", "b out"]


def test_a_suspect_cancelled_while_it_waits_blocks_no_other() -> None:
    async def enter_all() -> list[str]:
        gate, log, done = ExclusiveGate(), list[str](), asyncio.Event()
        inside = asyncio.create_task(_enter(gate, log, "a", alone=False, until=done))
        await _settle()
        suspect = asyncio.create_task(_enter(gate, log, "suspect", alone=True, until=done))
        await _settle()
        later = asyncio.create_task(_enter(gate, log, "b", alone=False, until=done))
        await _settle()
        suspect.cancel()
        await _settle()
        done.set()
        await asyncio.gather(inside, later)
        return log

    assert asyncio.run(enter_all())[:2] == ["a in", "b in"]


def test_a_request_that_is_cancelled_before_its_task_has_run_ends(request_for: Any) -> None:
    """asyncio never enters a task that is cancelled before its first step: its caller waited for ever."""

    async def cancelled() -> None:
        handle: Any = SimpleNamespace(deployment_name="cancelled")
        client = RayClient(handle, hang_s=1.0, max_attempts=2)
        client._described = True
        replica_stats_of("cancelled").update(reports(a=0.0))
        ticket = await client.submit(request_for())
        ticket.cancel()
        async with asyncio.timeout(60):
            with pytest.raises(CancelledError):
                await ticket.result()
        assert client.health().waiting == 0

    asyncio.run(cancelled())


def test_the_proxys_408_becomes_504() -> None:
    """And headers that callers may not set do not reach it."""
    headers_of_ray: list[Any] = []

    async def rays_proxy(scope: Any, receive: Any, send: Any) -> None:
        headers_of_ray.append(scope["headers"])
        await send({"type": "http.response.start", "status": 408, "headers": []})

    async def call() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"x-request-timeout-seconds", b"1"), (b"x-api-key", b"k")]
        await ProxyMiddleware(rays_proxy)({"type": "http", "headers": headers}, None, send)  # type: ignore[arg-type]
        return sent

    assert asyncio.run(call())[0]["status"] == 504
    assert headers_of_ray == [[(b"x-api-key", b"k")]]


@pytest.mark.parametrize("how", ["silent", "raises"])
def test_the_death_of_a_process_is_answered_with_503(how: str) -> None:
    """Ray's proxy sends no answer if the process that had the request died."""

    async def rays_proxy(scope: Any, receive: Any, send: Any) -> None:
        if how == "raises":
            raise ConnectionError

    async def call() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await ProxyMiddleware(rays_proxy)({"type": "http", "headers": []}, None, send)  # type: ignore[arg-type]
        return sent

    start = asyncio.run(call())[0]
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"5"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"blobs_url": "s3://b/f"}, "INPAINT_DATABASE_URL"),
        ({"database_url": "sqlite:///x.db", "blobs_url": "s3://b/f"}, "INPAINT_DATABASE_URL"),
        ({"database_url": "postgresql+psycopg://h/d"}, "INPAINT_BLOBS_URL"),
        ({"database_url": "postgresql+psycopg://h/d", "blobs_url": "s3://b/f", "workers": 0}, "--workers"),
        ({"lease_s": -1}, "--lease-s"),
    ],
)
def test_settings_that_need_a_single_host_are_refused(settings: dict[str, Any], named: str) -> None:
    """State that only one host reaches would be lost with it."""
    with pytest.raises(RequestError, match=named):
        settings_of(settings)


def test_serve_deploy_gets_an_application() -> None:
    """Ray calls the configuration's ``import_path`` with its ``args``."""
    arguments = {"database_url": "postgresql+psycopg://h/d", "blobs_url": "s3://b/f", "workers": 2}
    built = call_user_app_builder_with_args_if_necessary(build, arguments)
    assert isinstance(built, serve.Application)


def test_min_workers_turns_autoscaling_on() -> None:
    """Ray then scales by our policy."""
    settings = {"database_url": "postgresql+psycopg://h/d", "blobs_url": "s3://b/f", "workers": 4}
    found = _replicas(settings_of(settings | {"min_workers": 1}))["autoscaling_config"]
    assert (found.min_replicas, found.max_replicas) == (1, 4)
    assert found.policy.policy_function == "server.ray.scaling.by_backlog"
    assert _replicas(settings_of(settings)) == {"num_replicas": 4}


@pytest.mark.parametrize(
    ("failures", "starts", "said"),
    [
        (["The current node timed out during startup."], 2, None),
        (["The current node timed out during startup."] * 2, 2, "Ray did not start: The current node timed"),
        (["no shared memory"], 1, "Ray did not start: no shared memory"),
    ],
)
def test_ray_gets_a_second_chance_where_it_was_too_slow(
    failures: list[str], starts: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own 30 seconds are not enough on a host that is starting everything else."""
    left, tried = list(failures), []

    def init(**settings: Any) -> None:
        tried.append(settings["address"])
        if left:
            raise Exception(left.pop(0))  # as Ray does

    monkeypatch.setattr("ray.init", init)
    with nullcontext() if said is None else pytest.raises(DeviceError, match=said):
        _connect("local")
    assert tried == ["local"] * starts
