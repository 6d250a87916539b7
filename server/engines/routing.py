"""The choice of a replica for a request: the one with the least predicted backlog, in seconds of work.

Each replica reports its backlog about once a second. Between two reports it works some off, and this router
sends it more. A router that used the reports alone would send everything for a second to the replica that was
idle a second ago. Requests of other routers are not known until the next report.

This module uses neither Ray nor HTTP. The caller brings the clock and the reports, so that ``bench/fleet.py``
simulates the same rule.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import inf

_MAX_SENT = 1024  # requests sent to a replica that has not reported since


def least_backlog(predicted_s: Mapping[str, float], chance: random.Random) -> str:
    """Return the replica with the fewest seconds of work.

    Args:
        predicted_s: replica → seconds; not empty.
        chance: draws one of equal replicas. If all routers took the first of the idle ones, they would all
            take the same.
    """
    least_s = min(predicted_s.values())
    return chance.choice([replica for replica, seconds in predicted_s.items() if seconds == least_s])


@dataclass(slots=True)
class _Prediction:
    """The predicted backlog of one replica. Times are on the router's clock."""

    reported_at: float = -inf
    idle_at: float = -inf  # if it is sent nothing more
    sent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MAX_SENT))

    def add(self, at: float, work_s: float) -> None:
        self.idle_at = max(self.idle_at, at) + work_s


class BacklogTable:
    """The predicted backlogs of all replicas in one router. Not thread-safe."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: random.Random | None = None
    ) -> None:
        """Start without any replica.

        Args:
            clock: in seconds.
            chance: draws between equal replicas, see :func:`least_backlog`.
        """
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - spreads work, keeps no secret
        self._predictions: dict[str, _Prediction] = {}

    def report(self, replica: str, backlog_s: float, *, age_s: float = 0.0) -> None:
        """Take a replica's report, and add the requests sent to it since; ignore one older than the last.

        Args:
            replica: its name.
            backlog_s: seconds of work that it had.
            age_s: seconds since then.
        """
        assert 0 <= backlog_s < inf, backlog_s
        at = self._clock() - age_s
        prediction = self._predictions.setdefault(replica, _Prediction())
        if at < prediction.reported_at:
            return
        prediction.reported_at, prediction.idle_at = at, at + backlog_s
        while prediction.sent and prediction.sent[0][0] <= at:
            prediction.sent.popleft()
        for sent_at, work_s in prediction.sent:
            prediction.add(sent_at, work_s)

    def sent(self, replica: str, work_s: float) -> None:
        """Add a request that was just sent to a replica and takes ``work_s`` seconds of its time."""
        now = self._clock()
        prediction = self._predictions.setdefault(replica, _Prediction())
        prediction.sent.append((now, work_s))
        prediction.add(now, work_s)

    def predicted_s(self, replica: str) -> float:
        """Return the seconds of work that a replica still has; 0 if it is not known."""
        return self._predicted([replica])[replica]

    def choose(self, among: Collection[str]) -> str:
        """Return the replica with the least predicted backlog among these, of which there is at least one."""
        return least_backlog(self._predicted(among), self._chance)

    def forget(self, replica: str) -> None:
        """Remove a replica that is gone; a later one of the same name starts anew."""
        self._predictions.pop(replica, None)

    def _predicted(self, among: Collection[str]) -> dict[str, float]:
        now, idle = self._clock(), _Prediction()
        return {name: max(self._predictions.get(name, idle).idle_at - now, 0.0) for name in among}
