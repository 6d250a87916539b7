"""A Ray cluster on this machine: ``cluster_program`` as a process, and an HTTP client for it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx2

from bench.lib.hosts import Host

PROGRAM = Path(__file__).parents[1] / "cluster_program.py"
LEAST_BACKLOG = "server.ray.router.LeastBacklogRouter"
_ENV = {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENCE_S = 250.0  # for anything that takes seconds on an idle machine
FIXED = "bench.lib.fixed_engine:load"
REAL = "server.engines.worker:load_engine"


def eventually(true: Callable[[], Any]) -> Any:
    """Wait until ``true`` returns a true value, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def free_port() -> int:
    """Return a free port outside the kernel's own range, of which Ray opens hundreds before ours is bound."""
    while True:
        port = random.randrange(20_000, 32_000)  # and Ray's own workers are below this
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


class Cluster:
    """A context with Ray and the application on this machine; leaving it ends both."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        loads: str = FIXED,
        router: str = LEAST_BACKLOG,
        address: str | None = None,
        inside: Host | None = None,
        key: str = "",
        **settings: Any,
    ) -> None:
        self.port = free_port()
        enter, where = (inside.enter, inside.address) if inside else ((), "127.0.0.1")
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
        order = {"settings": plain | settings, "loads": loads, "router": router, "address": address}
        env = {name: value for name, value in os.environ.items() if not name.startswith("INPAINT_")}
        self._process = subprocess.Popen(
            [*enter, sys.executable, str(PROGRAM), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env | (dict(inside.env) if inside else {}) | _ENV,
        )
        self.client = httpx2.Client(
            base_url=f"http://{where}:{self.port}",
            headers={"x-api-key": key} if key else {},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        try:
            assert self._answer() == "ready"
            self.do("deploy")
            eventually(self.ready)
        except BaseException:
            self._close()
            raise

    def ready(self) -> bool:
        """Return True if ``/readyz`` answers with 200."""
        return self.client.get("/readyz").status_code == 200

    def do(self, what: str, **order: Any) -> Any:
        """Send an order to the program and return its answer."""
        assert self._process.stdin is not None
        print(json.dumps({"do": what, **order}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster's program ended"
        return json.loads(line)

    def pids(self, deployment: str = "Engine") -> list[int]:
        """Return the process ids of the living replicas."""
        return [pid for _, pid, _ in self.do("actors")[deployment]]

    def kill(self, pid: int) -> None:
        """Send SIGKILL to a process."""
        os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do("stop")
        finally:
            self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.client.close()
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
