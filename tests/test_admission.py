"""Predictions, by hand-made costs of which every figure can be done in one's head."""

from hypothesis import given
from hypothesis import strategies as st

from inpaint.admission import Load, alone_s, backlog_s, demand_s, finish_s
from inpaint.work import Bucket, Costs, Work

LARGE, SMALL = Bucket(128, 128), Bucket(64, 64)


class Simple(Costs):
    """A slot a second (a quarter where small), encoding 10 s, decoding 20 s a row; 4 slots a call."""

    def step_s(self, bucket: Bucket, slots: int) -> float:
        return slots * bucket.cells / LARGE.cells

    def encode_s(self, bucket: Bucket) -> float:
        return 10.0

    def decode_s(self, bucket: Bucket) -> float:
        return 20.0

    def cap(self, bucket: Bucket) -> int:
        return 4


COSTS = Simple()
ASIDE_S = 30.0  # encode, and decode one row


def test_alone_is_the_sum_of_the_stages() -> None:
    """What deadlines are multiples of."""
    assert alone_s(Work(LARGE, calls=7), COSTS) == 10 + 7 * 2 + 20
    assert alone_s(Work(LARGE, calls=7, slots=1), COSTS) == 10 + 7 * 1 + 20
    assert alone_s(Work(LARGE, calls=7, samples=2), COSTS) == 10 + 7 * 4 + 2 * 20
    assert alone_s(Work(SMALL, calls=8), COSTS) == 10 + 8 * 0.5 + 20


def test_samples_that_do_not_fit_into_one_call_take_their_turn() -> None:
    """Four guided samples on a device that takes two at a time."""
    assert alone_s(Work(LARGE, calls=7, samples=4), COSTS) == 10 + 2 * 7 * 4 + 4 * 20


def test_a_row_larger_than_a_call_is_run_alone() -> None:
    """After an out-of-memory the cap may be one slot, and a guided row has two."""

    class Tiny(Simple):
        def cap(self, bucket: Bucket) -> int:
            return 1

    assert alone_s(Work(LARGE, calls=7), Tiny()) == 10 + 7 * 1 + 20


def test_company_in_a_call_makes_each_step_longer() -> None:
    """Two guided rows run together: no waiting, but calls of four slots."""
    beside = [Load(Work(LARGE, calls=100), left=50)]
    assert finish_s(Work(LARGE, calls=7), beside, (), COSTS) == 7 * 4 + ASIDE_S


def test_a_full_call_is_waited_for() -> None:
    """The first place becomes free after 5 calls, the second after 50."""
    beside = [Load(Work(LARGE, calls=9), left=5), Load(Work(LARGE, calls=100), left=50)]
    assert finish_s(Work(LARGE, calls=7), beside, (), COSTS) == (5 + 7) * 4 + ASIDE_S
    behind = [Work(LARGE, calls=11)]
    assert finish_s(Work(LARGE, calls=7), beside, behind, COSTS) == (5 + 11 + 7) * 4 + ASIDE_S


def test_unguided_rows_share_a_call_by_fours() -> None:
    """Without guidance a request takes half the room."""
    waiting = [Work(LARGE, calls=5, slots=1)] * 4
    assert finish_s(Work(LARGE, calls=7, slots=1), (), waiting, COSTS) == (5 + 7) * 4 + ASIDE_S


def test_another_bucket_costs_no_more_than_ours_does() -> None:
    """A short request beside an endless one of another size takes twice as long, not for ever."""
    endless = [Load(Work(SMALL, calls=10**6), left=10**6)]
    assert finish_s(Work(LARGE, calls=7), endless, (), COSTS) == 2 * 7 * 2 + ASIDE_S
    short = [Work(SMALL, calls=8)]
    assert finish_s(Work(LARGE, calls=7), (), short, COSTS) == 7 * 2 + 8 * 0.5 + ASIDE_S


def test_what_has_no_calls_left_is_in_nobodys_way() -> None:
    """Rows that are being decoded."""
    done = [Load(Work(LARGE, calls=9), left=0), Load(Work(SMALL, calls=9), left=0)]
    assert finish_s(Work(LARGE, calls=7), done, (), COSTS) == alone_s(Work(LARGE, calls=7), COSTS)
    assert backlog_s(done, (), COSTS) == 0


def test_the_backlog_is_the_time_of_the_loop() -> None:
    """What a router compares devices by, and what a caller who is refused is told."""
    under_way = [Load(Work(LARGE, calls=9), left=5), Load(Work(LARGE, calls=9), left=2)]
    waiting = [Work(LARGE, calls=4), Work(SMALL, calls=8)]
    assert backlog_s(under_way, waiting, COSTS) == (2 + 4) * 4 + 8 * 0.5
    assert backlog_s(under_way, waiting, COSTS, hands=2) == ((2 + 4) * 4 + 8 * 0.5) / 2
    assert backlog_s((), (), COSTS) == 0


def test_two_devices_take_two_at_once() -> None:
    """A pool of workers: what fills one device leaves the other free."""
    full = [Load(Work(LARGE, calls=9, samples=2), left=5)]
    work = Work(LARGE, calls=7, samples=2)
    assert finish_s(work, full, (), COSTS) == (5 + 7) * 4 + 10 + 40
    assert finish_s(work, full, (), COSTS, hands=2) == 7 * 4 + 10 + 40
    # The samples of one request are painted on one of them.
    assert finish_s(work, (), (), COSTS, hands=2) == alone_s(work, COSTS)


def test_demand_is_a_share_of_full_calls() -> None:
    """What a key is charged, and what capacity is counted in."""
    assert demand_s(Work(LARGE, calls=7), COSTS) == 7 * 4 / 2
    assert demand_s(Work(LARGE, calls=7, samples=3, slots=1), COSTS) == 3 * 7 * 4 / 4


WORKS = st.builds(
    Work,
    st.sampled_from([LARGE, SMALL]),
    calls=st.integers(1, 30),
    samples=st.integers(1, 4),
    slots=st.integers(1, 2),
)


@given(WORKS, st.lists(WORKS, max_size=6), st.lists(WORKS, max_size=6), WORKS)
def test_more_ahead_is_never_sooner(
    work: Work, under_way: list[Work], waiting: list[Work], extra: Work
) -> None:
    """A caller must not be taken on because there is more to do."""
    loads = [Load(w, w.calls) for w in under_way]
    before = finish_s(work, loads, waiting, COSTS)
    assert before >= alone_s(work, COSTS) - 1e-9
    assert finish_s(work, loads, [*waiting, extra], COSTS) >= before - 1e-9
    assert finish_s(work, loads, waiting, COSTS, hands=2) <= before + 1e-9
