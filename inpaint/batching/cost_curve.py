"""Seconds by batch size: averages of what was seen, what lies between and beyond, and where it flattens."""

import math
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass

WORTHWHILE = 1.08  # a larger batch must gain this much throughput to be worth its longer steps

_WEIGHT = 0.1  # of one call in an average: settled within one picture of 20 steps or so
_OUTLIER = 2.0  # times the average; slower calls count as this, so a paused process moves it by 10 % only


@dataclass(slots=True)
class Average:
    """Seconds, averaged with more weight on what was seen last."""

    seconds: float
    seen: int  # 0: the seconds are no evidence at all

    def take(self, seconds: float) -> None:
        """Count one call in: the first ones as their mean, later ones by a tenth."""
        if self.seen == 0:
            self.seconds = seconds
        else:
            weight = max(_WEIGHT, 1 / (self.seen + 1))
            self.seconds += weight * (min(seconds, _OUTLIER * self.seconds) - self.seconds)
        self.seen += 1


def settled(seconds: float) -> Average:
    """A figure as good as one averaged over many calls."""
    return Average(seconds, seen=round(1 / _WEIGHT))


def plausible(seconds: float) -> bool:
    """Whether a clock can have said this of work that was done."""
    return math.isfinite(seconds) and seconds > 0


def at(points: Mapping[int, float], slots: int) -> float:
    """Seconds at ``slots``: on the line between its neighbours, or on the line of the two nearest.

    Beyond the measured ends a call costs neither less than nothing more nor more than in proportion; with a
    single point, the dearer of these.
    """
    if slots in points:
        return points[slots]
    known = sorted(points)
    edge = known[0] if slots < known[0] else known[-1]
    bounds = sorted((points[edge], points[edge] * slots / edge))
    if len(known) == 1:
        return bounds[1]
    right = min(max(bisect(known, slots), 1), len(known) - 1)
    low, high = known[right - 1], known[right]
    line = points[low] + (points[high] - points[low]) * (slots - low) / (high - low)
    return line if low < slots < high else min(max(line, bounds[0]), bounds[1])


def knee(steps: Mapping[int, float]) -> int:
    """The fewest slots past which no larger measured call gains a worthwhile throughput."""
    # Not the first doubling that gains little: on two CPU cores 4 → 8 slots gained 7 %, and 8 → 16 45 %.
    rates = {slots: slots / seconds for slots, seconds in steps.items()}
    return min(slots for slots, rate in rates.items() if WORTHWHILE * rate > _best_past(slots, rates))


def _best_past(slots: int, rates: Mapping[int, float]) -> float:
    return max((rate for larger, rate in rates.items() if larger > slots), default=0.0)


def power_of_two(slots: float) -> int:
    """The largest power of two up to ``slots``, at least 1: the batch sizes that are compiled."""
    return int(2 ** math.floor(math.log2(max(slots, 1.0))))
