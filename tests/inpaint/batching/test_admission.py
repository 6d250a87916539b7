"""Forecasts with simple costs, so that every figure can be checked by mental arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.batching.admission import (
    MARGIN,
    Load,
    alone_s,
    backlog_s,
    demand_s,
    ends_s,
    finish_s,
    refuse_late,
)
from inpaint.batching.work import Bucket, Costs, Work
from inpaint.errors import BusyError

LARGE, SMALL = Bucket(128, 128), Bucket(64, 64)


class Simple(Costs):
    """Costs: 1 s a slot (a quarter where small), encoding 10 s, decoding 20 s a row; 4 slots a call."""

    overlapped = True

    def step_s(self, bucket: Bucket, slots: int) -> float:
        return slots * bucket.latent_pixels / LARGE.latent_pixels

    def encode_s(self, bucket: Bucket) -> float:
        return 10.0

    def decode_s(self, bucket: Bucket) -> float:
        return 20.0

    def cap(self, bucket: Bucket) -> int:
        return 4


class Between(Simple):
    """The same costs where the loop itself encodes and decodes."""

    overlapped = False


COSTS, BETWEEN = Simple(), Between()
OUTSIDE_S = 30.0  # encode, and decode one row


@pytest.mark.parametrize(
    ("others", "steps_s", "demand_s_"),
    [
        ((LARGE,), 7 * 4, 2 * 14),
        ((SMALL,), 7 * 2 + 7 * 0.5, 14 + 3.5),
        ((LARGE, SMALL), 7 * 4 + 7 * 0.5, 2 * 14 + 3.5),
    ],
    ids=str,
)
def test_every_box_counts(others: tuple[Bucket, ...], steps_s: float, demand_s_: float) -> None:
    """A mask with islands far apart costs as much as a request for each island."""
    work = Work(LARGE, calls=7, others=others)
    boxes = 1 + len(others)
    assert work.rows == boxes
    assert demand_s(work, COSTS) == demand_s_
    assert alone_s(work, COSTS) == pytest.approx(steps_s + boxes * OUTSIDE_S)
    assert alone_s(work, BETWEEN) == pytest.approx(steps_s + boxes * OUTSIDE_S)
    ahead = [Load(work, 3)]  # begun: its boxes are encoded
    parts = [Load(box, 3) for box in work.boxes]
    for costs in (COSTS, BETWEEN):
        for other in (Work(LARGE, calls=7), Work(SMALL, calls=20)):
            assert finish_s(other, ahead, costs) == pytest.approx(finish_s(other, parts, costs))


def test_a_request_of_several_boxes_is_late_if_one_of_them_is() -> None:
    """A promise is for the picture, which has all of them."""
    work = Work(SMALL, calls=7, others=(LARGE,), expires_at=80.0)
    refuse_late(work, 0.0, [], [], COSTS)
    with pytest.raises(BusyError):
        refuse_late(replace(work, expires_at=77.0), 0.0, [], [], COSTS)
    with pytest.raises(BusyError, match="make requests late that were accepted"):
        refuse_late(Work(LARGE, calls=50), 0.0, [Load(replace(work, expires_at=100.0), 7)], [], COSTS)


def test_alone_is_the_sum_of_the_stages() -> None:
    """Deadlines are multiples of it."""
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

    assert alone_s(Work(LARGE, calls=7), Tiny()) == 10 + 7 * 2 + 20


def test_company_in_a_call_makes_each_step_longer() -> None:
    """Two guided rows run together: no waiting, but calls of four slots."""
    overlapped = [Load(Work(LARGE, calls=100), left=50)]
    assert finish_s(Work(LARGE, calls=7), overlapped, COSTS) == pytest.approx(7 * 4 + OUTSIDE_S)


def test_company_that_leaves_makes_them_shorter_again() -> None:
    """A request that is nearly done delays the others only briefly."""
    overlapped = [Load(Work(LARGE, calls=100), left=3)]
    assert finish_s(Work(LARGE, calls=7), overlapped, COSTS) == pytest.approx(3 * 4 + 4 * 2 + OUTSIDE_S)


def test_a_full_call_is_waited_for() -> None:
    """The first place becomes free after 5 calls, the second after 50."""
    overlapped = [Load(Work(LARGE, calls=9), left=5), Load(Work(LARGE, calls=100), left=50)]
    assert finish_s(Work(LARGE, calls=7), overlapped, COSTS) == pytest.approx((5 + 7) * 4 + OUTSIDE_S)
    behind = [*overlapped, Load.waiting(Work(LARGE, calls=11))]
    assert finish_s(Work(LARGE, calls=7), behind, COSTS) == pytest.approx((5 + 11 + 7) * 4 + OUTSIDE_S)


def test_unguided_rows_share_a_call_by_fours() -> None:
    """Without guidance a request takes half the room."""
    waiting = [Load.waiting(Work(LARGE, calls=5, slots=1))] * 4
    assert finish_s(Work(LARGE, calls=7, slots=1), waiting, COSTS) == pytest.approx(5 * 4 + 7 + OUTSIDE_S)


def test_another_bucket_costs_no_more_than_ours_does() -> None:
    """A short request next to an endless one of another size takes twice as long, not for ever."""
    endless = [Load(Work(SMALL, calls=10**6), left=10**6)]
    assert finish_s(Work(LARGE, calls=7), endless, COSTS) == pytest.approx(2 * 7 * 2 + OUTSIDE_S)
    short = [Load.waiting(Work(SMALL, calls=8))]
    assert finish_s(Work(LARGE, calls=7), short, COSTS) == pytest.approx(7 * 2 + 8 * 0.5 + OUTSIDE_S)


def test_what_has_no_calls_left_delays_no_request() -> None:
    """Rows that are being decoded take no UNet calls."""
    done = [Load(Work(LARGE, calls=9), left=0), Load(Work(SMALL, calls=9), left=0)]
    assert finish_s(Work(LARGE, calls=7), done, COSTS) == alone_s(Work(LARGE, calls=7), COSTS)
    assert backlog_s(done, COSTS) == 0


def test_where_the_loop_encodes_and_decodes_all_wait_for_it() -> None:
    """On a CPU, encoding and decoding take time from all; on a GPU they overlap with the steps."""
    began = [Load(Work(LARGE, calls=9), left=5)]
    new = [Load.waiting(Work(LARGE, calls=5))]
    work = Work(LARGE, calls=7)
    assert alone_s(work, BETWEEN) == alone_s(work, COSTS)
    assert finish_s(work, began, BETWEEN) == pytest.approx(finish_s(work, began, COSTS) + 20)
    assert finish_s(work, new, BETWEEN) == pytest.approx(finish_s(work, new, COSTS) + 10 + 20)
    assert demand_s(work, BETWEEN) == demand_s(work, COSTS) + 10 + 20
    assert backlog_s(new, BETWEEN) == backlog_s(new, COSTS) + 10 + 20


def test_the_backlog_is_the_time_of_the_loop() -> None:
    """A router compares devices by it, and a refused caller gets it as the time to wait."""
    under_way = [Load(Work(LARGE, calls=9), left=5), Load(Work(LARGE, calls=9), left=2)]
    waiting = [Load.waiting(Work(LARGE, calls=4)), Load.waiting(Work(SMALL, calls=8))]
    assert backlog_s([*under_way, *waiting], COSTS) == pytest.approx(5 * 4 + 1 * 2 + 8 * 0.5)
    assert backlog_s([*under_way, *waiting], COSTS, devices=2) < 5 * 4
    assert backlog_s((), COSTS) == 0


def test_two_devices_take_two_simultaneously() -> None:
    """A pool of workers: what fills one device leaves the other free."""
    full = [Load(Work(LARGE, calls=9, samples=2), left=5)]
    work = Work(LARGE, calls=7, samples=2)
    assert finish_s(work, full, COSTS) == pytest.approx((5 + 7) * 4 + 10 + 40)
    assert finish_s(work, full, COSTS, devices=2) == pytest.approx(7 * 4 + 10 + 40)
    # The samples of one request are painted on one of them.
    assert finish_s(work, (), COSTS, devices=2) == alone_s(work, COSTS)


def test_demand_is_a_share_of_full_calls() -> None:
    """A key is charged by it, and capacity is counted in it."""
    assert demand_s(Work(LARGE, calls=7), COSTS) == 7 * 4 / 2
    assert demand_s(Work(LARGE, calls=7, samples=3, slots=1), COSTS) == 3 * 7 * 4 / 4


def refused(work: Work, ahead: list[Load], behind: list[Load] | None = None) -> float | None:
    """Return the seconds in a refusal at time 0; None if the work is accepted."""
    try:
        refuse_late(work, 0.0, ahead, behind or [], COSTS)
    except BusyError as error:
        return error.retry_after_s
    return None


def test_a_forecast_has_a_margin_for_the_unforeseen() -> None:
    """A fifth of the time that it has to wait for others; none of what it takes anyway."""
    work, ahead = Work(LARGE, calls=7), [Load(Work(LARGE, calls=100), left=50)]
    least = 7 * 2 + OUTSIDE_S
    just_enough = least + MARGIN * 7 * 2
    assert refused(replace(work, expires_at=just_enough + 0.01), ahead) is None
    assert refused(replace(work, expires_at=just_enough - 0.01), ahead) == pytest.approx(0.01)
    assert refused(replace(work, expires_at=least + 0.01), []) is None
    assert refused(replace(work, expires_at=least - 0.01), []) == pytest.approx(0.01)


@pytest.mark.parametrize("first", [True, False])
def test_no_request_is_accepted_at_the_cost_of_an_earlier_one(first: bool) -> None:
    """Each step of a fuller call takes longer: without this, all requests are accepted and all are late."""
    alone = Load(replace(Work(LARGE, calls=10), expires_at=MARGIN * (10 * 2 + OUTSIDE_S) + 0.01), left=10)
    newcomer = Work(LARGE, calls=10, expires_at=1000.0)
    ahead, behind = ([alone], []) if first else ([], [alone])
    assert refused(newcomer, ahead, behind) == pytest.approx(MARGIN * 10 * 2 - 0.01)
    easy = Load(replace(alone.work, expires_at=1000.0), left=10)
    assert refused(newcomer, *(([easy], []) if first else ([], [easy]))) is None


def test_a_request_that_is_late_anyway_excludes_no_other() -> None:
    """Otherwise one request that takes longer than forecast would close the server."""
    late = Load(replace(Work(LARGE, calls=10), expires_at=1.0), left=10)
    assert refused(Work(LARGE, calls=10, expires_at=1000.0), [late]) is None


WORKS = st.builds(
    Work,
    st.sampled_from([LARGE, SMALL]),
    calls=st.integers(1, 30),
    samples=st.integers(1, 4),
    slots=st.integers(1, 2),
    others=st.lists(st.sampled_from([LARGE, SMALL]), max_size=2).map(tuple),
)


@given(WORKS, st.lists(WORKS, max_size=6), WORKS, st.sampled_from([COSTS, BETWEEN]))
def test_more_ahead_is_never_sooner(work: Work, ahead: list[Work], extra: Work, costs: Costs) -> None:
    """A request must not be accepted because there is more to do."""
    loads = [Load.waiting(w) for w in ahead]
    before = finish_s(work, loads, costs)
    assert before >= alone_s(work, costs) - 1e-6
    assert finish_s(work, loads, costs, devices=2) >= alone_s(work, costs) - 1e-6
    ends = ends_s([*loads, Load.waiting(extra)], costs)
    assert len(ends) == len(loads) + 1
    assert max(ends, default=0.0) >= max(ends_s(loads, costs), default=0.0) - 1e-6
