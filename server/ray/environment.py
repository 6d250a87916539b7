"""The environment variables that Ray and torch read, set before either is imported."""

import os
from pathlib import Path

from inpaint.cpu import prepare_threads
from server.ray import proxy

_TOKEN = Path("~/.ray/auth_token")


def prepare_environment() -> None:
    """Set Ray's and torch's variables, except those that are set already."""
    prepare_threads()
    os.environ.setdefault(proxy.CALLBACK, proxy.PATH)
    # On a busy machine Ray's proxy takes longer to start than the 5 s that Ray gives it.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    # At Ray's own 15 any other program on the host starves replicas, until their health checks fail. At 0
    # they would keep Ray's own processes from starting in time.
    os.environ.setdefault("RAY_worker_niceness", "5")
    # Ray would stop a replica that hangs as gently as one that works: its GPU stayed taken for `deadline_s`.
    os.environ.setdefault("RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS", "1")
    # `ray start` asks for a token as soon as this user has one; `ray.init` sends it only in this mode.
    if _TOKEN.expanduser().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no statistics leave the machine
