"""Forecasts of finish times by steps, size and queue, and the refusal of requests that would be late.

A forecast simulates the step loop from one finished row to the next. It cannot know of later requests; but
they are accepted only if all accepted earlier are still in time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from inpaint.batching.work import Bucket, Costs, Work
from inpaint.errors import BusyError

# A forecast wait is multiplied by this, because of what it cannot know: costs other than measured, buckets
# that take turns in whole calls. Simulated on a CPU's costs at 1.5 × capacity with 1 / 1.2: 2.5 / 0.6 % of
# the accepted requests are late.
MARGIN = 1.2
_NEARLY_NONE = 1e-9  # of a call, left over by rounding


@dataclass(frozen=True, slots=True)
class Load:
    """Work with the UNet calls that it has left."""

    work: Work
    left: int  # UNet calls of each of its rows

    @classmethod
    def waiting(cls, work: Work) -> "Load":
        """Return the load of work that has not begun."""
        return cls(work, work.calls)


def alone_s(work: Work, costs: Costs) -> float:
    """Return the seconds from submission to finish on an idle device."""
    return finish_s(work, (), costs)


def demand_s(work: Work, costs: Costs) -> float:
    """Return the seconds of the step loop that the work takes from others while batches are full."""
    return sum(_demand_s(box, costs) for box in work.boxes)


def _demand_s(work: Work, costs: Costs) -> float:
    """Return the seconds of one box."""
    cap = max(costs.cap(work.bucket), 1)
    call_s = costs.step_s(work.bucket, cap)
    if work.cached:
        share = work.cached_share(work.calls)
        call_s = (1 - share) * call_s + share * costs.step_s(work.bucket._replace(cached=True), cap)
    steps_s = work.calls * work.samples * min(work.slots, cap) * call_s / cap
    if costs.overlapped:
        return steps_s
    return steps_s + costs.encode_s(work.bucket) + work.samples * costs.decode_s(work.bucket)


def finish_s(work: Work, ahead: Sequence[Load], costs: Costs, *, devices: int = 1) -> float:
    """Return the seconds until ``work`` would be finished if it joined now.

    Args:
        work: the work that would join.
        ahead: loads that are begun, oldest first, and those that would begin before it.
        costs: of one device.
        devices: number of devices that share the loads.
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
    """Refuse work that would be late, or would make accepted work late.

    Args:
        work: the work that would join, with its deadline.
        now: seconds on the clock of the deadlines.
        ahead: loads that are begun, oldest first, and those that would begin before it.
        behind: loads that would begin after it.
        costs: of one device.
        devices: number of devices that share the loads.

    Raises:
        BusyError: it is refused; its ``retry_after_s`` is the seconds by which work would be late.
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
        if MARGIN * end_before <= left < MARGIN * end:  # work that is late anyway does not count
            raise BusyError(_UNFAIR, MARGIN * end - left)


_NEVER = "even alone this would not be finished in time; allow more time, or use fewer steps or samples"
_LATE = "too much is ahead of this to finish it in time; try again later"
_UNFAIR = "this would make requests late that were accepted earlier; try again later"


def backlog_s(loads: Sequence[Load], costs: Costs, *, devices: int = 1) -> float:
    """Return the seconds until the step loop would have done all the loads.

    Args:
        loads: begun or not.
        costs: of one device.
        devices: number of devices that share the loads.
    """
    return max(_Loop(costs, share).play() for share in _shares(loads, costs, devices))


def ends_s(loads: Sequence[Load], costs: Costs, *, devices: int = 1) -> list[float]:
    """Return the seconds until each load would be finished if no more joined.

    Args:
        loads: in the order in which they were or would be begun.
        costs: of one device.
        devices: number of devices that share the loads; a request is painted on one of them.
    """
    ends = [0.0] * len(loads)
    for share in _shares(loads, costs, devices):
        loop = _Loop(costs, share)
        loop.play()
        for index, end in loop.ends.items():
            ends[index] = end
    return ends


_Share = list[tuple[int, Load]]  # the loads of one device, with their positions among all


def _shares(loads: Sequence[Load], costs: Costs, devices: int) -> list[_Share]:
    """Assign each load to the device that has the least work."""
    shares: list[_Share] = [[] for _ in range(devices)]
    busy_s = [0.0] * devices
    for index, load in enumerate(loads):
        device = busy_s.index(min(busy_s))
        shares[device].append((index, load))
        if devices > 1 and load.left:
            busy_s[device] += demand_s(load.work, costs) * load.left / load.work.calls
    return shares


@dataclass(slots=True, eq=False)
class _Row:
    slots: int
    left: float  # UNet calls
    of: "_Box"
    cached: float  # share of those that take the deepest level from a cache


@dataclass(slots=True, eq=False)
class _Box:
    of: "_Request"
    bucket: Bucket
    encoded: bool


@dataclass(slots=True, eq=False)
class _Request:
    index: int
    work: Work
    rows_left: int


@dataclass(slots=True, eq=False)
class _Loop:
    """A simulation of one device's step loop, in which buckets share its time equally (see ``Batcher``)."""

    costs: Costs
    share: _Share
    ends: dict[int, float] = field(default_factory=dict)
    now: float = 0.0

    def play(self) -> float:
        """Fill ``ends``; return the seconds until no row has steps left."""
        step_s, cap = cache(self.costs.step_s), cache(self.costs.cap)
        waiting = self._rows()
        while waiting:
            calls = {bucket: _call(rows, max(cap(bucket), 1)) for bucket, rows in waiting.items()}
            for call in calls.values():
                self._encode(call)
            # Seconds from one call of a row to its next: the other buckets have their turns in between.
            round_s = {
                b: [between * len(calls) for between in _between_s(b, call, step_s)]
                for b, call in calls.items()
            }
            seconds = min(
                row.left * row_s
                for b, call in calls.items()
                for row, row_s in zip(call, round_s[b], strict=True)
            )
            self.now += seconds
            for bucket, call in calls.items():
                for row, row_s in zip(call, round_s[bucket], strict=True):
                    row.left -= seconds / row_s
                for row in [row for row in call if row.left <= _NEARLY_NONE]:
                    waiting[bucket].remove(row)
                    self._decode(row)
            waiting = {bucket: rows for bucket, rows in waiting.items() if rows}
        return self.now

    def _rows(self) -> dict[Bucket, list[_Row]]:
        """Return the rows by bucket, in the order in which they join calls; no bucket is empty."""
        found: dict[Bucket, list[_Row]] = {}
        for index, load in self.share:
            if load.left > 0:
                request = _Request(index, load.work, load.work.rows)
                share = load.work.cached_share(load.left)
                for work in load.work.boxes:
                    box = _Box(request, work.bucket, load.left < work.calls)
                    rows = [_Row(work.slots, float(load.left), box, share) for _ in range(work.samples)]
                    found.setdefault(work.bucket, []).extend(rows)
        return found

    def _encode(self, call: Sequence[_Row]) -> None:
        for row in call:
            if not row.of.encoded and not self.costs.overlapped:
                self.now += self.costs.encode_s(row.of.bucket)
            row.of.encoded = True

    def _decode(self, row: _Row) -> None:
        request = row.of.of
        request.rows_left -= 1
        if not self.costs.overlapped:
            self.now += self.costs.decode_s(row.of.bucket)
        if request.rows_left == 0:
            aside_s = sum(
                self.costs.encode_s(box.bucket) + box.samples * self.costs.decode_s(box.bucket)
                for box in request.work.boxes
            )
            self.ends[request.index] = self.now + (aside_s if self.costs.overlapped else 0.0)


def _between_s(bucket: Bucket, call: Sequence[_Row], step_s: Callable[[Bucket, int], float]) -> list[float]:
    """Return the mean seconds from one call of each row to its next, if no other bucket has rows.

    Calls of two kinds take turns. A row shares the full calls with all others, and waits for the cached ones
    that it is not in. Rows that use their cache twice in a row wait for a full call of others in between.
    """
    full_s = step_s(bucket, sum(row.slots for row in call))
    shares = {row.cached for row in call}
    if shares == {0.0}:
        return [full_s] * len(call)
    cached_s = step_s(bucket._replace(cached=True), sum(row.slots for row in call if row.cached))
    most, least = (_for_each_full(share) for share in (max(shares), min(shares)))
    between = []
    for row in call:
        own = _for_each_full(row.cached)
        waits_s = min(1.0, most - own) * cached_s + (max(0.0, own - 1) * full_s if least < own else 0.0)
        between.append((1 - row.cached) * (full_s + waits_s) + row.cached * cached_s)
    return between


def _for_each_full(share: float) -> float:
    """Return the cached calls for each full one, at most 2, as near plans have them."""
    return min(share / (1 - share), 2.0) if share < 1 else 2.0


def _call(rows: Sequence[_Row], cap: int) -> list[_Row]:
    """Return the oldest rows that fit into one call together, as ``Batcher`` does; the first always fits."""
    call: list[_Row] = []
    room = cap
    for row in rows:
        if not call or row.slots <= room:
            call.append(row)
            room -= row.slots
        if room <= 0:
            break
    return call
