"""``inpaint serve`` but for what no flag or variable may change: a stub engine, faults, a picture host.

Run as a program with one argument, JSON: ``flags`` of ``inpaint serve``, ``stub`` (the worker of
``tests/support/stub_worker.py``, whose model is a file), ``faults`` (see ``inpaint.runtime.faults``),
``fetch_port`` (of loopback, from which pictures may be fetched), ``watch`` (see ``watchdog.py``).
"""

import json
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from server.engines.child import WORKER
from server.engines.client import EngineClient
from server.engines.fleet import client_of
from server.engines.pool import Pool
from server.engines.worker import WorkerSpec
from server.engines.worker_slot import Restarts
from server.fetch.fetcher import Policy
from server.settings import Settings
from server.start import start
from tests.support.watchdog import watch_loop

STUB = (str(Path(__file__).with_name("stub_worker.py")),)


def main(
    *, flags: dict[str, Any], stub: bool, faults: str, fetch_port: int | None, watch: bool = False
) -> None:
    if watch:
        watch_loop(Path(flags["data"]) / "slow")

    def engines(settings: Settings) -> EngineClient:
        def pool(model: str) -> Pool:
            given = settings.models.given[model]
            spec = WorkerSpec(given, settings.device, max_rows=settings.max_rows, faults=faults)
            return Pool(
                spec,
                numbers=settings.workers_of[model],
                keeps_trying=settings.models.several,
                hang_s=settings.hang_s,
                restarts=Restarts(first_s=0.05, longest_s=0.1),
                program=STUB if stub else WORKER,
            )

        return client_of(settings.models.names, pool)

    def policy(settings: Settings) -> Policy:
        plain = Policy.from_settings(settings)
        if fetch_port is None:
            return plain
        return replace(plain, ports=(fetch_port,), allowed_networks=(ip_network("127.0.0.1/32"),))

    start(flags, engines=engines, policy=policy)


if __name__ == "__main__":
    try:
        main(**json.loads(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)  # as the command line does
