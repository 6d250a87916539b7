"""The application on Ray Serve, with one machine as the cluster, as its callers see it.

The engines are those of ``bench.lib.fixed_engine``, except where pictures are compared with a server's.
"""

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from bench.lib.clusters import REAL, Cluster, eventually, free_port
from server.storage.database import Database
from tests.support.server_process import Accounts, ServerProcess, body, cli, opened

pytest_plugins = ["tests.support.postgres"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
CREDITS = 100.0
NewUrl = Callable[[], str]


def with_accounts(database_url: str, work: Callable[[Accounts], Any]) -> Any:
    with Database(database_url) as database:
        database.migrate()
        return work(Accounts(database))


def ended(client: httpx2.Client, request_id: str) -> dict[str, Any]:
    """Wait for the end of a v2 request and return its status answer."""

    def look() -> dict[str, Any] | None:
        answer = client.get(f"/v2/requests/{request_id}").json()
        return answer if answer["status"] in ("COMPLETED", "FAILED", "CANCELLED") else None

    return dict(eventually(look))


class Paid:
    """A cluster and a key with credits."""

    def __init__(self, cluster: Cluster, database_url: str, key_id: str, token: str) -> None:
        self.cluster, self.database_url, self.key_id = cluster, database_url, key_id
        self.client = cluster.client
        self.client.headers["x-api-key"] = token

    def books(self) -> tuple[float, list[str]]:
        """Return the key's balance and the audit's complaints."""
        return with_accounts(
            self.database_url,
            lambda accounts: (accounts.ledger.balance(self.key_id) / 1e6, accounts.ledger.check()),
        )

    def kinds(self, request_id: str) -> list[str]:
        """Return the kinds of a request's ledger entries."""
        return with_accounts(
            self.database_url,
            lambda accounts: [
                e.kind for e in accounts.ledger.entries(self.key_id) if e.request_id == request_id
            ],
        )


@pytest.fixture(scope="module")
def paid(postgres: NewUrl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paid]:
    """Start a cluster with two engines and two HTTP processes."""
    url = postgres()

    def make(accounts: Accounts) -> tuple[str, str]:
        return accounts.key(balance=CREDITS)

    key_id, token = with_accounts(url, make)
    settings = {"workers": 2, "ingress_replicas": 2, "metering": True, "price": 0.1, "hang_s": 4.0}
    with Cluster(tmp_path_factory.mktemp("cluster"), url, **settings) as cluster:
        yield Paid(cluster, url, key_id, token)


def posted(client: httpx2.Client, **fields: Any) -> str:
    answer = client.post(V2, json=body(**fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def events_of(client: httpx2.Client, request_id: str) -> list[tuple[str, Any]]:
    found = []
    with client.stream("GET", f"/v2/requests/{request_id}/events") as response:
        name = ""
        for line in response.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            if key == "data":
                found.append((name, json.loads(value)))
    return found


@pytest.mark.gate
def test_a_request_is_painted_and_charged_once(paid: Paid) -> None:
    """v1, through Ray's proxy, an HTTP replica and an engine replica."""
    before, _ = paid.books()
    answer = paid.client.post(V1, json=body(seed=9, output_format="png"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert opened(answer.content).getpixel((0, 0))[0] == 9
    after, wrong = paid.books()
    assert wrong == []
    assert before - after == pytest.approx(18 * 48 * 32 / 1e6 * 0.1, rel=0.01)


def test_replicas_are_not_starved_by_other_programs(paid: Paid) -> None:
    """At Ray's own nice value of 15 they got a hundredth of a busy host, and their health checks failed."""
    for pid in [*paid.cluster.pids(), *paid.cluster.pids("Ingress")]:
        assert os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0) <= 5


def test_steps_and_the_end_are_streamed(paid: Paid) -> None:
    """By the HTTP process that has the request, and by the other."""

    def stream(_: int) -> list[tuple[str, Any]]:
        return events_of(paid.client, posted(paid.client, num_inference_steps=100))

    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(stream, range(4)))
    for found in streams:
        assert found[-1][0] == "done"
        steps = [data["step"] for name, data in found if name == "step"]
        assert steps, found
        assert steps == sorted(steps)


@pytest.mark.gate
def test_a_request_is_cancelled_on_an_engine_or_in_the_queue(paid: Paid) -> None:
    """By the HTTP process that has it, or through the other."""
    # So slow that none is done before it is cancelled, however long a busy machine takes to post them all.
    ids = [posted(paid.client, num_inference_steps=100, prompt="slower") for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        for answer in pool.map(lambda request_id: paid.client.delete(f"/v2/requests/{request_id}"), ids):
            assert answer.status_code < 300, answer.text
    found = [ended(paid.client, request_id) for request_id in ids]
    assert ["cancelled" in answer.get("error", "") for answer in found].count(True) >= 10, found
    assert paid.books()[1] == []


def test_a_replica_that_dies_loses_nothing(paid: Paid) -> None:
    """Another replica paints its v1 and v2 requests; each is charged once."""
    with ThreadPoolExecutor(16) as pool:
        ids = [posted(paid.client, num_inference_steps=80, seed=n) for n in range(6)]
        v1: list[Future[httpx2.Response]] = [
            pool.submit(paid.client.post, V1, json=body(num_inference_steps=80)) for _ in range(4)
        ]
        time.sleep(1.0)
        paid.cluster.kill(paid.cluster.pids()[0])
        assert [future.result().status_code for future in v1] == [200] * 4
    for request_id in ids:
        assert ended(paid.client, request_id)["status"] == "COMPLETED"
        assert sorted(paid.kinds(request_id)) == ["reserve", "settle"]
    assert paid.books()[1] == []
    eventually(lambda: len(paid.cluster.pids()) == 2)


@pytest.mark.gate
def test_a_request_that_kills_its_engine_twice_fails_alone(paid: Paid) -> None:
    """Its neighbours are painted, and it is refunded."""
    neighbours = [posted(paid.client, num_inference_steps=40) for _ in range(3)]
    poison = posted(paid.client, prompt="die")
    neighbours += [posted(paid.client, num_inference_steps=40) for _ in range(3)]
    failed = ended(paid.client, poison)
    assert failed["status"] == "FAILED"
    assert "ended each of the 2 times" in failed["error"]
    assert sorted(paid.kinds(poison)) == ["refund", "reserve"]
    assert [ended(paid.client, request_id)["status"] for request_id in neighbours] == ["COMPLETED"] * 6
    eventually(lambda: len(paid.cluster.pids()) == 2)
    # Of the HTTP process that had the request; which one answers here is chance.
    eventually(lambda: re.search(r"^inpaint_restarts_total [1-9]", paid.client.get("/metrics").text, re.M))


@pytest.fixture(scope="module")
def command_line(
    postgres: NewUrl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, int]]:
    """Start `inpaint serve --cluster local`, a cluster of its own; yield it and the port asked for."""
    folder = tmp_path_factory.mktemp("command-line")
    port = free_port()
    command = ["-m", "inpaint", "serve", "--cluster", "local", "--port", str(port), "--device", "cpu"]
    settings = {
        "database_url": postgres(),
        "blobs_url": (folder / "pictures").as_uri(),
        "data": folder / "data",
        "ingress_replicas": 1,
    }
    with ServerProcess(command, **settings) as server:
        yield server, port


@pytest.mark.usefixtures("command_line")  # it starts while this test waits more than a minute for an engine
def test_an_engine_that_hangs_is_replaced(paid: Paid) -> None:
    """Health checks need progress: the process still answers, but takes no step."""
    eventually(lambda: len(paid.cluster.pids()) == 2)
    before = set(paid.cluster.pids())
    poison = posted(paid.client, prompt="hang")
    eventually(lambda: before - set(paid.cluster.pids()))
    assert ended(paid.client, poison)["status"] == "FAILED"
    assert posted(paid.client)
    eventually(lambda: len(paid.cluster.pids()) == 2)


def test_another_http_process_takes_over_the_requests_of_a_dead_one(paid: Paid) -> None:
    """After ``lease_s``; each is charged once, and its picture can be downloaded."""
    ids = [posted(paid.client, num_inference_steps=100, seed=n) for n in range(8)]
    paid.cluster.kill(paid.cluster.pids("Ingress")[0])

    def patient(request_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            try:
                return ended(paid.client, request_id)
            except (httpx2.HTTPError, ValueError, KeyError):
                return None  # the connection was to the process that died

        return dict(eventually(look))

    for request_id in ids:
        found = patient(request_id)
        assert found["status"] == "COMPLETED"
        assert sorted(paid.kinds(request_id)) == ["reserve", "settle"]
        assert paid.client.get(found["output"]).status_code == 200
    assert paid.books()[1] == []
    eventually(lambda: len(paid.cluster.pids("Ingress")) == 2)


def test_a_new_version_is_rolled_out_without_a_failed_request(paid: Paid) -> None:
    """New replicas are ready before old ones stop, and old ones finish their requests."""
    done, answers = False, list[int]()

    def call() -> None:
        for seed in itertools.count():
            if done:
                return
            answers.append(paid.client.post(V1, json=body(seed=seed)).status_code)

    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(call) for _ in range(3)]
        try:
            eventually(lambda: len(answers) > 5)
            before = set(paid.cluster.pids()) | set(paid.cluster.pids("Ingress"))
            paid.cluster.do("deploy", model="fixed:0.021", deadline_s=299.0)
            eventually(lambda: not before & (set(paid.cluster.pids()) | set(paid.cluster.pids("Ingress"))))
            enough = len(answers) + 10
            eventually(lambda: len(answers) > enough)
        finally:
            done = True
        for caller in callers:
            caller.result()
    assert set(answers) == {200}, answers


def test_no_caller_sets_the_proxys_deadline(paid: Paid) -> None:
    """Ray would answer 408 to a request with this header."""
    headers = {"x-request-timeout-seconds": "0.05"}
    answer = paid.client.post(V1, json=body(), headers=headers)
    assert answer.status_code == 200, answer.text


def test_too_many_requests_get_a_retry_after(paid: Paid) -> None:
    """A v1 request that would be late is refused immediately."""
    with ThreadPoolExecutor(64) as pool:
        sent = [
            pool.submit(paid.client.post, V1, json=body(num_inference_steps=40, samples=2)) for _ in range(48)
        ]
        answers = [future.result() for future in sent]
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 429, 503, 504}
    assert statuses & {429, 503}, "three times as many as a key may have under way"
    for answer in answers:
        if answer.status_code in (429, 503):
            assert int(answer.headers["retry-after"]) >= 1
    assert paid.books()[1] == []


@pytest.mark.timeout(900)
def test_pictures_are_the_single_servers(paid: Paid, tmp_path: Path) -> None:
    """The demo model in place of the fixed engines, the same seeds: the same bytes."""
    wanted = [body(seed=seed, num_inference_steps=20, output_format="png") for seed in (1, 2)]
    before = set(paid.cluster.pids())
    with ServerProcess(cli(tmp_path / "single", "--device", "cpu")) as single:
        # Meanwhile this server starts.
        paid.cluster.do("deploy", loads=REAL, model="demo", max_rows=4, workers=1)
        single.wait_ready()
        expected = [single.client.post(V1, json=fields).content for fields in wanted]
    eventually(lambda: not before & set(paid.cluster.pids()) and len(paid.cluster.pids()) == 1)
    found = [paid.client.post(V1, json=fields).content for fields in wanted]
    with ThreadPoolExecutor(2) as two:
        again = [f.result().content for f in [two.submit(paid.client.post, V1, json=w) for w in wanted]]
    assert found == expected
    assert opened(found[0]).size == (48, 32)
    for one, other in zip(again, expected, strict=True):  # perhaps both in one call, which rounds differently
        difference = np.abs(np.asarray(opened(one), np.int16) - np.asarray(opened(other), np.int16))
        assert difference.max() <= 1


def test_the_command_line_starts_and_stops_a_cluster(command_line: tuple[ServerProcess, int]) -> None:
    """`inpaint serve --cluster local`, a picture, SIGTERM, exit code 0."""
    server, port = command_line
    assert server.port == port
    server.wait_ready()
    answer = server.client.post(V1, json=body(output_format="png"))
    assert (answer.status_code, opened(answer.content).size) == (200, (48, 32))
    server.signal(signal.SIGTERM)
    assert server.exit_code() == 0, server.said
    assert "Traceback" not in server.said


def test_a_missing_cluster_is_reported_in_one_sentence(postgres: NewUrl, tmp_path: Path) -> None:
    """It says how to start one."""
    command = ["-m", "inpaint", "serve", "--cluster", "127.0.0.1:1"]
    blobs_url = (tmp_path / "pictures").as_uri()
    with ServerProcess(command, database_url=postgres(), blobs_url=blobs_url, data=tmp_path) as server:
        assert server.exit_code() == 2
    assert "there is no Ray cluster at 127.0.0.1:1; start one with `ray start --head`" in server.said
    assert "Traceback" not in server.said
