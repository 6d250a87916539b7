"""A hunt for bugs: two servers with one database act simultaneously, in any order, and may be killed.

Hypothesis chooses their actions. After each step the ledger and the requests must agree, and in the end no
accepted request may be lost. ``HUNT_EXAMPLES=5000`` hunts for a long time, with other actions in each run.
"""

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from server.storage.database import Database
from server.storage.requests import _INTERRUPTED
from tests.support.database_snapshot import UNFINISHED, Books, check, check_change, emptied, read
from tests.support.store_process import LEASE_S, Answer, Order, Processes, StoreProcess, processes

pytest_plugins = ["tests.support.postgres"]

EXAMPLES = int(os.environ.get("HUNT_EXAMPLES", "8"))  # of 40 steps; 3 seconds each on an idle machine
LONG = "HUNT_EXAMPLES" in os.environ
LOOKS = 4  # heartbeats that a server needs to be sure that the other is dead
KEYS, BALANCE = 2, 30  # micro-credits: a few requests use them up

_NTH = st.integers(0, 11)  # of the latest requests
_ACCEPT = st.fixed_dictionaries(
    {
        "do": st.just("accept"),
        "key": st.integers(0, KEYS - 1),
        "mode": st.sampled_from(["v2", "v1"]),
        "cost": st.sampled_from([0, 1, 5, 10, 25]),
        "idem": st.sampled_from([None, "a", "b"]),
        "digest": st.sampled_from(["d", "d", "d", "other"]),
    }
)
_FAIL = {
    "do": st.just("fail"),
    "id": _NTH,
    "state": st.sampled_from(["FAILED", "CANCELLED"]),
    "refund": st.booleans(),
}
_CREDIT = {
    "do": st.just("credit"),
    "key": st.integers(0, KEYS - 1),
    "amount": st.sampled_from([1, 10, -1, -10]),
}
_OF_ONE = st.fixed_dictionaries(
    {"do": st.sampled_from(["begin", "begin", "finish", "requeue", "ask_cancel"]), "id": _NTH}
)
_ORDER = st.one_of(_ACCEPT, _OF_ONE, _OF_ONE, st.fixed_dictionaries(_FAIL), st.fixed_dictionaries(_CREDIT))
_BEAT = st.just({"do": "beat"})
_ORDERS = st.lists(st.one_of(_ORDER, _ORDER, _ORDER, _ORDER, _BEAT), min_size=1, max_size=5)
_WHICH = st.integers(0, 1)
_VICTIM = st.sampled_from([None] * 8 + [0, 1])


class Hunt(RuleBasedStateMachine):
    """Two servers, the orders that they get, and a model of the requests that each of them has."""

    def __init__(self, processes: Processes, database: Database, seen: Counter[str]) -> None:
        super().__init__()
        self._processes, self._database, self._seen = processes, database, seen
        self._keys = emptied(database, KEYS, BALANCE)
        self._now = 0.0
        self._ids: list[str] = []
        self._story: list[object] = []  # printed if an assertion fails
        self._wrong = False
        self._ended: Counter[str] = Counter()  # by request: answers that say that it ended
        self._alive: list[StoreProcess] = []
        self._has: dict[str, set[str]] = {}  # by server: the requests that it is to paint
        self._before = read(database)

    @initialize()
    def start(self) -> None:
        self._alive = [self._new(), self._new()]

    def _new(self) -> StoreProcess:
        """Return a server that has just started."""
        process = self._processes.take()
        self._has[process.name] = set()
        self._carry_out({process: [{"do": "beat"}]})
        return process

    @rule(first=_ORDERS, second=_ORDERS, victim=_VICTIM, after_ms=st.sampled_from([0, 1, 2, 3, 5, 8]))
    def together(self, first: list[Order], second: list[Order], victim: int | None, after_ms: int) -> None:
        """Give both servers several orders; sometimes kill one meanwhile, and replace it."""
        orders = dict(zip(self._alive, (first, second), strict=True))
        if victim is None:
            self._carry_out(orders)
            return
        killed = self._alive[victim]
        self._carry_out(orders, (killed, after_ms / 1000))
        self._alive[victim] = self._new()
        self._processes.give_back(killed)

    @rule(order=_ORDER)
    def the_same(self, order: Order) -> None:
        """Give both servers the same order twice, as from an impatient client."""
        self._carry_out({process: [order, order] for process in self._alive})

    @rule(which=_WHICH, orders=_ORDERS, how=st.sampled_from(["paused", "at the last moment", "left"]))
    def silent(self, which: int, orders: list[Order], how: str) -> None:
        """Let one server send no heartbeats for a while, or leave for good."""
        one, other = self._alive[which], self._alive[1 - which]
        if how == "left":
            self._carry_out({one: [{"do": "leave"}], other: orders})
            self._alive[which] = self._new()
            self._processes.give_back(one)
            return
        self._only_beating(other, LOOKS if how == "paused" else LOOKS - 1)
        if how == "paused":  # it goes on as if it had not been silent
            self._carry_out({one: orders, other: []})
        else:
            self._now += LEASE_S * 0.45
            self._carry_out({one: [{"do": "beat"}, *orders], other: [{"do": "beat"}]})

    def _only_beating(self, process: StoreProcess, looks: int) -> None:
        """Let only this server beat, ``looks`` times."""
        for _ in range(looks):
            self._now += LEASE_S * 0.45
            self._carry_out({process: [{"do": "beat"}]})

    @invariant()
    def the_books_are_right(self) -> None:
        check(self._before)  # read after the last step
        for row in self._before.requests.values():
            assert row.error != _INTERRUPTED["error"] or row.mode == "v1", "a v2 request was given up"

    def teardown(self) -> None:
        """Kill one server; the other must be able to end every request."""
        if not self._alive:
            return
        survivor, other = self._alive
        try:
            if self._wrong:
                return
            other.kill()
            self._only_beating(survivor, LOOKS)
            self._end_all(survivor)
            check(self._before)
            assert not [row for row in self._before.requests.values() if row.state in UNFINISHED]
        finally:
            for process in self._alive:
                self._processes.give_back(process)

    def _end_all(self, survivor: StoreProcess) -> None:
        """Begin and end every request, and assert that each can be begun once and ended once."""
        books = self._before
        mine = sorted(books.unfinished(survivor.name))
        waiting = [name for name in mine if books.requests[name].state == "QUEUED"]
        for kind, names in (("begin", waiting), ("finish", mine)):
            orders = [{"do": kind, "id": name} for name in names]
            answers = self._carry_out({survivor: orders * 2})[survivor]
            assert answers is not None
            assert [a + b for a, b in zip(answers[: len(names)], answers[len(names) :], strict=True)] == [
                1 for _ in names
            ]

    # Carrying orders out, and checking the answers.

    def _carry_out(
        self, orders: dict[StoreProcess, list[Order]], victim: tuple[StoreProcess, float] | None = None
    ) -> dict[StoreProcess, list[Answer] | None]:
        """Send all orders simultaneously, kill the victim after its seconds, and check every answer."""
        given = {process: [self._whole(process, o) for o in some] for process, some in orders.items()}
        for process, some in given.items():
            process.send(some)
        if victim is not None:
            threading.Event().wait(victim[1])
            victim[0].kill()
        answers = {process: process.answers() for process in given}
        before, self._before = self._before, read(self._database)
        step = [(process.name, some, answers[process]) for process, some in given.items()]
        self._story.append((step, victim and victim[0].name))
        try:
            check_change(before, self._before)
            for process, some in given.items():
                self._judge(process, some, answers[process], before)
            for process in self._alive:
                known = process.killed or self._before.unfinished(process.name) <= self._has[process.name]
                assert known, f"{process.name} has requests that it does not know of"
        except AssertionError:
            self._wrong = True
            print(*self._story, sep="\n")  # noqa: T201 - pytest shows it
            raise
        return answers

    def _whole(self, process: StoreProcess, order: Order) -> Order:
        """Return the order with ids in place of numbers."""
        order = dict(order)
        if order["do"] == "accept":
            order["id"] = f"r{len(self._ids)}"
            self._ids.append(order["id"])
        elif isinstance(order.get("id"), int):
            latest = self._ids[-12:]
            order["id"] = latest[order["id"] % len(latest)] if latest else "none"
        elif order["do"] == "beat":
            steps = {name: len(self._story) for name in sorted(self._has[process.name])}
            order |= {"now": self._now, "steps": steps}
        if "key" in order:
            order["key"] = self._keys[order["key"]]
        return order

    def _judge(
        self, process: StoreProcess, orders: list[Order], answers: list[Answer] | None, before: Books
    ) -> None:
        takes_over = any(order["do"] == "beat" for order in orders)
        for order, answer in zip(orders, answers or [], strict=answers is not None):
            kind, error = order["do"], answer.get("error") if isinstance(answer, dict) else None
            self._seen[f"{kind} {error}" if error else kind] += 1
            assert not (isinstance(answer, dict) and "bug" in answer), answer["bug"]
            assert error in (None, "CreditsError", "IdempotencyError"), order
            if kind == "accept":
                self._judge_accepted(process, order, answer)
            elif kind == "beat":
                self._judge_beat(process, answer, before)
            elif kind in ("begin", "finish", "fail") and answer:
                row = before.requests.get(order["id"])
                mine = row is None or row.server_id == process.name or takes_over
                assert mine, (process.name, order, row)
                self._ended[order["id"]] += kind != "begin"
                assert self._ended[order["id"]] <= 1, order

    def _judge_accepted(self, process: StoreProcess, order: Order, answer: Answer) -> None:
        rows = self._before.requests
        if answer == order["id"]:
            self._has[process.name].add(answer)
            assert answer in rows
            return
        assert order["id"] not in rows, "a refused request was written down"
        if isinstance(answer, str):  # the id of an earlier request
            digest = hashlib.sha256(order["idem"].encode()).hexdigest()
            assert rows[answer].idempotency_sha256 in (digest, None)
            assert (rows[answer].key_id, rows[answer].body_digest) == (order["key"], order["digest"])

    def _judge_beat(self, process: StoreProcess, answer: Answer, before: Books) -> None:
        after, has = self._before.requests, self._has[process.name]
        self._seen["taken over"] += len(answer["taken"])
        self._seen["taken for dead"] += len(answer["dead"])
        self._seen["lost"] += len(answer["lost"])
        has -= set(answer["lost"])
        for request_id in answer["taken"]:
            has.add(request_id)
            assert after[request_id].mode == "v2"
        for request_id in answer["cancelled"]:
            assert after[request_id].cancel_asked


@pytest.fixture
def database(migrated_postgres: str) -> Iterator[Database]:
    with Database(migrated_postgres) as database:
        yield database


@pytest.mark.slow
@pytest.mark.timeout(0 if LONG else 300)
def test_any_actions_of_two_servers_leave_the_books_right(database: Database) -> None:
    """Money and requests survive any order of events between servers, kills included."""
    seen: Counter[str] = Counter()
    how = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        derandomize=not LONG,
        database=None,
        phases=[Phase.generate],  # a failure that depends on timing cannot be shrunk by trying again
        suppress_health_check=list(HealthCheck),
    )
    with processes(str(database.engine.url)) as given:
        run_state_machine_as_test(lambda: Hunt(given, database, seen), settings=how)
    print(dict(sorted(seen.items())))  # noqa: T201 - for the reader of a long hunt
    for what in ("taken over", "lost", "taken for dead", "accept CreditsError", "accept IdempotencyError"):
        assert seen[what] > 0, f"the hunt never saw {what}"
