"""The batcher, with simple costs and a clock that only the test moves."""

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.batching.batcher import Batch, Batcher, QueuedWork, slots_left
from inpaint.batching.work import Bucket, Costs, Work
from inpaint.errors import BusyError
from tests.support.examples import examples

LARGE, WIDE, SMALL = Bucket(128, 128), Bucket(104, 152), Bucket(64, 64)


@dataclass
class Simple(Costs):
    """Costs: a second per slot (a quarter where small), encoding 10 s, decoding 20 s a row."""

    overlapped = True
    most: int = 4

    def step_s(self, bucket: Bucket, slots: int) -> float:
        return slots * bucket.latent_pixels / LARGE.latent_pixels

    def encode_s(self, bucket: Bucket) -> float:
        return 10.0

    def decode_s(self, bucket: Bucket) -> float:
        return 20.0

    def cap(self, bucket: Bucket) -> int:
        return self.most


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A batcher with a simulated engine, one call at a time."""

    costs: Simple = field(default_factory=Simple)
    clock: Clock = field(default_factory=Clock)
    max_waiting: int | None = None
    batcher: Batcher = field(init=False)

    def __post_init__(self) -> None:
        self.batcher = Batcher(self.costs, clock=self.clock, max_waiting=self.max_waiting)

    def begin(self) -> None:
        for entry in self.batcher.to_begin():
            self.batcher.begun(entry)

    def step(self) -> Batch:
        """Make one call; rows that are done are decoded in no time."""
        self.begin()
        batch = self.batcher.next_batch()
        if batch:
            slots = sum(entry.work.slots for entry, _ in batch)
            self.clock.now += self.costs.step_s(batch[0][0].work.bucket, slots)
        self.batcher.stepped(batch)
        for entry in {entry for entry, _ in batch}:
            if not any(entry.left):
                self.batcher.remove(entry)
        return batch

    def calls_until_done(self, entry: QueuedWork) -> list[Batch]:
        calls = []
        while any(entry.left):
            calls.append(self.step())
        return calls


def test_requests_of_any_length_share_calls() -> None:
    """A request that arrives while another is painted joins at the next step and leaves when done."""
    bench = Bench()
    long = bench.batcher.submit(Work(LARGE, calls=10))
    bench.step()
    short = bench.batcher.submit(Work(LARGE, calls=3))
    together = bench.calls_until_done(short)
    assert together == [[(long, 0), (short, 0)]] * 3
    assert long.left == [6]


@pytest.mark.parametrize("bucket", [LARGE, WIDE, SMALL], ids=["same bucket", "as large", "smaller"])
def test_a_long_request_delays_a_short_one_by_a_step_a_step_at_most(bucket: Bucket) -> None:
    """Twenty steps behind another's hundred take no longer than forty."""
    bench = Bench()
    bench.batcher.submit(Work(bucket, calls=100))
    bench.step()
    started = bench.clock.now
    alone_s = 20 * bench.costs.step_s(LARGE, 2)
    short = bench.batcher.submit(Work(LARGE, calls=20))
    calls = bench.calls_until_done(short)
    assert bench.clock.now - started <= 2 * alone_s + bench.costs.step_s(bucket, 2)
    if bucket != SMALL:
        assert len(calls) <= 41


def test_the_first_to_come_is_the_first_in_a_call() -> None:
    """A request that has begun is not slowed down by a later one."""
    bench = Bench()
    entries = [bench.batcher.submit(Work(LARGE, calls=5)) for _ in range(4)]
    assert bench.step() == [(entries[0], 0), (entries[1], 0)]
    bench.calls_until_done(entries[1])
    assert bench.step() == [(entries[2], 0), (entries[3], 0)]


def test_an_older_entry_is_not_passed_over_because_its_encoding_took_longer() -> None:
    """A long prompt costs no more than its own time."""
    bench = Bench()
    old, new, newest = (bench.batcher.submit(Work(LARGE, calls=5)) for _ in range(3))
    assert bench.batcher.to_begin() == [old, new, newest]
    bench.batcher.begun(new)
    bench.batcher.begun(newest)
    assert bench.batcher.next_batch() == [(new, 0), (newest, 0)]
    bench.batcher.begun(old)
    assert bench.batcher.next_batch() == [(old, 0), (new, 0)]


def test_a_row_that_fits_fills_the_slots_that_are_left() -> None:
    """Slots are not wasted: an unguided row joins a guided one where two guided ones do not fit."""
    bench = Bench(Simple(most=3))
    guided, other = (bench.batcher.submit(Work(LARGE, calls=5)) for _ in range(2))
    bench.begin()
    unguided = bench.batcher.enter(Work(LARGE, calls=5, slots=1))
    bench.batcher.begun(unguided)  # as if it had been begun: what fits is the next call's concern
    bench.batcher._begun[LARGE].append(unguided)
    assert bench.batcher.next_batch() == [(guided, 0), (unguided, 0)]
    assert other.left == [5]


def test_a_row_larger_than_the_cap_runs_alone() -> None:
    """On a device that can do one slot at a time a guided request is painted all the same."""
    bench = Bench(Simple(most=1))
    first, second = (bench.batcher.submit(Work(LARGE, calls=2)) for _ in range(2))
    assert [bench.step() for _ in range(4)] == [[(first, 0)]] * 2 + [[(second, 0)]] * 2


def test_one_row_more_than_fits_is_begun() -> None:
    """A slot that becomes free is filled in the next call; the others wait in the fair queue."""
    bench = Bench()
    entries = [bench.batcher.submit(Work(LARGE, calls=5)) for _ in range(5)]
    assert bench.batcher.to_begin() == entries[:3]
    assert bench.batcher.to_begin() == []
    assert [entry.state for entry in entries] == ["encoding"] * 3 + ["waiting"] * 2
    assert bench.batcher.waiting == 2
    assert bench.batcher.next_batch() == []
    assert bench.batcher.running == 0
    for entry in entries[:3]:
        bench.batcher.begun(entry)
    assert bench.batcher.running == 3
    bench.calls_until_done(entries[1])
    assert bench.batcher.to_begin() == entries[3:]


def test_every_bucket_begins_its_own() -> None:
    """A full bucket does not keep another from being encoded."""
    bench = Bench()
    for _ in range(5):
        bench.batcher.submit(Work(LARGE, calls=5))
    small = bench.batcher.submit(Work(SMALL, calls=5))
    assert small in bench.batcher.to_begin()


def test_a_key_that_floods_does_not_keep_another_out() -> None:
    """Keys share what waits in a bucket."""
    bench = Bench()
    for _ in range(50):
        bench.batcher.submit(Work(LARGE, calls=5, key="flood"))
    bench.step()
    other = bench.batcher.submit(Work(LARGE, calls=5, key="b"))
    bench.calls_until_done(other)
    assert bench.batcher.waiting >= 44


def test_the_forecast_of_a_flooding_key_is_its_own() -> None:
    """A key behind its own flood is refused, another is not: it overtakes the flood."""
    bench = Bench()
    for _ in range(50):
        bench.batcher.submit(Work(LARGE, calls=5, key="flood"))
    bench.begin()
    flood = bench.batcher.forecast_s(Work(LARGE, calls=5, key="flood"))
    other = bench.batcher.forecast_s(Work(LARGE, calls=5, key="b"))
    assert other < flood / 5


def test_a_bucket_has_its_step_in_every_round() -> None:
    """An expensive size must not crowd out a cheap one, nor many cheap steps an expensive one."""
    bench = Bench()
    for bucket in (LARGE, WIDE, SMALL):
        bench.batcher.submit(Work(bucket, calls=40))
    calls = [bench.step()[0][0].work.bucket for _ in range(36)]
    # A small step costs a quarter of a large one, a wide one hardly less.
    assert Counter(calls[:6]) == {LARGE: 1, WIDE: 1, SMALL: 4}
    assert Counter(calls) == {LARGE: 6, WIDE: 6, SMALL: 24}


def test_costs_of_nothing_do_not_keep_a_turn_for_ever() -> None:
    """Before the first measurement all costs are nearly nothing."""

    class Free(Simple):
        def step_s(self, bucket: Bucket, slots: int) -> float:
            return 0.0

    bench = Bench(Free())
    bench.batcher.submit(Work(LARGE, calls=10))
    bench.batcher.submit(Work(SMALL, calls=10))
    assert {bench.step()[0][0].work.bucket for _ in range(2)} == {LARGE, SMALL}


def test_an_idle_device_takes_what_it_can_finish() -> None:
    """The deadline is met to the second, without a reserve."""
    bench = Bench()
    work = Work(LARGE, calls=7)
    assert bench.batcher.forecast_s(work) == 44
    bench.batcher.submit(Work(LARGE, calls=7, expires_at=44.0))
    bench = Bench()
    with pytest.raises(BusyError, match="even alone") as refused:
        bench.batcher.submit(Work(LARGE, calls=7, expires_at=43.5))
    assert refused.value.retry_after_s == pytest.approx(0.5)


def test_each_box_is_an_entry_and_all_count() -> None:
    """A mask with islands far apart is accepted only if there is time for all of them."""
    bench = Bench()
    work = Work(LARGE, calls=7, others=(SMALL, LARGE))
    expected = 7 * 4 + 7 * 0.5 + 3 * 30
    assert bench.batcher.forecast_s(work) == pytest.approx(expected)
    bench.batcher.check(replace(work, expires_at=expected + 0.1))
    with pytest.raises(BusyError, match="even alone"):
        bench.batcher.check(replace(work, expires_at=expected - 0.1))
    assert bench.batcher.waiting == 0, "checked, not queued"
    entries = [bench.batcher.enter(box) for box in work.boxes]
    assert [entry.work.bucket for entry in entries] == [LARGE, SMALL, LARGE]
    with pytest.raises(AssertionError):
        bench.batcher.enter(work)
    other = Work(LARGE, calls=7, others=(SMALL,))
    assert bench.batcher.forecast_s(other) > bench.batcher.forecast_s(replace(other, others=()))


def test_a_busy_device_says_when_to_come_again() -> None:
    """A request that would be late is not begun, and its caller learns by how much."""
    bench = Bench()
    for _ in range(2):
        bench.batcher.submit(Work(LARGE, calls=50))
    bench.begin()
    work = Work(LARGE, calls=7, expires_at=200.0)
    assert bench.batcher.forecast_s(work) == 10 + 50 * 4 + 7 * 2 + 20
    with pytest.raises(BusyError, match="too much is ahead") as refused:
        bench.batcher.submit(work)
    assert refused.value.retry_after_s == pytest.approx(84)
    assert bench.batcher.waiting == 0
    bench.clock.now += 1000
    bench.batcher.submit(Work(LARGE, calls=7, expires_at=1284.1))


def test_behind_others_a_margin_is_asked_for() -> None:
    """Real costs differ from measured ones, and accepted requests should be in time."""
    bench = Bench()
    for _ in range(4):
        bench.batcher.submit(Work(LARGE, calls=10))
    bench.begin()
    assert bench.batcher.waiting == 1
    seconds = bench.batcher.forecast_s(Work(LARGE, calls=10))
    with pytest.raises(BusyError):
        bench.batcher.submit(Work(LARGE, calls=10, expires_at=seconds + 1))
    bench.batcher.submit(Work(LARGE, calls=10, expires_at=2 * seconds))


def test_without_a_deadline_only_room_counts() -> None:
    """The command line waits as long as it takes."""
    bench = Bench(max_waiting=3)
    for _ in range(3):
        bench.batcher.submit(Work(LARGE, calls=10**6))
    with pytest.raises(BusyError, match="3 requests are waiting") as refused:
        bench.batcher.submit(Work(LARGE, calls=1))
    assert 0 < refused.value.retry_after_s < inf
    bench.begin()
    bench.batcher.submit(Work(LARGE, calls=1))


def test_no_room_at_all_refuses_all() -> None:
    """An operator may close the queue."""
    with pytest.raises(BusyError):
        Bench(max_waiting=0).batcher.submit(Work(LARGE, calls=1))


def test_accepted_work_enters_without_a_check() -> None:
    """A row that is painted again in fp32 is not refused because others came meanwhile."""
    bench = Bench(max_waiting=0)
    entry = bench.batcher.enter(Work(LARGE, calls=1, expires_at=0.5))
    assert bench.step() == [(entry, 0)]


def test_the_expired_are_removed_in_every_state() -> None:
    """The picture is of no use any more: the device must not work on it."""
    bench = Bench()
    entries = [bench.batcher.enter(Work(LARGE, calls=5, expires_at=10.0)) for _ in range(5)]
    bench.begin()
    bench.clock.now = 10.0
    assert bench.batcher.expired() == []
    bench.clock.now = 10.1
    assert bench.batcher.expired() == entries
    assert bench.batcher.expired() == []
    assert bench.batcher.next_batch() == []
    assert bench.batcher.waiting == bench.batcher.running == 0
    assert bench.batcher.backlog_s() == 0


def test_removing_takes_effect_at_the_next_call() -> None:
    """A cancel takes effect within one step, and a second one does nothing."""
    bench = Bench()
    first, second = (bench.batcher.submit(Work(LARGE, calls=5)) for _ in range(2))
    bench.step()
    for _ in range(2):
        bench.batcher.remove(first)
    assert bench.step() == [(second, 0)]
    waiting = bench.batcher.submit(Work(SMALL, calls=5))
    for _ in range(2):
        bench.batcher.remove(waiting)
    assert bench.batcher.waiting == 0


def test_a_limit_lowers_the_cap_of_its_bucket_only() -> None:
    """An out-of-memory at one size says nothing of a smaller one, and predictions know of it."""
    bench = Bench()
    bench.batcher.limit(LARGE, 2)
    bench.batcher.limit(LARGE, 3)  # what did not fit before does not fit now
    assert (bench.batcher.cap(LARGE), bench.batcher.cap(SMALL)) == (2, 4)
    bench.batcher.limit(LARGE, 0)
    assert bench.batcher.cap(LARGE) == 1
    bench.batcher.limit(SMALL, 2)
    first, second = (bench.batcher.submit(Work(SMALL, calls=4)) for _ in range(2))
    assert bench.batcher.forecast_s(Work(SMALL, calls=4)) == 10 + (4 + 4 + 4) * 0.5 + 20
    assert bench.step() == [(first, 0)]
    assert second.left == [4]


def test_the_backlog_shrinks_with_every_step() -> None:
    """A pool routes by it: a device that is nearly done has nearly no backlog."""
    bench = Bench()
    bench.batcher.submit(Work(LARGE, calls=5, samples=3))
    bench.batcher.submit(Work(SMALL, calls=8))
    left = [bench.batcher.backlog_s()]
    assert left[0] == 5 * 4 + 5 * 2 + 8 * 0.5
    while bench.step():
        left.append(bench.batcher.backlog_s())
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def test_samples_that_are_done_are_not_waited_for() -> None:
    """Of three samples two went first: only the third is still to do."""
    bench = Bench()
    bench.batcher.submit(Work(LARGE, calls=5, samples=3))
    for _ in range(5):
        bench.step()
    assert bench.batcher.backlog_s() == 5 * 2
    assert bench.batcher.forecast_s(Work(LARGE, calls=7)) == 10 + 5 * 4 + 2 * 2 + 20


def test_an_idle_batcher_holds_nothing() -> None:
    """A server that runs for months sees every size there is."""
    bench = Bench()
    for side in range(8, 40):
        bench.batcher.submit(Work(Bucket(side, side), calls=1))
    while bench.step():
        pass
    batcher = bench.batcher
    assert [batcher._queues, batcher._begun, batcher._turns] == [{}, {}, {}]


WORKS = st.builds(
    Work,
    st.sampled_from([LARGE, WIDE, SMALL]),
    calls=st.integers(1, 6),
    samples=st.integers(1, 3),
    slots=st.integers(1, 2),
    key=st.sampled_from("ab"),
    expires_at=st.sampled_from([inf, inf, 100.0, 300.0]),
)
MOVES = st.lists(
    st.one_of(
        WORKS, st.sampled_from(["begin", "begun", "step", "step", "expire", "limit"]), st.integers(0, 9)
    ),
    max_size=60,
)


class Follower:
    """A batcher under test: it makes moves, and checks after each what must always hold."""

    def __init__(self, most: int) -> None:
        self.bench = Bench(Simple(most), max_waiting=6)
        self.inside: list[QueuedWork] = []
        self.moves: dict[str, Callable[[], None]] = {
            "begin": self.begin,
            "begun": self.begun,
            "step": self.step,
            "expire": self.expire,
            "limit": lambda: self.bench.batcher.limit(LARGE, 2),
        }

    def submit(self, work: Work) -> None:
        room = self.bench.batcher.waiting < 6
        in_time = self.bench.batcher.forecast_s(work) <= work.expires_at - self.bench.clock.now
        if room and in_time and work.expires_at == inf:
            self.inside.append(self.bench.batcher.submit(work))
            return
        with contextlib.suppress(BusyError):
            self.inside.append(self.bench.batcher.submit(work))
            assert room
            assert in_time

    def begin(self) -> None:
        batcher = self.bench.batcher
        for entry in batcher.to_begin():
            assert entry.state == "encoding"
        for bucket, begun in batcher._begun.items():
            waiting = [e for e in self.inside if e.state == "waiting" and e.work.bucket == bucket]
            slots = sum(map(slots_left, begun))
            assert not waiting or slots > batcher.cap(bucket)
            # What was begun last was begun because there was room for it.
            assert slots - slots_left(begun[-1]) < batcher.cap(bucket) + 2

    def begun(self) -> None:
        for entry in [e for e in self.inside if e.state == "encoding"][:1]:
            self.bench.batcher.begun(entry)

    def step(self) -> None:
        batcher = self.bench.batcher
        runnable = batcher.running
        batch = batcher.next_batch()
        assert bool(batch) == bool(runnable)  # never idle while there is something to do
        assert len(set(batch)) == len(batch)
        slots = sum(entry.work.slots for entry, _ in batch)
        for entry, sample in batch:
            assert entry in self.inside
            assert entry.state == "running"
            assert entry.left[sample] > 0
            assert entry.work.bucket == batch[0][0].work.bucket
            assert len(batch) == 1 or slots <= batcher.cap(entry.work.bucket)
        batcher.stepped(batch)
        if batch:
            self.bench.clock.now += self.bench.costs.step_s(batch[0][0].work.bucket, slots)
        for entry in dict.fromkeys(entry for entry, _ in batch):
            if not any(entry.left):
                self.remove(entry)

    def expire(self) -> None:
        late = self.bench.batcher.expired()
        now = self.bench.clock.now
        assert set(late) == {e for e in self.inside if e.work.expires_at < now}
        self.inside = [e for e in self.inside if e not in late]

    def remove(self, entry: QueuedWork) -> None:
        self.bench.batcher.remove(entry)
        self.inside.remove(entry)

    def check(self) -> None:
        batcher = self.bench.batcher
        assert batcher.waiting == sum(e.state == "waiting" for e in self.inside) <= 6
        rows = [left for e in self.inside if e.state == "running" for left in e.left]
        assert batcher.running == sum(left > 0 for left in rows)
        assert set(batcher._entries()) == set(self.inside)


@given(MOVES, st.sampled_from([1, 2, 3, 4, 8]))
@examples(150)
def test_the_rules_hold_after_any_moves_and_all_are_finished(moves: list[object], most: int) -> None:
    """Joins, leaves, cancels, expiry, a falling cap in any order: nothing lost, idle, twice or too much."""
    follower = Follower(most)
    for move in moves:
        if isinstance(move, Work):
            follower.submit(move)
        elif isinstance(move, int):
            if move < len(follower.inside):
                follower.remove(follower.inside[move])
        else:
            follower.moves[str(move)]()
        follower.check()
    work_left = sum(sum(entry.left) for entry in follower.inside)
    for _ in range(work_left):  # one call at least advances one row
        follower.begin()
        while any(entry.state == "encoding" for entry in follower.inside):
            follower.begun()
        follower.step()
        follower.check()
    assert not follower.inside


@given(st.lists(st.tuples(st.sampled_from([LARGE, WIDE, SMALL]), st.integers(1, 2)), min_size=2, max_size=12))
@examples(60)
def test_buckets_that_both_have_work_are_never_further_apart_than_three_calls(
    works: list[tuple[Bucket, int]],
) -> None:
    """Fairness with a stated bound: three times the most expensive call."""
    bench = Bench()
    for bucket, slots in works:
        bench.batcher.submit(Work(bucket, calls=10**6, slots=slots))
    served = dict.fromkeys((bucket for bucket, _ in works), 0.0)
    for _ in range(60):
        before = bench.clock.now
        served[bench.step()[0][0].work.bucket] += bench.clock.now - before
        assert max(served.values()) - min(served.values()) <= 3 * 4.0
