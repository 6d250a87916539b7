"""A search for the highest rate at which a server serves nearly all requests in time.

It doubles its stride until a rate fails, then bisects. Rates are notches of one geometric scale, so that two
searches that try the same one share its runs.
"""

import math
from dataclasses import dataclass

LOWEST, HIGHEST = -24, 48


@dataclass(slots=True)
class Search:
    """A search for the highest notch that passes; every notch above a failed one is assumed to fail."""

    start: int = 0
    passed: int | None = None  # the highest
    failed: int | None = None  # the lowest
    stride: int = 2  # doubled by every result

    def next_notch(self) -> int | None:
        """Return the notch to be tried next; None when the search is complete."""
        if self.passed is None and self.failed is None:
            return self.start
        if self.failed is None:
            assert self.passed is not None
            return min(self.passed + self.stride, HIGHEST) if self.passed < HIGHEST else None
        if self.passed is None:
            return max(self.failed - self.stride, LOWEST) if self.failed > LOWEST else None
        return (self.passed + self.failed) // 2 if self.failed - self.passed > 1 else None

    def record(self, notch: int, passes: bool) -> None:
        """Record the result of a notch."""
        if self.passed is not None or self.failed is not None:
            self.stride *= 2
        if passes:
            self.passed = notch
        else:
            self.failed = notch


def allowed_misses(sent: int, share: float) -> int:
    """Return the misses allowed among ``sent`` if ``share`` must be good; 99 % of 300 allow 3."""
    return math.floor(sent * (1 - share) + 1e-9)  # 300 × (1 - 0.99) is a hair above 3, 100 × 0.01 below 1
