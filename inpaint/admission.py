"""When a request would be finished, from what is known before it is begun: steps, size, and who is ahead.

Predictions are for the moment: they know of nobody who comes later. Within a bucket later ones stand behind
(see ``batcher``); across buckets and keys they take a fair share, which the slack of a deadline must cover.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from inpaint.errors import BusyError
from inpaint.work import Bucket, Costs, Work

# While others wait, more are likely to come and take their share: what is predicted to be ahead counts so
# often. Simulated at 1.2 × capacity with 1 / 2: 67 / 71 % of all sent are good, 7.1 / 1.9 % promised in vain.
RESERVE = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """Work under way."""

    work: Work
    left: int  # UNet calls still to do by each of its rows


_Row = tuple[int, int]  # slots, UNet calls left


def alone_s(work: Work, costs: Costs) -> float:
    """Seconds from submitting to finished on an idle device."""
    return finish_s(work, (), (), costs)


def demand_s(work: Work, costs: Costs) -> float:
    """Seconds of the step loop that it takes away from others while batches are full."""
    cap = _cap(work.bucket, costs)
    return work.calls * work.samples * min(work.slots, cap) * costs.step_s(work.bucket, cap) / cap


def finish_s(
    work: Work, under_way: Sequence[Load], waiting: Sequence[Work], costs: Costs, *, hands: int = 1
) -> float:
    """Seconds until ``work`` would be finished if it joined now.

    In its own bucket it is behind all of ``under_way`` and ``waiting``, whose rows take the places of a call
    as they become free. Another bucket costs as much time as ours at most, because buckets take turns, and
    no more than it has to do. Encoding and decoding are beside the loop, and one after another.

    Args:
        work: what would join.
        under_way: begun and not finished.
        waiting: what would be begun before it, in that order, and all that waits in other buckets.
        costs: of one device.
        hands: devices that share all this.
    """
    bucket = work.bucket
    rows = _rows_by_bucket(under_way, waiting)
    mine = [(work.slots, work.calls)] * work.samples
    ahead = rows.pop(bucket, [])
    calls = max(_ends([*ahead, *mine], _cap(bucket, costs), hands)[len(ahead) :])
    own_s = calls * _call_s([*ahead, *mine], bucket, costs, hands, at_least=work.slots * work.samples)
    other_s = sum(min(_alone_on_one_s(rows[other], other, costs) / hands, own_s) for other in rows)
    return costs.encode_s(bucket) + own_s + other_s + work.samples * costs.decode_s(bucket)


def refuse_late(work: Work, given_s: float, forecast_s: float, costs: Costs, *, queued: bool) -> None:
    """Say no at once to what would not be finished in time.

    Args:
        work: what would join.
        given_s: seconds from now until its deadline.
        forecast_s: what :func:`finish_s` says of it.
        costs: of one device.
        queued: others wait.

    Raises:
        BusyError: it would not, with the seconds that it would be late by.
    """
    least_s = alone_s(work, costs)
    late_s = least_s + (RESERVE if queued else 1.0) * (forecast_s - least_s) - given_s
    if late_s <= 0:
        return
    if least_s > given_s:
        problem = "even alone this would not be finished in the time given; allow more time or ask for less"
    else:
        problem = "too much is ahead of this to finish it in the time given; try again later"
    raise BusyError(problem, late_s)


def backlog_s(under_way: Sequence[Load], waiting: Sequence[Work], costs: Costs, *, hands: int = 1) -> float:
    """Seconds until the step loop would have done all that is there now.

    Args:
        under_way: begun and not finished.
        waiting: not begun.
        costs: of one device.
        hands: devices that share all this.
    """
    rows = _rows_by_bucket(under_way, waiting)
    return sum(_alone_on_one_s(rows[bucket], bucket, costs) for bucket in rows) / hands


def _alone_on_one_s(rows: Sequence[_Row], bucket: Bucket, costs: Costs) -> float:
    """Seconds that one device needs for a bucket's rows."""
    return max(_ends(rows, _cap(bucket, costs), 1)) * _call_s(rows, bucket, costs, 1)


def _rows_by_bucket(under_way: Sequence[Load], waiting: Sequence[Work]) -> dict[Bucket, list[_Row]]:
    """The rows of each bucket in the order in which they find places; no bucket without rows."""
    found: dict[Bucket, list[_Row]] = {}
    loads = [(load.work, load.left) for load in under_way] + [(work, work.calls) for work in waiting]
    for work, left in loads:
        if left > 0:
            found.setdefault(work.bucket, []).extend([(work.slots, left)] * work.samples)
    return found


def _ends(rows: Sequence[_Row], cap: int, hands: int) -> list[int]:
    """After how many calls each row is done, if rows find places in their order (list scheduling)."""
    free_at = [0] * (cap * hands)
    ends = []
    for slots, left in rows:
        taken = min(slots, cap)
        free_at.sort()
        ends.append(free_at[taken - 1] + left)
        free_at[:taken] = [ends[-1]] * taken
    return ends


def _call_s(rows: Sequence[_Row], bucket: Bucket, costs: Costs, hands: int, at_least: int = 1) -> float:
    """Seconds of one call that is as full as these rows can make it; one request's rows stay together."""
    present = -(-sum(slots for slots, _ in rows) // hands)
    return costs.step_s(bucket, min(max(present, at_least), _cap(bucket, costs)))


def _cap(bucket: Bucket, costs: Costs) -> int:
    return max(costs.cap(bucket), 1)
