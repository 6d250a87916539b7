"""Ray Serve's request router that sends each request to the replica with the least predicted backlog.

Ray carries this module's classes to other processes by value, so that what they share with the client lies in
another module (``replica_stats``).
"""

from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import (
    FIFOMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from server.ray.replica_stats import replica_stats_of

_ASKED = 4  # of those that were full, for whether they still are


class LeastBacklogRouter(FIFOMixin, RequestRouter):
    """First come, first served; a replica whose queue is full is passed over for the next best."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Also tells the fleet; Ray calls it whenever a replica comes, goes, or has reported."""
        super().update_replicas(replicas)
        self._tell(self.curr_replicas.values())

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Each replica with room as a rank of its own, the best first; then, together, some that were full.

        Ray takes from a rank whoever has room, and asks all those at once that it believes to be full. One
        after the other they would be asked for longer than it takes them to become free.
        """
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # where all are full
        self._tell(candidate_replicas)
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ranked = [by_name[name] for name in self._replica_stats.ranked(by_name)]
        full: list[RunningReplica] = []
        ranks: list[list[RunningReplica]] = []
        for replica in ranked:
            if self._is_full(replica):
                full.append(replica)
            else:
                ranks.append([replica])
        return [*ranks, full[:_ASKED]]

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Also tells the fleet; Ray calls it for every request that the death broke."""
        if replica_id in self.curr_replicas:
            self._replica_stats.died()
        super().on_replica_actor_died(replica_id)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """It has more to do now, and will say so only in a while."""
        self._replica_stats.sent(replica_id.unique_id, pending_request.kwargs.get("work_s", 0.0))

    def _is_full(self, replica: RunningReplica) -> bool:
        """As far as this router knows."""
        waiting = self.replica_queue_len_cache.get(replica.replica_id)
        return waiting is not None and waiting >= replica.max_ongoing_requests

    def _tell(self, replicas: Sequence[RunningReplica] | Any) -> None:
        self._replica_stats.update(
            {replica.replica_id.unique_id: replica.routing_stats for replica in replicas}
        )

    @property
    def _replica_stats(self) -> Any:
        return replica_stats_of(self._deployment_id.name)
