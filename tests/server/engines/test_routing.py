"""Which replica gets a request: promises about what a router believes, for any order of events."""

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
    """Stands until it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Replica:
    """Works off what it is sent, one second a second, and remembers what it had when."""

    clock: Clock
    idle_at: float = 0.0
    history: list[tuple[float, float]] = field(default_factory=list)  # (when, seconds of work)

    def take(self, work_s: float) -> None:
        self.idle_at = max(self.idle_at, self.clock()) + work_s

    def look(self) -> None:
        self.history.append((self.clock(), max(self.idle_at - self.clock(), 0.0)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@given(st.dictionaries(NAMES, SECONDS, min_size=1), st.integers(0, 9))
def test_nobody_has_less_before_it_than_the_chosen_one(predicted: dict[str, float], seed: int) -> None:
    """The rule itself."""
    chosen = least_backlog(predicted, random.Random(seed))
    assert predicted[chosen] == min(predicted.values())


EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.01, 5)),
    st.tuples(st.just("send"), st.floats(0.01, 10)),
    st.tuples(st.just("look"), st.just(0.0)),
    st.tuples(st.just("report"), st.floats(0, 1)),  # which of the looks, from the first to the last
)


@given(st.lists(EVENTS, max_size=40))
def test_the_only_router_knows_a_replica_exactly(events: list[tuple[str, float]]) -> None:
    """However old its reports are, and in whatever order they come: what was sent counts once."""
    clock = Clock()
    board, replica = BacklogTable(clock=clock), Replica(clock)
    for what, amount in events:
        if what == "pass":
            clock.now += amount
        elif what == "send":
            clock.now += 1e-6  # a report and a request of the same instant have no order
            board.sent("a", amount)
            replica.take(amount)
        elif what == "look":
            clock.now += 1e-6
            replica.look()
        elif replica.history:
            at, backlog_s = replica.history[round(amount * (len(replica.history) - 1))]
            board.report("a", backlog_s, age_s=clock() - at)
        assert board.predicted_s("a") == pytest.approx(max(replica.idle_at - clock(), 0), abs=1e-4)


@given(SECONDS, SECONDS)
def test_a_backlog_runs_down_with_the_clock(backlog_s: float, later_s: float) -> None:
    """And never below nothing."""
    clock = Clock()
    board = BacklogTable(clock=clock)
    board.report("a", backlog_s)
    clock.now += later_s
    assert board.predicted_s("a") == pytest.approx(max(backlog_s - later_s, 0.0))


@given(SECONDS, SECONDS, SECONDS)
def test_a_report_takes_the_place_of_what_was_believed(sent_s: float, idle_s: float, told_s: float) -> None:
    """What other routers sent, and what a replica refused, is put right by its next report."""
    clock = Clock()
    board = BacklogTable(clock=clock)
    board.sent("a", sent_s)
    clock.now += idle_s
    board.report("a", told_s)
    assert board.predicted_s("a") == pytest.approx(told_s)


def test_a_report_that_was_overtaken_changes_nothing(clock: Clock) -> None:
    """Messages cross; the younger one is right."""
    board = BacklogTable(clock=clock)
    board.report("a", 1.0)
    board.report("a", 50.0, age_s=2.0)
    assert board.predicted_s("a") == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_a_burst_between_two_reports_is_spread(seed: int, clock: Clock) -> None:
    """All were idle a second ago: each gets one before any gets a second."""
    board, replicas = BacklogTable(clock=clock, chance=random.Random(seed)), [f"gpu{i}" for i in range(50)]
    for replica in replicas:
        board.report(replica, 0.0, age_s=0.9)
    for _ in range(2 * len(replicas)):
        board.sent(board.choose(replicas), 3.0)
    assert {board.predicted_s(replica) for replica in replicas} == {6.0}


def test_idle_replicas_are_drawn_alike() -> None:
    """Several routers that know the same must not all send to the same one."""
    board = BacklogTable(clock=Clock(), chance=random.Random(7))
    drawn = Counter(board.choose(["a", "b", "c", "d"]) for _ in range(4000))
    assert set(drawn) == {"a", "b", "c", "d"}
    assert max(drawn.values()) < 1.2 * min(drawn.values())


def test_the_same_chance_chooses_the_same(clock: Clock) -> None:
    """A simulation can be repeated."""
    one, other = (BacklogTable(clock=clock, chance=random.Random(3)) for _ in range(2))
    assert [one.choose("abcd") for _ in range(20)] == [other.choose("abcd") for _ in range(20)]


def test_a_replica_nobody_knows_yet_is_idle(clock: Clock) -> None:
    """One that was just started gets work before it has reported for the first time."""
    board = BacklogTable(clock=clock)
    board.report("old", 0.5)
    assert board.choose(["old", "new"]) == "new"


def test_one_that_is_not_asked_about_is_not_chosen(clock: Clock) -> None:
    """The caller knows which replicas take work now."""
    board = BacklogTable(clock=clock)
    board.report("draining", 0.0)
    board.report("busy", 9.0)
    assert board.choose(["busy"]) == "busy"


def test_a_replica_that_is_gone_is_forgotten(clock: Clock) -> None:
    """Its name may come back on another machine, with nothing to do."""
    board = BacklogTable(clock=clock)
    board.report("a", 30.0)
    board.sent("a", 5.0)
    board.forget("a")
    board.forget("a")
    assert board.predicted_s("a") == 0.0


def test_a_silent_replica_does_not_fill_the_memory(clock: Clock) -> None:
    """Nor is it avoided for ever: what was sent to it runs down too."""
    board = BacklogTable(clock=clock)
    for _ in range(5000):
        board.sent("a", 0.001)
    assert board.predicted_s("a") == pytest.approx(5.0)
    assert len(board._predictions["a"].sent) <= 1024
    clock.now += 10
    assert board.predicted_s("a") == 0.0
