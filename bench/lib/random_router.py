"""A request router to compare ours with: any replica, and any again where that one is full."""

import random
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from server.ray.replica_stats import replica_stats_of


class RandomRouter(FIFOMixin, RequestRouter):
    """Tells the fleet who is there, as the client needs it, and chooses by lot."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One of them."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        return [[random.choice(candidate_replicas)]]

    def update_replicas(self, replicas: list[Any]) -> None:
        """Ray calls it whenever one comes, goes, or has reported."""
        super().update_replicas(replicas)
        replica_stats_of(self._deployment_id.name).update(
            {replica.replica_id.unique_id: replica.routing_stats for replica in replicas}
        )
