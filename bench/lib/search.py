"""The highest rate at which a server still serves nearly everybody: a gallop, then a bisection, on notches.

Rates are notches of one geometric scale, so that two searches that ask for the same one share its runs.
"""

import math
from dataclasses import dataclass

LOWEST, HIGHEST = -24, 48


@dataclass(slots=True)
class Search:
    """Asks for one notch after the other until the highest that passes is known; more is assumed harder."""

    start: int = 0
    passed: int | None = None  # the highest
    failed: int | None = None  # the lowest
    stride: int = 2  # doubles with every leap

    def asks(self) -> int | None:
        """The notch to be tried next; None when there is no more to learn."""
        if self.passed is None and self.failed is None:
            return self.start
        if self.failed is None:
            assert self.passed is not None
            return min(self.passed + self.stride, HIGHEST) if self.passed < HIGHEST else None
        if self.passed is None:
            return max(self.failed - self.stride, LOWEST) if self.failed > LOWEST else None
        return (self.passed + self.failed) // 2 if self.failed - self.passed > 1 else None

    def tell(self, notch: int, passes: bool) -> None:
        """What came of it."""
        if self.passed is not None or self.failed is not None:
            self.stride *= 2
        if passes:
            self.passed = notch
        else:
            self.failed = notch


def allowed_misses(sent: int, share: float) -> int:
    """How many of ``sent`` may go wrong where ``share`` must go right; 99 % of 300 allow 3."""
    return math.floor(sent * (1 - share) + 1e-9)  # 300 × (1 - 0.99) is a hair above 3, 100 × 0.01 below 1
