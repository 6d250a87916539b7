"""When requests would be finished, from what is known before they are begun: steps, size, and who is ahead.

Forecasts play the step loop forward, from one finished row to the next. They know of nobody who comes later;
but whoever does is taken on only if everybody who was promised a time before still has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from inpaint.batching.work import Bucket, Costs, Work
from inpaint.errors import BusyError

# A forecast of a wait counts so often, for what it cannot know: other costs than measured, buckets that take
# turns in whole calls. Simulated on a CPU's costs at 1.5 × capacity with 1 / 1.2: 2.5 / 0.6 % are
# promised in vain.
MARGIN = 1.2
_NEARLY_NONE = 1e-9  # of a call, left over by rounding


@dataclass(frozen=True, slots=True)
class Load:
    """Work under way, or waiting with all of its calls left."""

    work: Work
    left: int  # UNet calls still to do by each of its rows

    @classmethod
    def waiting(cls, work: Work) -> "Load":
        """Nothing of it is done."""
        return cls(work, work.calls)


def alone_s(work: Work, costs: Costs) -> float:
    """Seconds from submitting to finished on an idle device."""
    return finish_s(work, (), costs)


def demand_s(work: Work, costs: Costs) -> float:
    """Seconds of the step loop that it takes away from others while batches are full."""
    cap = max(costs.cap(work.bucket), 1)
    steps_s = work.calls * work.samples * min(work.slots, cap) * costs.step_s(work.bucket, cap) / cap
    if costs.overlapped:
        return steps_s
    return steps_s + costs.encode_s(work.bucket) + work.samples * costs.decode_s(work.bucket)


def finish_s(work: Work, ahead: Sequence[Load], costs: Costs, *, devices: int = 1) -> float:
    """Seconds until ``work`` would be finished if it joined now.

    Args:
        work: what would join.
        ahead: begun and not finished, oldest first, and what would be begun before it.
        costs: of one device.
        devices: devices that share all this.
    """
    return ends_s([*ahead, Load.waiting(work)], costs, devices=devices)[-1]


def refuse_late(
    work: Work,
    now: float,
    ahead: Sequence[Load],
    behind: Sequence[Load],
    costs: Costs,
    *,
    devices: int = 1,
) -> None:
    """Say no at once to what would be late, or would make somebody late who was promised to be in time.

    Args:
        work: what would join, with its deadline.
        now: on the clock of the deadlines.
        ahead: begun and not finished, oldest first, and what would be begun before it.
        behind: what would be begun after it.
        costs: of one device.
        devices: devices that share all this.

    Raises:
        BusyError: with the seconds that somebody would be late by.
    """
    ends = ends_s([*ahead, Load.waiting(work), *behind], costs, devices=devices)
    least_s, given_s = alone_s(work, costs), work.expires_at - now
    late_s = least_s + MARGIN * (ends.pop(len(ahead)) - least_s) - given_s
    if late_s > 0:
        if least_s > given_s:
            raise BusyError(_NEVER, late_s)
        raise BusyError(_LATE, late_s)
    promised = [*ahead, *behind]
    left_s = [load.work.expires_at - now for load in promised]
    if all(MARGIN * end <= left for end, left in zip(ends, left_s, strict=True)):
        return
    before = ends_s(promised, costs, devices=devices)
    for end, end_before, left in zip(ends, before, left_s, strict=True):
        if MARGIN * end_before <= left < MARGIN * end:  # who is late anyhow keeps nobody out
            raise BusyError(_UNFAIR, MARGIN * end - left)


_NEVER = "even alone this would not be finished in the time given; allow more time or ask for less"
_LATE = "too much is ahead of this to finish it in the time given; try again later"
_UNFAIR = "this would make others late who were promised their pictures in time; try again later"


def backlog_s(loads: Sequence[Load], costs: Costs, *, devices: int = 1) -> float:
    """Seconds until the step loop would have done all that is there now.

    Args:
        loads: begun or not.
        costs: of one device.
        devices: devices that share all this.
    """
    return max(_Loop(costs, share).play() for share in _shares(loads, costs, devices))


def ends_s(loads: Sequence[Load], costs: Costs, *, devices: int = 1) -> list[float]:
    """Seconds until each would be finished, if nobody else came.

    Args:
        loads: in the order in which they were or would be begun.
        costs: of one device.
        devices: devices that share all this; a request is painted on one of them.
    """
    ends = [0.0] * len(loads)
    for share in _shares(loads, costs, devices):
        loop = _Loop(costs, share)
        loop.play()
        for index, end in loop.ends.items():
            ends[index] = end
    return ends


_Share = list[tuple[int, Load]]  # what one device does, with its place among all


def _shares(loads: Sequence[Load], costs: Costs, devices: int) -> list[_Share]:
    """Each load to the device that has the least to do."""
    shares: list[_Share] = [[] for _ in range(devices)]
    busy_s = [0.0] * devices
    for index, load in enumerate(loads):
        hand = busy_s.index(min(busy_s))
        shares[hand].append((index, load))
        if devices > 1 and load.left:
            busy_s[hand] += demand_s(load.work, costs) * load.left / load.work.calls
    return shares


@dataclass(slots=True, eq=False)
class _Row:
    slots: int
    left: float  # UNet calls
    of: "_Request"


@dataclass(slots=True, eq=False)
class _Request:
    index: int
    work: Work
    rows_left: int
    encoded: bool


@dataclass(slots=True, eq=False)
class _Loop:
    """One device's step loop, played forward: buckets have the same share of its time (``Batcher``)."""

    costs: Costs
    share: _Share
    ends: dict[int, float] = field(default_factory=dict)
    now: float = 0.0

    def play(self) -> float:
        """Fill ``ends``; the seconds until nothing is left to step."""
        step_s, cap = cache(self.costs.step_s), cache(self.costs.cap)
        waiting = self._rows()
        while waiting:
            calls = {bucket: _call(rows, max(cap(bucket), 1)) for bucket, rows in waiting.items()}
            for call in calls.values():
                self._encode(call)
            # Seconds from one call of a bucket to its next: the others have their turns between.
            round_s = {b: step_s(b, sum(r.slots for r in call)) * len(calls) for b, call in calls.items()}
            seconds = min(row.left * round_s[bucket] for bucket, call in calls.items() for row in call)
            self.now += seconds
            for bucket, call in calls.items():
                for row in call:
                    row.left -= seconds / round_s[bucket]
                for row in [row for row in call if row.left <= _NEARLY_NONE]:
                    waiting[bucket].remove(row)
                    self._decode(row)
            waiting = {bucket: rows for bucket, rows in waiting.items() if rows}
        return self.now

    def _rows(self) -> dict[Bucket, list[_Row]]:
        """By bucket, in the order in which they find places; no bucket without rows."""
        found: dict[Bucket, list[_Row]] = {}
        for index, load in self.share:
            if load.left > 0:
                request = _Request(index, load.work, load.work.samples, load.left < load.work.calls)
                rows = [_Row(load.work.slots, float(load.left), request) for _ in range(load.work.samples)]
                found.setdefault(load.work.bucket, []).extend(rows)
        return found

    def _encode(self, call: Sequence[_Row]) -> None:
        for row in call:
            if not row.of.encoded and not self.costs.overlapped:
                self.now += self.costs.encode_s(row.of.work.bucket)
            row.of.encoded = True

    def _decode(self, row: _Row) -> None:
        request, bucket = row.of, row.of.work.bucket
        request.rows_left -= 1
        decode_s = self.costs.decode_s(bucket)
        if not self.costs.overlapped:
            self.now += decode_s
        if request.rows_left == 0:
            aside_s = self.costs.encode_s(bucket) + request.work.samples * decode_s
            self.ends[request.index] = self.now + (aside_s if self.costs.overlapped else 0.0)


def _call(rows: Sequence[_Row], cap: int) -> list[_Row]:
    """The oldest rows that fit into one call together, as ``Batcher`` chooses them; the first always does."""
    call: list[_Row] = []
    room = cap
    for row in rows:
        if not call or row.slots <= room:
            call.append(row)
            room -= row.slots
        if room <= 0:
            break
    return call
