"""The fair queue: whose item is next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.batching.fair_queue import FairQueue
from inpaint.batching.work import Bucket, Work

BUCKET = Bucket(128, 128)


def work(key: str) -> Work:
    return Work(BUCKET, calls=1, key=key)


def queue_of(*items: tuple[str, float]) -> FairQueue[str]:
    """Items named by key and position: a0, a1, b2 …"""
    queue: FairQueue[str] = FairQueue()
    for i, (key, cost_s) in enumerate(items):
        queue.push(f"{key}{i}", work(key), cost_s)
    return queue


def drained(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_one_key_is_served_first_come_first_served() -> None:
    """A single user's requests are painted in the order in which they were sent, at any cost."""
    queue = queue_of(("a", 9.0), ("a", 1.0), ("a", 5.0))
    assert drained(queue) == ["a0", "a1", "a2"]


def test_a_key_that_floods_delays_the_next_key_by_one_item() -> None:
    """A customer who sends one request behind another's hundred."""
    queue = queue_of(*[("flood", 1.0)] * 100, ("b", 1.0))
    assert drained(queue).index("b100") == 1


def test_keys_share_by_seconds_not_by_items() -> None:
    """A customer with small requests gets more of them through than one with large requests."""
    queue = queue_of(*[("large", 4.0)] * 10, *[("small", 1.0)] * 40)
    first = drained(queue)[:25]
    assert [item[:5] for item in first].count("small") == 20


def test_a_key_that_paused_has_gained_no_credit() -> None:
    """A user who comes back after lunch must not delay those who kept working."""
    queue = queue_of(*[("a", 1.0)] * 10)
    for _ in range(5):
        queue.pop()
    for i in range(5):
        queue.push(f"b{i}", work("b"), 1.0)
    assert sorted(drained(queue)[:4]) == ["a5", "a6", "b0", "b1"]


def test_ever_new_keys_do_not_starve_one_that_waits() -> None:
    """A user with a new key for each request gets no more than the others."""
    queue = queue_of(("a", 1.0), ("a", 1.0), ("a", 1.0))
    popped = []
    for i in range(9):
        queue.push(f"new{i}", work(f"new{i}"), 1.0)
        popped.append(queue.pop())
    assert {"a0", "a1", "a2"} <= set(popped)


def test_what_is_removed_is_not_charged() -> None:
    """A user who cancels a large request is not served later for it."""
    queue = queue_of(("a", 100.0), ("a", 1.0), ("b", 1.0), ("b", 1.0))
    assert queue.remove("a0")
    assert drained(queue) == ["a1", "b2", "b3"]


def test_removing_what_is_not_there_says_so() -> None:
    """The engine may cancel what was begun a moment ago."""
    queue = queue_of(("a", 1.0))
    assert not queue.remove("b0")
    assert queue.remove("a0")
    assert not queue.remove("a0")
    assert len(queue) == 0


def test_an_empty_queue_has_no_next() -> None:
    """A mistake of ours must not pass for an item."""
    queue = queue_of()
    with pytest.raises(IndexError, match="empty"):
        queue.pop()
    with pytest.raises(IndexError, match="empty"):
        queue.peek()


def test_keys_that_left_are_forgotten() -> None:
    """A server that runs for months sees millions of keys."""
    queue = queue_of(("stays", 1.0))
    for i in range(1000):
        queue.push("item", work(f"key{i}"), 1.0)
        queue.pop()
    assert len(queue._queues) <= 3


def test_in_an_empty_queue_no_key_is_in_debt() -> None:
    """A key that used an idle device is not put last for it."""
    queue = queue_of(("a", 100.0), ("b", 1.0))
    assert drained(queue) == ["a0", "b1"]
    queue.push("a", work("a"), 1.0)
    queue.push("b", work("b"), 1.0)
    assert drained(queue) == ["a", "b"]


def test_of_two_equal_turns_the_earlier_arrival_is_first() -> None:
    """A new item counts the items that were there before."""
    queue = queue_of(("a", 1.0))
    assert queue.ahead(work("b")) == ["a0"]
    queue.push("b", work("b"), 1.0)
    assert drained(queue) == ["a0", "b"]


def test_a_key_that_is_behind_its_share_gets_its_own_forecast() -> None:
    """Its next request comes right behind its own, not behind the average of all keys."""
    queue = queue_of(("a", 9.0), ("b", 1.0), ("b", 1.0), ("a", 1.0))
    assert [queue.pop(), queue.pop()] == ["a0", "b1"]
    assert queue.ahead(work("b")) == ["b2"]
    queue.push("b", work("b"), 1.0)
    assert drained(queue) == ["b2", "b", "a3"]


PUSHES = st.tuples(st.sampled_from("abc"), st.floats(0, 10))
MOVES = st.lists(st.one_of(PUSHES, st.just("pop"), st.integers(0, 20)), max_size=60)


@given(MOVES)
def test_iterating_and_ahead_give_the_order_of_popping(moves: list[object]) -> None:
    """Forecasts depend on it: the items ahead of a new one are those that are popped before it."""
    queue: FairQueue[int] = FairQueue()
    inside: list[int] = []
    for number, move in enumerate(moves):
        if isinstance(move, tuple):
            key, cost_s = move
            ahead = queue.ahead(work(key))
            queue.push(number, work(key), cost_s)
            inside.append(number)
            order = list(queue)
            assert ahead == order[: order.index(number)]
        elif move == "pop" and inside:
            expected = next(iter(queue))
            assert queue.peek() == expected
            assert queue.pop() == expected
            inside.remove(expected)
        elif isinstance(move, int):
            assert queue.remove(move) == (move in inside)
            inside = [item for item in inside if item != move]
        assert sorted(queue) == inside
        assert len(queue) == len(inside)
    assert list(queue) == [queue.pop() for _ in range(len(queue))]


COSTS = st.lists(st.floats(0.1, 10), min_size=30, max_size=30)


@given(COSTS, COSTS)
def test_two_keys_that_both_wait_are_never_further_apart_than_two_items(
    a: list[float], b: list[float]
) -> None:
    """Fairness with a stated bound: the most expensive item of each key."""
    queue: FairQueue[tuple[str, float]] = FairQueue()
    for key, costs in (("a", a), ("b", b)):
        for cost_s in costs:
            queue.push((key, cost_s), work(key), cost_s)
    served = {"a": 0.0, "b": 0.0}
    left = {"a": 30, "b": 30}
    while all(left.values()):
        key, cost_s = queue.pop()
        served[key] += cost_s
        left[key] -= 1
        assert abs(served["a"] - served["b"]) <= max(a) + max(b) + 1e-6
