"""The number of replicas by their backlog: as many as keep each one's work under ``TARGET_S`` seconds.

Ray adds the bounds and delays of its autoscaling configuration.
"""

from typing import Any

TARGET_S = 10.0  # of work for each replica


def by_backlog(context: Any) -> tuple[float, dict[str, Any]]:
    """Return the wanted number of replicas; an autoscaling policy of Ray Serve.

    Args:
        context: Ray's ``AutoscalingContext``, with the ``backlog_s`` that each replica records.

    Returns:
        The number, and no state.
    """
    backlogs = (context.aggregated_metrics or {}).get("backlog_s", {})
    held_s = sum(backlogs.values())
    running = context.total_num_requests - context.total_queued_requests
    each_s = held_s / running if running > 0 else TARGET_S
    wanted = (held_s + context.total_queued_requests * each_s) / TARGET_S
    return max(wanted, context.capacity_adjusted_min_replicas), {}
