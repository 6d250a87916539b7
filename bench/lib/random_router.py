"""A request router to compare ours with: a random replica, drawn again if that one is full."""

import random
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from server.ray.replica_stats import replica_stats_of


class RandomRouter(FIFOMixin, RequestRouter):
    """A router that draws a replica at random, and passes on the replicas' reports to the client."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return one random replica."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        return [[random.choice(candidate_replicas)]]

    def update_replicas(self, replicas: list[Any]) -> None:
        """Take over the replicas' reports; Ray calls this when a replica joins, leaves or reports."""
        super().update_replicas(replicas)
        replica_stats_of(self._deployment_id.name).update(
            {replica.replica_id.unique_id: replica.routing_stats for replica in replicas}
        )
