"""The choice of a replica, and the predicted backlogs behind it, for any order of events."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engines.routing import BacklogTable, least_backlog

SECONDS = st.floats(0, 100)
NAMES = st.sampled_from("abcd")


@dataclass
class Clock:
    """A clock that tests set."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Replica:
    """A replica that works off a second of work per second, and records its backlog."""

    clock: Clock
    idle_at: float = 0.0
    history: list[tuple[float, float]] = field(default_factory=list)  # (when, seconds of work)

    def take(self, work_s: float) -> None:
        self.idle_at = max(self.idle_at, self.clock()) + work_s

    def record(self) -> None:
        self.history.append((self.clock(), max(self.idle_at - self.clock(), 0.0)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@given(st.dictionaries(NAMES, SECONDS, min_size=1), st.integers(0, 9))
def test_no_replica_has_less_work_than_the_chosen_one(predicted: dict[str, float], seed: int) -> None:
    """The rule itself."""
    chosen = least_backlog(predicted, random.Random(seed))
    assert predicted[chosen] == min(predicted.values())


EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.01, 5)),
    st.tuples(st.just("send"), st.floats(0.01, 10)),
    st.tuples(st.just("record"), st.just(0.0)),
    st.tuples(st.just("report"), st.floats(0, 1)),  # which of the records, from the first to the last
)


@given(st.lists(EVENTS, max_size=40))
def test_the_only_router_knows_a_replica_exactly(events: list[tuple[str, float]]) -> None:
    """Reports of any age, in any order: each request counts once."""
    clock = Clock()
    table, replica = BacklogTable(clock=clock), Replica(clock)
    for what, amount in events:
        if what == "pass":
            clock.now += amount
        elif what == "send":
            clock.now += 1e-6  # a report and a request of the same instant have no order
            table.sent("a", amount)
            replica.take(amount)
        elif what == "record":
            clock.now += 1e-6
            replica.record()
        elif replica.history:
            at, backlog_s = replica.history[round(amount * (len(replica.history) - 1))]
            table.report("a", backlog_s, age_s=clock() - at)
        assert table.predicted_s("a") == pytest.approx(max(replica.idle_at - clock(), 0), abs=1e-4)


@given(SECONDS, SECONDS)
def test_a_backlog_runs_down_with_the_clock(backlog_s: float, later_s: float) -> None:
    """And never below 0."""
    clock = Clock()
    table = BacklogTable(clock=clock)
    table.report("a", backlog_s)
    clock.now += later_s
    assert table.predicted_s("a") == pytest.approx(max(backlog_s - later_s, 0.0))


@given(SECONDS, SECONDS, SECONDS)
def test_a_report_replaces_the_prediction(sent_s: float, idle_s: float, reported_s: float) -> None:
    """It corrects for requests of other routers, and for those that the replica refused."""
    clock = Clock()
    table = BacklogTable(clock=clock)
    table.sent("a", sent_s)
    clock.now += idle_s
    table.report("a", reported_s)
    assert table.predicted_s("a") == pytest.approx(reported_s)


def test_a_report_older_than_the_last_changes_nothing(clock: Clock) -> None:
    """Messages may overtake each other; the newest is right."""
    table = BacklogTable(clock=clock)
    table.report("a", 1.0)
    table.report("a", 50.0, age_s=2.0)
    assert table.predicted_s("a") == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_a_burst_between_two_reports_is_spread(seed: int, clock: Clock) -> None:
    """All were idle a second ago: each gets one before any gets a second."""
    table, replicas = BacklogTable(clock=clock, chance=random.Random(seed)), [f"gpu{i}" for i in range(50)]
    for replica in replicas:
        table.report(replica, 0.0, age_s=0.9)
    for _ in range(2 * len(replicas)):
        table.sent(table.choose(replicas), 3.0)
    assert {table.predicted_s(replica) for replica in replicas} == {6.0}


def test_idle_replicas_are_drawn_evenly() -> None:
    """Routers with the same reports must not all send to the same replica."""
    table = BacklogTable(clock=Clock(), chance=random.Random(7))
    drawn = Counter(table.choose(["a", "b", "c", "d"]) for _ in range(4000))
    assert set(drawn) == {"a", "b", "c", "d"}
    assert max(drawn.values()) < 1.2 * min(drawn.values())


def test_a_seed_repeats_the_choices(clock: Clock) -> None:
    """So a simulation can be repeated."""
    one, other = (BacklogTable(clock=clock, chance=random.Random(3)) for _ in range(2))
    assert [one.choose("abcd") for _ in range(20)] == [other.choose("abcd") for _ in range(20)]


def test_a_new_replica_counts_as_idle(clock: Clock) -> None:
    """It gets work before its first report."""
    table = BacklogTable(clock=clock)
    table.report("old", 0.5)
    assert table.choose(["old", "new"]) == "new"


def test_only_a_given_replica_is_chosen(clock: Clock) -> None:
    """The caller knows which replicas take work now."""
    table = BacklogTable(clock=clock)
    table.report("draining", 0.0)
    table.report("busy", 9.0)
    assert table.choose(["busy"]) == "busy"


def test_a_removed_replica_is_forgotten(clock: Clock) -> None:
    """A replica on another machine may get its name later."""
    table = BacklogTable(clock=clock)
    table.report("a", 30.0)
    table.sent("a", 5.0)
    table.forget("a")
    table.forget("a")
    assert table.predicted_s("a") == 0.0


def test_a_replica_without_reports_takes_bounded_memory(clock: Clock) -> None:
    """Nor is it avoided for ever: the work sent to it runs down too."""
    table = BacklogTable(clock=clock)
    for _ in range(5000):
        table.sent("a", 0.001)
    assert table.predicted_s("a") == pytest.approx(5.0)
    assert len(table._predictions["a"].sent) <= 1024
    clock.now += 10
    assert table.predicted_s("a") == 0.0
