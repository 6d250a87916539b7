"""Ten minutes of attacks and faults together, on one server: ``python -m bench.storm``.

Good callers of v1 and v2 paint with the demo model. At the same time there are bombs in form fields and JSON,
slow uploads, downloads that nobody reads, and 300 idle sockets. The server's disk is full for 20 seconds, its
worker gets a SIGKILL, and later the server itself, which is started again.

Every v2 request that was accepted must be painted and paid once, v1 may only answer 200, 429, 503 or 504,
``/livez`` must answer within 300 ms in 99 of 100 looks, and the memory must come back to within 50 MB of what
it was before. Exits with 1 if that does not hold.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from bench.lib.attackers import Attackers
from bench.lib.books import PAID_ONCE, Books
from bench.lib.instant import ROOT, conditions
from bench.lib.load import UNREACHABLE, Load
from bench.soak import body, rss_mb
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import MICRO, Ledger

CALLERS = 2  # of v1, and as many of v2
FULL_S, REST_S = 20.0, 60.0
LIVEZ_S, LIVEZ_MS, GROWN_MB = 0.1, 300.0, 50.0
V1_STATUSES = {"200", "429", "503", "504"}
SETTINGS = {
    "metering": "true",
    "price": "0.01",
    "rate": "1000000/minute",
    "max_in_flight_per_key": "1000",
    "warm_up": "false",  # it would take a minute of the storm
}


@dataclass(slots=True)
class Server:
    """The server process, which may be killed and started again on the same port and folder."""

    data: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it; ``ready`` waits for it."""
        own = {f"INPAINT_{name.upper()}": value for name, value in SETTINGS.items()}
        with (self.data.parent / "server.log").open("ab") as log:
            command = ["serve", "--port", str(self.port), "--data", str(self.data)]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "inpaint", *command], cwd=ROOT, env=os.environ | own, stderr=log
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process is not None
        return self.process.pid

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def worker(self) -> int:
        """Return the id of its worker process."""
        files = Path(f"/proc/{self.pid}/task").glob("*/children")
        return next(int(pid) for file in files for pid in file.read_text().split())

    async def ready(self) -> None:
        """Wait until it paints."""
        async with asyncio.timeout(180), httpx2.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    if (await http.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except UNREACHABLE:
                    pass
                await asyncio.sleep(0.2)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Send SIGTERM, and wait for the end."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(180)


@dataclass(slots=True)
class Storm:
    """One run: the server, its callers, its attackers, and what happens to it."""

    server: Server
    load: Load
    attackers: Attackers
    seconds: float
    livez_ms: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    _down: bool = False  # the server was killed and is not ready again

    async def run(self) -> dict[str, Any]:
        """Run it to the end, and return what was seen."""
        before = rss_mb(self.server.pid)
        callers = asyncio.create_task(self.load.run(CALLERS))
        works = (self.attackers.run(), self._look(), self._download())
        others = [asyncio.create_task(work) for work in works]
        try:
            await self._happen()
        finally:
            self.load.stopped = self.attackers.stopped = True
            await callers
            await asyncio.gather(*others)
        await asyncio.sleep(REST_S)
        rss = [round(before, 1), round(rss_mb(self.server.pid), 1)]
        return {"rss_mb": rss, "livez_ms": self._livez(), "events": self.events}

    async def _happen(self) -> None:
        """Fill the disk, kill the worker, kill the server, each in its part of the time."""
        part = self.seconds / 4
        await asyncio.sleep(part)
        self._note("disk full")
        _, hard = resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (1, hard))
        await asyncio.sleep(FULL_S)
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        self._note("disk has room")
        await asyncio.sleep(part - FULL_S)
        self._note("worker killed")
        os.kill(self.server.worker(), signal.SIGKILL)
        await asyncio.sleep(part)
        self._note("server killed")
        self._down = True
        self.server.kill()
        self.server.start()
        await self.server.ready()
        self._down = False
        self._note("server ready again")
        await asyncio.sleep(part)

    async def _look(self) -> None:
        """Ask ``/livez`` ten times a second, as a probe does."""
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
            while not self.load.stopped:
                started = time.monotonic()
                try:
                    found = (await http.get(f"{self.server.url}/livez")).status_code == 200
                except UNREACHABLE:
                    found = False
                if not self._down:
                    self.livez_ms.append(1000 * (time.monotonic() - started) if found else 10_000.0)
                await asyncio.sleep(LIVEZ_S)

    async def _download(self) -> None:
        """Paint a large picture once, for those who download and do not read."""
        headers = {"x-api-key": self.load.key}
        async with httpx2.AsyncClient(trust_env=False, timeout=300, headers=headers) as http:
            asked = body(3000, num_inference_steps=20, scheduler="DDIM", output_format="png")
            while not self.load.stopped and not self.attackers.picture:
                try:
                    answer = (await http.post(f"{self.server.url}/v2/sdxl-inpaint", json=asked)).json()
                    status = await self.load.end_of(http, answer["request_id"])
                    if status == "COMPLETED":
                        found = await http.get(f"{self.server.url}/v2/requests/{answer['request_id']}")
                        self.attackers.picture = found.json()["output"].removeprefix(self.server.url)
                        self.load.accepted.setdefault(answer["request_id"], time.monotonic())
                except (*UNREACHABLE, ValueError, KeyError):
                    pass
                await asyncio.sleep(1)

    def _livez(self) -> dict[str, float]:
        cuts = statistics.quantiles(self.livez_ms, n=100)
        return {"looks": len(self.livez_ms), "p50": round(cuts[49], 1), "p99": round(cuts[98], 1)}

    def _note(self, what: str) -> None:
        self.events.append(what)
        seen = f"v1 {dict(self.load.v1)} v2 {dict(self.load.v2)}"
        print(f"{time.strftime('%H:%M:%S')} {what}; {seen}", file=sys.stderr, flush=True)


def report(storm: Storm, seen: dict[str, Any], database_url: str, key_id: str) -> dict[str, Any]:
    """Compare the accepted requests with their ends and their ledger entries."""
    load = storm.load
    books = Books.read(database_url, key_id)
    wrong = [request_id for request_id in load.accepted if dict(books.kinds[request_id]) != PAID_ONCE]
    unsettled = [
        r for r, found in books.kinds.items() if found["reserve"] != found["settle"] + found["refund"]
    ]
    before, after = seen["rss_mb"]
    return {
        "v1": dict(load.v1),
        "v2": dict(load.v2),
        "v2_asked_again": dict(load.refused),
        "attacks": dict(sorted(storm.attackers.answers.items())),
        **seen,
        "v2_not_paid_once": len(wrong),
        "neither_settled_nor_refunded": len(unsettled),
        "ledger_drift": books.drift,
        "holds": {
            "v2": set(load.v2) == {"COMPLETED"} and not wrong and not unsettled and not books.drift,
            "v1": {what for what in load.v1 if what[:3].isdecimal()} <= V1_STATUSES,
            "livez": seen["livez_ms"]["p99"] <= LIVEZ_MS,
            "memory": after - before <= GROWN_MB,
        },
    }


def measure(seconds: float) -> dict[str, Any]:
    """Set the server up, let the storm pass, return the report."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(Path(folder) / "data", taken.getsockname()[1])
        server.data.mkdir()
        taken.close()
        url = f"sqlite:///{server.data / 'inpaint.db'}"
        with Database(url) as database:
            database.migrate()
            key, token = Keys(database).create("storm")
            Ledger(database).add(key.id, 10**6 * MICRO)
        server.start()
        try:
            return asyncio.run(_measure(server, token, seconds, url, key.id))
        finally:
            server.stop()


async def _measure(server: Server, token: str, seconds: float, url: str, key_id: str) -> dict[str, Any]:
    await server.ready()
    asked = body(64, num_inference_steps=20, scheduler="DDIM")
    load = Load([server.url], token, asked, deadline_s=300)
    storm = Storm(server, load, Attackers("127.0.0.1", server.port, token), seconds)
    async with httpx2.AsyncClient(trust_env=False, timeout=300) as http:
        for _ in range(4):  # what first requests load is no growth
            await http.post(f"{server.url}/v1/sdxl-inpaint", json=asked, headers={"x-api-key": token})
    return report(storm, await storm.run(), url, key_id)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of the storm (default 600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    chosen = parser.parse_args(arguments)
    found = measure(max(chosen.seconds, 4 * FULL_S + 4))
    figures = {"bench": "storm", "date": datetime.now(UTC).date().isoformat(), **conditions(), **found}
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures))
    sys.exit(not all(found["holds"].values()))


if __name__ == "__main__":
    main()
