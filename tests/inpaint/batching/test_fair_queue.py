"""Who is next among those who wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.batching.fair_queue import FairQueue
from inpaint.batching.work import Bucket, Work

BUCKET = Bucket(128, 128)


def work(key: str) -> Work:
    return Work(BUCKET, calls=1, key=key)


def line_of(*items: tuple[str, float]) -> FairQueue[str]:
    """Items named by key and place: a0, a1, b2 …"""
    line: FairQueue[str] = FairQueue()
    for i, (key, cost_s) in enumerate(items):
        line.push(f"{key}{i}", work(key), cost_s)
    return line


def drained(line: FairQueue[str]) -> list[str]:
    return [line.pop() for _ in range(len(line))]


def test_one_key_is_served_first_come_first_served() -> None:
    """A single user: whatever the requests cost, they come back in the order in which they were sent."""
    line = line_of(("a", 9.0), ("a", 1.0), ("a", 5.0))
    assert drained(line) == ["a0", "a1", "a2"]


def test_a_key_that_floods_delays_the_next_key_by_one_item() -> None:
    """A customer who sends one request behind another's hundred."""
    line = line_of(*[("flood", 1.0)] * 100, ("b", 1.0))
    assert drained(line).index("b100") == 1


def test_keys_share_by_seconds_not_by_items() -> None:
    """A customer with small requests gets more of them through than one with large requests."""
    line = line_of(*[("large", 4.0)] * 10, *[("small", 1.0)] * 40)
    first = drained(line)[:25]
    assert [item[:5] for item in first].count("small") == 20


def test_a_key_that_was_away_has_saved_nothing_up() -> None:
    """Somebody who comes back after lunch may not hold up those who worked."""
    line = line_of(*[("a", 1.0)] * 10)
    for _ in range(5):
        line.pop()
    for i in range(5):
        line.push(f"b{i}", work("b"), 1.0)
    assert sorted(drained(line)[:4]) == ["a5", "a6", "b0", "b1"]


def test_ever_new_keys_do_not_starve_one_that_waits() -> None:
    """Whoever makes a key a request gets no more than the others."""
    line = line_of(("a", 1.0), ("a", 1.0), ("a", 1.0))
    popped = []
    for i in range(9):
        line.push(f"new{i}", work(f"new{i}"), 1.0)
        popped.append(line.pop())
    assert {"a0", "a1", "a2"} <= set(popped)


def test_what_is_removed_is_not_charged() -> None:
    """Somebody who cancels a large request is not served later for it."""
    line = line_of(("a", 100.0), ("a", 1.0), ("b", 1.0), ("b", 1.0))
    assert line.remove("a0")
    assert drained(line) == ["a1", "b2", "b3"]


def test_removing_what_is_not_there_says_so() -> None:
    """The engine may cancel what was begun a moment ago."""
    line = line_of(("a", 1.0))
    assert not line.remove("b0")
    assert line.remove("a0")
    assert not line.remove("a0")
    assert len(line) == 0


def test_an_empty_line_has_no_next() -> None:
    """A mistake of ours must not pass for an item."""
    line = line_of()
    with pytest.raises(IndexError, match="empty"):
        line.pop()
    with pytest.raises(IndexError, match="empty"):
        line.peek()


def test_keys_that_left_are_forgotten() -> None:
    """A server that runs for months sees millions of keys."""
    line = line_of(("stays", 1.0))
    for i in range(1000):
        line.push("item", work(f"key{i}"), 1.0)
        line.pop()
    assert len(line._queues) <= 3


def test_where_nobody_waits_nobody_is_in_debt() -> None:
    """Whoever used an idle device is not put last for it."""
    line = line_of(("a", 100.0), ("b", 1.0))
    assert drained(line) == ["a0", "b1"]
    line.push("a", work("a"), 1.0)
    line.push("b", work("b"), 1.0)
    assert drained(line) == ["a", "b"]


def test_where_two_are_due_alike_the_first_to_come_is_first() -> None:
    """A newcomer counts whoever stood there before."""
    line = line_of(("a", 1.0))
    assert line.ahead(work("b")) == ["a0"]
    line.push("b", work("b"), 1.0)
    assert drained(line) == ["a0", "b"]


def test_a_key_that_is_behind_its_share_is_told_what_it_has() -> None:
    """Its next request comes right behind its own, not behind what everybody had on average."""
    line = line_of(("a", 9.0), ("b", 1.0), ("b", 1.0), ("a", 1.0))
    assert [line.pop(), line.pop()] == ["a0", "b1"]
    assert line.ahead(work("b")) == ["b2"]
    line.push("b", work("b"), 1.0)
    assert drained(line) == ["b2", "b", "a3"]


PUSHES = st.tuples(st.sampled_from("abc"), st.floats(0, 10))
MOVES = st.lists(st.one_of(PUSHES, st.just("pop"), st.integers(0, 20)), max_size=60)


@given(MOVES)
def test_iterating_and_ahead_tell_the_order_of_popping(moves: list[object]) -> None:
    """Predictions rest on it: who is ahead of a newcomer is who is popped before it."""
    line: FairQueue[int] = FairQueue()
    inside: list[int] = []
    for number, move in enumerate(moves):
        if isinstance(move, tuple):
            key, cost_s = move
            ahead = line.ahead(work(key))
            line.push(number, work(key), cost_s)
            inside.append(number)
            order = list(line)
            assert ahead == order[: order.index(number)]
        elif move == "pop" and inside:
            expected = next(iter(line))
            assert line.peek() == expected
            assert line.pop() == expected
            inside.remove(expected)
        elif isinstance(move, int):
            assert line.remove(move) == (move in inside)
            inside = [item for item in inside if item != move]
        assert sorted(line) == inside
        assert len(line) == len(inside)
    assert list(line) == [line.pop() for _ in range(len(line))]


COSTS = st.lists(st.floats(0.1, 10), min_size=30, max_size=30)


@given(COSTS, COSTS)
def test_two_keys_that_both_wait_are_never_further_apart_than_two_items(
    a: list[float], b: list[float]
) -> None:
    """Fairness with a stated bound: the dearest item of each key."""
    line: FairQueue[tuple[str, float]] = FairQueue()
    for key, costs in (("a", a), ("b", b)):
        for cost_s in costs:
            line.push((key, cost_s), work(key), cost_s)
    served = {"a": 0.0, "b": 0.0}
    left = {"a": 30, "b": 30}
    while all(left.values()):
        key, cost_s = line.pop()
        served[key] += cost_s
        left[key] -= 1
        assert abs(served["a"] - served["b"]) <= max(a) + max(b) + 1e-6
