"""Seconds by batch size: running averages, interpolation, and the size that is large enough."""

import math
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass

WORTHWHILE = 1.08  # a larger batch must gain this much throughput to be worth its longer steps

_WEIGHT = 0.1  # of one call in an average: settles within one picture of about 20 steps
_OUTLIER = 2.0  # times the average; slower calls count as this, so a paused process moves it by 10 % only


@dataclass(slots=True)
class Average:
    """A running average of seconds, with more weight on the last calls."""

    seconds: float
    seen: int  # calls in it; 0 if the seconds are only a guess

    def take(self, seconds: float) -> None:
        """Add one call: the first ones count equally, later ones with a tenth of the average."""
        if self.seen == 0:
            self.seconds = seconds
        else:
            weight = max(_WEIGHT, 1 / (self.seen + 1))
            self.seconds += weight * (min(seconds, _OUTLIER * self.seconds) - self.seconds)
        self.seen += 1


def settled(seconds: float) -> Average:
    """Return an average that counts as one of many calls."""
    return Average(seconds, seen=round(1 / _WEIGHT))


def plausible(seconds: float) -> bool:
    """Return True for a time that a working clock can have measured."""
    return math.isfinite(seconds) and seconds > 0


def at(points: Mapping[int, float], slots: int) -> float:
    """Return the seconds at ``slots``, by linear interpolation or extrapolation.

    Beyond the largest or below the smallest point the result is limited to between the seconds at that point
    and seconds in proportion to the slots; with a single point it is the larger of these.

    Args:
        points: slots → seconds of a call; at least one.
        slots: of the call.
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
    """Return the fewest slots past which no larger measured call gains 8 % of throughput."""
    # Not where the first doubling gains little: on two CPU cores 4 → 8 slots gained 7 %, and 8 → 16 45 %.
    rates = {slots: slots / seconds for slots, seconds in steps.items()}
    return min(slots for slots, rate in rates.items() if WORTHWHILE * rate > _best_past(slots, rates))


def _best_past(slots: int, rates: Mapping[int, float]) -> float:
    return max((rate for larger, rate in rates.items() if larger > slots), default=0.0)


def power_of_two(slots: float) -> int:
    """Return the largest power of two up to ``slots``, at least 1: these batch sizes are compiled."""
    return int(2 ** math.floor(math.log2(max(slots, 1.0))))
