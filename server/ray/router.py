"""Ray Serve's request router that sends each request to the replica with the least predicted backlog.

Ray pickles this module's classes by value. State that they share with the client is therefore in a module of
its own, ``replica_stats``.
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

_FULL_TRIED = 4  # full replicas that are asked whether they have room now


class LeastBacklogRouter(FIFOMixin, RequestRouter):
    """A first-come-first-served router that prefers the replica with the least work and skips full ones."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Update the stats too; Ray calls this when a replica starts, stops or has reported."""
        super().update_replicas(replicas)
        self._update_stats(self.curr_replicas.values())

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return each replica with room as a rank of its own, least work first; then one rank of full ones.

        Ray takes any replica of a rank that has room, and asks those that it believes to be full
        simultaneously. Asking them one after the other takes longer than it takes them to have room again.
        """
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # if all are full
        self._update_stats(candidate_replicas)
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ranked = [by_name[name] for name in self._replica_stats.ranked(by_name)]
        full: list[RunningReplica] = []
        ranks: list[list[RunningReplica]] = []
        for replica in ranked:
            if self._is_full(replica):
                full.append(replica)
            else:
                ranks.append([replica])
        return [*ranks, full[:_FULL_TRIED]]

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Count the death too; Ray calls this for every request that it broke."""
        if replica_id in self.curr_replicas:
            self._replica_stats.died()
        super().on_replica_actor_died(replica_id)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Add the request to the replica's predicted work, until the replica reports it itself."""
        self._replica_stats.sent(replica_id.unique_id, pending_request.kwargs.get("work_s", 0.0))

    def _is_full(self, replica: RunningReplica) -> bool:
        """Return whether the replica's queue is full, as far as this router knows."""
        waiting = self.replica_queue_len_cache.get(replica.replica_id)
        return waiting is not None and waiting >= replica.max_ongoing_requests

    def _update_stats(self, replicas: Sequence[RunningReplica] | Any) -> None:
        self._replica_stats.update(
            {replica.replica_id.unique_id: replica.routing_stats for replica in replicas}
        )

    @property
    def _replica_stats(self) -> Any:
        return replica_stats_of(self._deployment_id.name)
