"""Calls of two kinds in one bucket: the deepest level is computed, or comes from the rows' caches."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.batching.admission import alone_s, demand_s
from inpaint.batching.batcher import Batch, Batcher, QueuedWork, bucket_of
from inpaint.batching.work import Bucket, Work
from inpaint.pace import call_plan
from tests.inpaint.batching.test_admission import Simple as WithoutCaches
from tests.support.examples import examples

LARGE, SMALL = Bucket(128, 128), Bucket(64, 64)
DEFAULT = call_plan("DPM2 Karras", 25, 0.9, "near")
NEAR = Work(LARGE, DEFAULT.made, cached=DEFAULT.cached_calls)  # 23 calls, ten of them cached
NOISY = Work(LARGE, 22, cached=call_plan("Euler a", 25, 0.9, "near").cached_calls)  # twelve of 22
EXACT = Work(LARGE, 43)


class Simple(WithoutCaches):
    """Costs: 1 s a slot, 0.25 s with caches; no more than encoding and decoding need; 4 slots a call."""

    def step_s(self, bucket: Bucket, slots: int) -> float:
        return super().step_s(bucket, slots) * (0.25 if bucket.cached else 1.0)


COSTS = Simple()


class Loop:
    """A batcher whose calls take their predicted seconds."""

    def __init__(self, *works: Work) -> None:
        self.now = 0.0
        self.batcher = Batcher(COSTS, clock=lambda: self.now)
        self.entries = [self.batcher.submit(work) for work in works]

    def step(self) -> Batch:
        for entry in self.batcher.to_begin():
            self.batcher.begun(entry)
        batch = self.batcher.next_batch()
        if batch:
            self.now += COSTS.step_s(bucket_of(batch), sum(entry.work.slots for entry, _ in batch))
        self.batcher.stepped(batch)
        for entry in {entry for entry, _ in batch}:
            if not any(entry.left):
                self.batcher.remove(entry)
        return batch

    def finish(self) -> list[tuple[Bucket, Batch, Batch]]:
        """All calls: the bucket of each, its rows, and the rows of that bucket that were ready."""
        calls = []
        while True:
            before = {id(entry): list(entry.left) for entry in self.entries}
            batch = self.step()
            if not batch:
                return calls
            kinds = {entry.work.is_cached(before[id(entry)][i]) for entry, i in batch}
            assert len(kinds) == 1, "a call has one kind"
            bucket = batch[0][0].work.bucket
            others = [
                (entry, i)
                for entry in self.entries
                if entry.work.bucket == bucket and entry.state == "running"
                for i, left in enumerate(before[id(entry)])
                if left
            ]
            calls.append((bucket._replace(cached=kinds.pop()), batch, others))


def test_every_call_of_a_row_is_of_the_kind_that_its_plan_says() -> None:
    """A cached call without a cache would crash, and a full one instead would be slower than promised."""
    loop = Loop(NEAR)
    kinds = [bucket.cached for bucket, _, _ in loop.finish()]
    assert kinds == [number in NEAR.cached for number in range(23)]
    assert loop.now == pytest.approx(13 * 2 + 10 * 0.5)


def test_two_near_rows_share_their_calls_whenever_they_began() -> None:
    """The second begins while the first is at a cached call: after at most one call they are in step."""
    for later in range(1, 12):
        loop = Loop(NEAR)
        for _ in range(later):
            loop.step()
        loop.entries.append(loop.batcher.submit(NEAR))
        calls = loop.finish()
        shared = sum(len(batch) == 2 for _, batch, _ in calls)
        assert shared >= 23 - later - 3, later


def test_an_exact_row_rides_along_with_near_ones() -> None:
    """It is in every full call; the cached ones between are a quarter of the time each."""
    loop = Loop(EXACT, NEAR)
    calls = loop.finish()
    full = [batch for bucket, batch, _ in calls if not bucket.cached]
    assert len(full) == 43, "every full call of the near row has the exact one in it"
    assert sum(bucket.cached for bucket, _, _ in calls) == 10


def row_ids(rows: Batch) -> set[tuple[int, int]]:
    return {(id(entry), sample) for entry, sample in rows}


@given(
    st.lists(
        st.sampled_from((NEAR, NOISY, EXACT, replace(NEAR, slots=1), replace(NOISY, samples=2))), max_size=6
    )
)
@examples(25)
def test_none_of_the_oldest_rows_waits_for_more_than_one_call(works: list[Work]) -> None:
    """Near rows must not starve exact ones, nor the other way round."""
    waited: dict[tuple[int, int], int] = {}
    for _, batch, ready in Loop(*works).finish():
        room, oldest = 4, []
        for entry, sample in ready:
            if not oldest or entry.work.slots <= room:
                oldest.append((entry, sample))
                room -= entry.work.slots
        for row in row_ids(oldest) - row_ids(batch):
            waited[row] = waited.get(row, 0) + 1
            assert waited[row] <= 1
        for row in row_ids(batch):
            waited[row] = 0


def test_a_young_row_takes_no_call_of_its_own_from_the_older_ones() -> None:
    """The calls of two rows that fill them; the third, which has begun early, only rides along."""
    loop = Loop(NEAR, NEAR, EXACT)
    first, second, third = loop.entries
    calls: list[Batch] = []
    while any(first.left):
        calls.append(loop.step())
    assert len(calls) == 23
    assert all({entry for entry, _ in batch} == {first, second} for batch in calls)
    assert third.left == [43]


def test_buckets_share_time_and_not_calls() -> None:
    """Near pictures of one size cost less a call, and so get more calls than exact ones of another."""
    seconds: dict[Bucket, float] = {}
    small = Bucket(128, 127)
    loop = Loop(
        replace(NEAR, calls=2300, cached=frozenset(range(3, 2300, 2))),
        replace(EXACT, bucket=small, calls=10**6),
    )
    for _ in range(400):
        before = loop.now
        batch = loop.step()
        bucket = batch[0][0].work.bucket
        seconds[bucket] = seconds.get(bucket, 0.0) + loop.now - before
    assert seconds[LARGE] == pytest.approx(seconds[small], rel=0.05)


def test_a_near_row_alone_takes_what_was_predicted() -> None:
    """Deadlines are multiples of it, and keys are charged for it."""
    assert alone_s(NEAR, COSTS) == pytest.approx(10 + 13 * 2 + 10 * 0.5 + 20)
    assert demand_s(NEAR, COSTS) == pytest.approx(13 * 2 + 10 * 0.5)
    assert NEAR.cached_share(23) == pytest.approx(10 / 23)
    assert NEAR.cached_share(2) == 0.5
    assert EXACT.cached_share(43) == NEAR.cached_share(0) == 0.0


@given(st.lists(st.sampled_from((NEAR, NOISY, EXACT, replace(NEAR, samples=2))), min_size=1, max_size=5))
@examples(25)
def test_a_forecast_of_mixed_kinds_comes_true(works: list[Work]) -> None:
    """What is promised is a sixth more than the forecast, so that may not be exceeded by more."""
    loop = Loop(*works)
    predicted = loop.batcher.backlog_s()
    loop.finish()
    assert predicted / 1.15 <= loop.now <= predicted * 1.15


def test_caches_of_many_sizes_do_not_fill_the_memory() -> None:
    """Each slot of a row that has begun may hold 20 MiB; every size still has a row that runs."""
    sizes = [Bucket(128, 64 + side) for side in range(40)]
    loop = Loop(*(replace(NEAR, bucket=size) for size in sizes for _ in range(3)))
    most = 0
    while loop.step():
        begun = [entry for entry in loop.entries if entry.state == "running" and any(entry.left)]
        most = max(most, 2 * len(begun))
    assert most <= 2 * 40 + 32
    assert not any(left for entry in loop.entries for left in entry.left)
    assert len(loop.batcher.to_begin()) == 0


def test_what_is_left_is_forgotten_with_its_bucket() -> None:
    """Sets of LoRAs come and go for months."""
    loop = Loop(EXACT, NEAR)
    while any(entry.state == "waiting" or any(entry.left) for entry in loop.entries):
        loop.step()
    entry: QueuedWork = loop.batcher.submit(replace(EXACT, bucket=SMALL, calls=1))
    loop.entries.append(entry)
    loop.finish()
    assert not loop.batcher._sharing._due
