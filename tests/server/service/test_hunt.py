"""A hunt for bugs between two servers of one database that do anything at once and die at any moment.

Hypothesis chooses what they do; after each step the books must be right, and in the end nothing that was
accepted may be lost. ``HUNT_EXAMPLES=5000`` hunts for a long time, each run elsewhere.
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

EXAMPLES = int(os.environ.get("HUNT_EXAMPLES", "15"))  # of 40 steps; 3 seconds each on an idle machine
LONG = "HUNT_EXAMPLES" in os.environ
LOOKS = 4  # of one that must be sure that the other is dead
KEYS, BALANCE = 2, 30  # micro-credits: a few requests use it up

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
    """Two servers, their orders, and what is known of what they did."""

    def __init__(self, processes: Processes, database: Database, seen: Counter[str]) -> None:
        super().__init__()
        self._processes, self._database, self._seen = processes, database, seen
        self._keys = emptied(database, KEYS, BALANCE)
        self._now = 0.0
        self._ids: list[str] = []
        self._story: list[object] = []  # told when something is wrong
        self._wrong = False
        self._ended: Counter[str] = Counter()  # by how many answers
        self._alive: list[StoreProcess] = []
        self._has: dict[str, set[str]] = {}  # by server: what it was told to paint
        self._before = read(database)

    @initialize()
    def start(self) -> None:
        self._alive = [self._new(), self._new()]

    def _new(self) -> StoreProcess:
        """A server that has just started."""
        process = self._processes.take()
        self._has[process.name] = set()
        self._at_once({process: [{"do": "beat"}]})
        return process

    @rule(first=_ORDERS, second=_ORDERS, victim=_VICTIM, after_ms=st.sampled_from([0, 1, 2, 3, 5, 8]))
    def at_once(self, first: list[Order], second: list[Order], victim: int | None, after_ms: int) -> None:
        """Both do several things; now and then one dies meanwhile, and is started again."""
        orders = dict(zip(self._alive, (first, second), strict=True))
        if victim is None:
            self._at_once(orders)
            return
        killed = self._alive[victim]
        self._at_once(orders, (killed, after_ms / 1000))
        self._alive[victim] = self._new()
        self._processes.give_back(killed)

    @rule(order=_ORDER)
    def the_same(self, order: Order) -> None:
        """Both are asked for the same, by a client that is in a hurry."""
        self._at_once({process: [order, order] for process in self._alive})

    @rule(which=_WHICH, orders=_ORDERS, how=st.sampled_from(["paused", "at the last moment", "left"]))
    def away(self, which: int, orders: list[Order], how: str) -> None:
        """One is not heard of for a while, or goes for good."""
        one, other = self._alive[which], self._alive[1 - which]
        if how == "left":
            self._at_once({one: [{"do": "leave"}], other: orders})
            self._alive[which] = self._new()
            self._processes.give_back(one)
            return
        self._silence(other, LOOKS if how == "paused" else LOOKS - 1)
        if how == "paused":  # and goes on as if nothing had happened
            self._at_once({one: orders, other: []})
        else:
            self._now += LEASE_S * 0.45
            self._at_once({one: [{"do": "beat"}, *orders], other: [{"do": "beat"}]})

    def _silence(self, process: StoreProcess, looks: int) -> None:
        """Only this one is heard of for so many of its looks."""
        for _ in range(looks):
            self._now += LEASE_S * 0.45
            self._at_once({process: [{"do": "beat"}]})

    @invariant()
    def the_books_are_right(self) -> None:
        check(self._before)  # of after the last step
        for row in self._before.requests.values():
            assert row.error != _INTERRUPTED["error"] or row.mode == "v1", "nobody holds the line for v2"

    def teardown(self) -> None:
        """One dies, and the other must be able to end everything."""
        if not self._alive:
            return
        survivor, other = self._alive
        try:
            if self._wrong:
                return
            other.kill()
            self._silence(survivor, LOOKS)
            self._end_all(survivor)
            check(self._before)
            assert not [row for row in self._before.requests.values() if row.state in UNFINISHED]
        finally:
            for process in self._alive:
                self._processes.give_back(process)

    def _end_all(self, survivor: StoreProcess) -> None:
        """Each can be begun once and ended once."""
        books = self._before
        mine = sorted(books.unfinished(survivor.name))
        waiting = [name for name in mine if books.requests[name].state == "QUEUED"]
        for kind, names in (("begin", waiting), ("finish", mine)):
            orders = [{"do": kind, "id": name} for name in names]
            answers = self._at_once({survivor: orders * 2})[survivor]
            assert answers is not None
            assert [a + b for a, b in zip(answers[: len(names)], answers[len(names) :], strict=True)] == [
                1 for _ in names
            ]

    # What is done, and what must be true of the answers.

    def _at_once(
        self, orders: dict[StoreProcess, list[Order]], victim: tuple[StoreProcess, float] | None = None
    ) -> dict[StoreProcess, list[Answer] | None]:
        given = {process: [self._whole(process, o) for o in some] for process, some in orders.items()}
        for process, some in given.items():
            process.send(some)
        if victim is not None:
            threading.Event().wait(victim[1])
            victim[0].kill()
        answers = {process: process.answers() for process in given}
        before, self._before = self._before, read(self._database)
        told = [(process.name, some, answers[process]) for process, some in given.items()]
        self._story.append((told, victim and victim[0].name))
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
        """The order with ids in the place of numbers."""
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
        assert order["id"] not in rows, "refused, and charged all the same"
        if isinstance(answer, str):  # an earlier one's
            word = hashlib.sha256(order["idem"].encode()).hexdigest()
            assert rows[answer].idempotency_sha256 in (word, None)
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


@pytest.mark.timeout(0 if LONG else 300)
def test_whatever_two_servers_do_at_once_the_books_are_right(database: Database) -> None:
    """Money and requests survive any order of events between servers, kills included."""
    seen: Counter[str] = Counter()
    how = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        derandomize=not LONG,
        database=None,
        phases=[Phase.generate],  # what depends on the moment cannot be made smaller by trying again
        suppress_health_check=list(HealthCheck),
    )
    with processes(str(database.engine.url)) as given:
        run_state_machine_as_test(lambda: Hunt(given, database, seen), settings=how)
    print(dict(sorted(seen.items())))  # noqa: T201 - for whoever hunts for long
    for what in ("taken over", "lost", "taken for dead", "accept CreditsError", "accept IdempotencyError"):
        assert seen[what] > 0, f"the hunt never saw {what}"
