"""Which replica gets a request: the one that would be done with its work first, as far as a router knows.

Each replica reports now and then, about once a second, how many seconds of work it has. Between two reports
it works, and this router sends it more; a router that went by the reports alone would send all of a second to
the one that was idle a second ago. What other routers send is not known until the next report. Knows neither
Ray nor HTTP: the clock and the reports are the caller's, so that ``bench/fleet.py`` runs the same rule.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import inf

_REMEMBERED = 1024  # requests sent to a replica that has not reported since


def least_backlog(predicted_s: Mapping[str, float], chance: random.Random) -> str:
    """The replica with the fewest seconds of work before it.

    Args:
        predicted_s: replica → seconds; not empty.
        chance: draws one where several have as few. Always the first of the idle ones would be the same one
            for all routers.
    """
    least_s = min(predicted_s.values())
    return chance.choice([replica for replica, seconds in predicted_s.items() if seconds == least_s])


@dataclass(slots=True)
class _Known:
    """What is known of one replica. Times are on the router's clock."""

    reported_at: float = -inf
    idle_at: float = -inf  # if nobody sends it anything more
    sent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def add(self, at: float, work_s: float) -> None:
        self.idle_at = max(self.idle_at, at) + work_s


class BacklogTable:
    """What one router knows of every replica. Not thread-safe."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: random.Random | None = None
    ) -> None:
        """Know nothing yet.

        Args:
            clock: in seconds.
            chance: what :func:`least_backlog` draws with.
        """
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - spreads work, keeps no secret
        self._known: dict[str, _Known] = {}

    def report(self, replica: str, backlog_s: float, *, age_s: float = 0.0) -> None:
        """A replica had so many seconds of work, ``age_s`` ago; what was sent to it since comes on top.

        A report older than the last one changes nothing.
        """
        assert 0 <= backlog_s < inf, backlog_s
        at = self._clock() - age_s
        known = self._known.setdefault(replica, _Known())
        if at < known.reported_at:
            return
        known.reported_at, known.idle_at = at, at + backlog_s
        while known.sent and known.sent[0][0] <= at:
            known.sent.popleft()
        for sent_at, work_s in known.sent:
            known.add(sent_at, work_s)

    def sent(self, replica: str, work_s: float) -> None:
        """This router has just sent a request there that takes so many seconds of the replica's time."""
        now = self._clock()
        known = self._known.setdefault(replica, _Known())
        known.sent.append((now, work_s))
        known.add(now, work_s)

    def predicted_s(self, replica: str) -> float:
        """Seconds of work that a replica still has; 0 for one that nothing is known of."""
        return self._predicted([replica])[replica]

    def choose(self, among: Collection[str]) -> str:
        """The one of these replicas, at least one, with the least predicted backlog."""
        return least_backlog(self._predicted(among), self._chance)

    def forget(self, replica: str) -> None:
        """It is gone; one of that name that comes later is a new one."""
        self._known.pop(replica, None)

    def _predicted(self, among: Collection[str]) -> dict[str, float]:
        now, known = self._clock(), self._known
        return {name: max(known[name].idle_at - now, 0.0) if name in known else 0.0 for name in among}
