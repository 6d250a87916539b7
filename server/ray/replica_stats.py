"""The reports of a deployment's replicas in one process: written by its router, read by its client.

Ray Serve runs a handle's router in a thread of its own and makes it from a pickled class. Router and client
share a ``ReplicaStats`` by the name of the deployment.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from server.engines.routing import BacklogTable

_OLDEST_S = 3.0  # an older report means that two clocks disagree


class ReplicaStats:
    """The replicas of one deployment and the work that each has. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backlogs = BacklogTable()
        self._reports: dict[str, Mapping[str, Any]] = {}  # the last of each replica that runs now
        self._stopped: Counter[str] = Counter()  # counts of replicas that have stopped
        self._deaths = 0

    def update(self, reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the set of replicas and their last reports.

        Args:
            reports: replica → ``EngineReplica.record_routing_stats``; empty if it has not reported yet.
        """
        with self._lock:
            for replica in self._reports.keys() - reports.keys():
                self._backlogs.forget(replica)
                self._stopped.update(_counters(self._reports[replica]))
            for replica, report in reports.items():
                if report and report != self._reports.get(replica):
                    age_s = min(max(time.time() - report["at"], 0.0), _OLDEST_S)
                    self._backlogs.report(replica, report["backlog_s"], age_s=age_s)
            self._reports = dict(reports)

    def sent(self, replica: str, work_s: float) -> None:
        """Count a request of ``work_s`` seconds that was just sent to a replica."""
        with self._lock:
            self._backlogs.sent(replica, work_s)

    def died(self) -> None:
        """Count a replica whose process ended under a request."""
        with self._lock:
            self._deaths += 1

    @property
    def deaths(self) -> int:
        """Number of replica deaths seen by this process."""
        return self._deaths

    def ranked(self, among: Collection[str]) -> list[str]:
        """Sort replicas by predicted seconds of work, least first; equal ones in random order."""
        with self._lock:
            predicted = {replica: self._backlogs.predicted_s(replica) for replica in among}
        shuffled = random.sample(sorted(among), len(among))
        return sorted(shuffled, key=predicted.__getitem__)

    @property
    def size(self) -> int:
        """Number of replicas."""
        return len(self._reports)

    @property
    def least_s(self) -> float:
        """Predicted seconds of work of the replica with the least; 0 without replicas."""
        with self._lock:
            return min((self._backlogs.predicted_s(replica) for replica in self._reports), default=0.0)

    def totals(self) -> Counter[str]:
        """Sum the counts of all replicas; those of a replica that has stopped stay in the sums."""
        with self._lock:
            sums = Counter(self._stopped)
            for report in self._reports.values():
                sums.update(report.get("counts", {}))
            return sums


_GAUGES = {"waiting", "running"}  # counts of the moment, which a stopped replica no longer has


def _counters(report: Mapping[str, Any]) -> dict[str, int]:
    return {name: count for name, count in report.get("counts", {}).items() if name not in _GAUGES}


_REPLICA_STATS: dict[str, ReplicaStats] = {}


def replica_stats_of(deployment: str) -> ReplicaStats:
    """Return this process's stats of a deployment."""
    return _REPLICA_STATS.setdefault(deployment, ReplicaStats())
