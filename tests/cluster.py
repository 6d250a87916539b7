"""A cluster under test: ``cluster_program`` as a process, Postgres beside it, and HTTP from outside.

A module asks for these with ``pytest_plugins = ["tests.postgres"]`` and makes its own ``Cluster``.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.server_process import PATIENCE_S, Accounts, eventually

PROGRAM = Path(__file__).with_name("cluster_program.py")
FIXED = "tests.cluster_engine:load"
REAL = "server.worker:load_engine"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Cluster:
    """Ray and the application on this machine; leaving it ends both."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        loads: str = FIXED,
        address: str | None = None,
        **settings: Any,
    ) -> None:
        self.port = free_port()
        plain = {
            "port": self.port,
            "database_url": database_url,
            "blobs_url": (folder / "pictures").as_uri(),
            "data": str(folder / "data"),
            "model": "fixed:0.02",
            "device": "cpu",
            "ingress_replicas": 1,
            "max_rows": 2,
            "warm_up": False,
            "lease_s": 3.0,
        }
        order = {"settings": plain | settings, "loads": loads, "address": address}
        env = {name: value for name, value in os.environ.items() if not name.startswith("INPAINT_")}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env | {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        )
        assert self._answer() == "ready"
        self.do("deploy")
        self.client = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S, trust_env=False
        )
        eventually(self.ready)

    def ready(self) -> bool:
        return self.client.get("/readyz").status_code == 200

    def do(self, what: str, **order: Any) -> Any:
        assert self._process.stdin is not None
        print(json.dumps({"do": what, **order}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster's program ended"
        return json.loads(line)

    def pids(self, deployment: str = "Engine") -> list[int]:
        """Of the replicas that live."""
        return [pid for _, pid, _ in self.do("actors")[deployment]]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.client.close()
            self.do("stop")
        finally:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait(60)
            self._process.stdout.close()


def ended(client: httpx2.Client, request_id: str, key: str = "") -> dict[str, Any]:
    """A v2 request once it has ended."""
    headers = {"x-api-key": key} if key else {}

    def look() -> dict[str, Any] | None:
        answer = client.get(f"/v2/requests/{request_id}", headers=headers).json()
        return answer if answer["status"] in ("COMPLETED", "FAILED", "CANCELLED") else None

    return dict(eventually(look))


def with_accounts(database_url: str, work: Callable[[Accounts], Any]) -> Any:
    from server.db import Database

    with Database(database_url) as database:
        database.migrate()
        return work(Accounts(database))
