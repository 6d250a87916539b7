"""What one process knows of the engines that it sends requests to: kept by the router, read by the client.

Ray Serve runs a handle's router in a thread of its own, and makes it from a pickled class: the two meet here,
by the name of the deployment.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from server.engines.routing import BacklogTable

_OLDEST_S = 3.0  # that a report may be; more than that are two clocks that do not agree


class ReplicaStats:
    """The replicas of one deployment, and how much each has to do. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backlogs = BacklogTable()
        self._reports: dict[str, Mapping[str, Any]] = {}  # the last of each replica that is there now
        self._gone: Counter[str] = Counter()  # what those had counted that are there no longer
        self._died = 0

    def update(self, reports: Mapping[str, Mapping[str, Any]]) -> None:
        """These replicas are there, and have said this of themselves; an empty report is none yet."""
        with self._lock:
            for replica in self._reports.keys() - reports.keys():
                self._backlogs.forget(replica)
                self._gone.update(_lasting(self._reports[replica]))
            for replica, report in reports.items():
                if report and report != self._reports.get(replica):
                    age_s = min(max(time.time() - report["at"], 0.0), _OLDEST_S)
                    self._backlogs.report(replica, report["backlog_s"], age_s=age_s)
            self._reports = dict(reports)

    def sent(self, replica: str, work_s: float) -> None:
        """A request was just sent there."""
        with self._lock:
            self._backlogs.sent(replica, work_s)

    def died(self) -> None:
        """A replica's process ended under a request."""
        with self._lock:
            self._died += 1

    @property
    def deaths(self) -> int:
        """How often that was seen from here."""
        return self._died

    def ranked(self, among: Collection[str]) -> list[str]:
        """These replicas, the one that would be done first in front; equals in any order."""
        with self._lock:
            predicted = {replica: self._backlogs.predicted_s(replica) for replica in among}
        shuffled = random.sample(sorted(among), len(among))
        return sorted(shuffled, key=predicted.__getitem__)

    @property
    def size(self) -> int:
        """How many replicas are there."""
        return len(self._reports)

    @property
    def least_s(self) -> float:
        """Seconds of work before the one that would be done first; 0 where there is none."""
        with self._lock:
            return min((self._backlogs.predicted_s(replica) for replica in self._reports), default=0.0)

    def totals(self) -> Counter[str]:
        """The sums of what the replicas have counted; nothing is undone by one that goes."""
        with self._lock:
            sums = Counter(self._gone)
            for report in self._reports.values():
                sums.update(report.get("counts", {}))
            return sums


_NOW = {"waiting", "running"}  # what a replica counts and does not keep


def _lasting(report: Mapping[str, Any]) -> dict[str, int]:
    return {name: count for name, count in report.get("counts", {}).items() if name not in _NOW}


_REPLICA_STATS: dict[str, ReplicaStats] = {}


def replica_stats_of(deployment: str) -> ReplicaStats:
    """The one of a deployment in this process."""
    return _REPLICA_STATS.setdefault(deployment, ReplicaStats())
