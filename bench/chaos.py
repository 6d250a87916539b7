"""Lost and twice-paid requests when one of three hosts is cut off and processes are killed.

Network namespaces are the hosts: a head with Ray, Postgres and an S3-compatible store, and two workers, each
with an HTTP proxy and one engine that takes a fixed time for a UNet call. Callers of v1 and v2 keep it busy.
Without ``--minutes`` a worker is cut off and an engine on another host is killed; the worker comes back.
With it, random faults follow each other.

Every v2 request that was accepted must be painted and paid for once; v1 may only fail with 503 or 504. Exits
with 1 if that does not hold. Needs root, iproute2 and PostgreSQL's server.

    python -m bench.chaos [--minutes 30] [--seed 1] [--json FILE]
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from bench.lib.books import PAID_ONCE, Books
from bench.lib.clusters import Cluster
from bench.lib.contenders import conditions, finish, parser
from bench.lib.hosts import NETWORK, Host, hosts
from bench.lib.load import Load
from bench.lib.postgres import installed, postgres
from bench.lib.rays import S3, start_head, start_store, start_worker
from bench.lib.traffic import Kind
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import MICRO, Ledger

CALLERS = 4  # of v1, and as many of v2
DEADLINE_S = 60.0
SETTINGS = {
    "model": "fixed:0.05",
    "device": "auto",  # engines ask Ray for a GPU; each host declares one
    "host": "0.0.0.0",  # in a namespace
    "workers": 3,
    "ingress_replicas": 3,
    "metering": True,
    "price": 0.1,
    "lease_s": 5.0,
    "deadline_s": DEADLINE_S,
    "drain_s": 20.0,
    "hang_s": 10.0,
    "max_attempts": 10,
    "rate": "1000000/minute",
    "max_in_flight_per_key": 1000,
}


class Story:
    """The cluster, its callers and the faults of one run."""

    def __init__(self, cluster: Cluster, made: list[Host], load: Load, folder: Path) -> None:
        self.cluster, self.hosts, self.load, self.folder = cluster, made, load, folder
        self.faults: list[dict[str, Any]] = []
        self._down: set[Host] = set()

    async def scripted(self, seconds: float = 25.0) -> None:
        """Cut off a host, kill an engine on another, and let the host rejoin."""
        await asyncio.sleep(seconds)
        await self.cut(self.hosts[2])
        await self.kill("Engine")
        await asyncio.sleep(2 * seconds)
        await self.rejoin(self.hosts[2])
        await asyncio.sleep(seconds)

    async def drawn(self, minutes: float, chance: random.Random) -> None:
        """Cause random faults for ``minutes``."""
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(5, 20))
            fault = chance.choices(["Engine", "Ingress", "cut"], [4, 2, 1])[0]
            if fault != "cut":
                await self.kill(fault)
                continue
            host = chance.choice(self.hosts[1:])
            await self.cut(host)
            await asyncio.sleep(chance.uniform(2, 40))  # shorter than Ray needs to notice, and longer
            await self.rejoin(host)

    async def cut(self, host: Host) -> None:
        """Take down the network of one host."""
        self._note(f"cut {host.name}")
        await asyncio.to_thread(host.cut)

    async def rejoin(self, host: Host) -> None:
        """Bring its network up and start its Ray anew, as an operator's service manager would."""
        await asyncio.to_thread(host.join)
        await asyncio.to_thread(host.end)
        await asyncio.to_thread(start_worker, host, self.hosts[0], self.folder)
        self._note(f"rejoin {host.name}")

    async def kill(self, deployment: str) -> None:
        """Send SIGKILL to a replica on a host that is not cut off."""
        pids = await asyncio.to_thread(self.cluster.pids, deployment)
        if pids:
            self._note(f"kill {deployment}")
            self.cluster.kill(pids[0])

    def _note(self, what: str) -> None:
        print(
            f"{time.strftime('%H:%M:%S')} {what}; v1 {dict(self.load.v1)} v2 {dict(self.load.v2)}", flush=True
        )
        self.faults.append({"what": what, "at": time.monotonic()})


async def run(story: Story, minutes: float, seed: int) -> None:
    """Run the load and the faults to the end of both."""
    callers = asyncio.create_task(story.load.run(CALLERS))
    try:
        await (story.drawn(minutes, random.Random(seed)) if minutes else story.scripted())
    finally:
        story.load.stopped = True
        await callers


def report(story: Story, database_url: str, key_id: str) -> dict[str, Any]:
    """Compare the accepted requests with their ends and their ledger entries."""
    load = story.load
    books = Books.read(database_url, key_id)
    wrong = [request_id for request_id in load.accepted if dict(books.kinds[request_id]) != PAID_ONCE]
    began = story.faults[0]["at"]
    failed = [at - began for at, good in load.answers if not good and at > began]
    held = [load.ended[r] - began for r, at in load.accepted.items() if at < began < load.ended.get(r, began)]
    good = sorted(at for at, good in load.answers if good)
    return {
        "faults": dict(Counter(fault["what"].split()[0] for fault in story.faults)),
        "v1": dict(load.v1),
        "v2": dict(load.v2),
        "v2_asked_again": dict(load.refused),
        "v2_not_paid_once": len(wrong),
        "ledger_drift": books.drift,
        "longest_without_a_picture_s": round(max(b - a for a, b in pairwise(good)), 1),
        "after_the_first_fault": {
            "last_failed_answer_s": round(max(failed, default=0.0), 1),
            "last_v2_that_it_met_s": round(max(held, default=0.0), 1),
        },
        "holds": not books.drift
        and not wrong
        and set(load.v2) <= {"COMPLETED"}
        and set(load.v1) <= {"200", "503", "504"},
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Set up the hosts and the cluster, run the faults, return the report."""
    binaries = installed()
    if binaries is None:
        sys.exit("PostgreSQL's server is not installed; on Debian or Ubuntu: apt install postgresql")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = stack.enter_context(hosts(["ihead", "ione", "itwo"], S3 | {"OMP_NUM_THREADS": "1"}))
        head = made[0]
        for host in made:
            host.env = {**host.env, "FSSPEC_S3_ENDPOINT_URL": f"http://{head.address}:5000"}
        server = stack.enter_context(
            postgres(binaries, listen=head.address, lets_in=NETWORK, prefix=head.enter)
        )
        start_store(head, folder)
        start_head(head, folder)
        for host in made[1:]:
            start_worker(host, head, folder)
        url = server.new_database(head.address)
        with Database(url) as database:
            database.migrate()
            key, token = Keys(database).create("load")
            Ledger(database).add(key.id, 10**6 * MICRO)
        settings = SETTINGS | {"blobs_url": "s3://pictures/inpaint", "data": str(folder / "data")}
        cluster = stack.enter_context(
            Cluster(folder, url, address=f"{head.address}:6379", inside=head, key=token, **settings)
        )
        urls = [f"http://{host.address}:{cluster.port}" for host in made[:2]]
        fields = json.loads(Kind("fixed", 1.0).body(64, 0))
        story = Story(cluster, made, Load(urls, token, fields, DEADLINE_S), folder)
        asyncio.run(run(story, args.minutes, args.seed))
        return report(story, url, key.id)


def main() -> None:
    options = parser(__doc__, model=False)
    options.add_argument(
        "--minutes", type=float, default=0.0, help="of random faults (default: the scripted ones)"
    )
    options.add_argument("--seed", type=int, default=1, help="of the faults")
    args = options.parse_args()
    found: dict[str, Any] = {}

    def run_it() -> dict[str, Any]:
        found.update(measure(args))
        return conditions("chaos", torch.device("cpu"), minutes=args.minutes, **found)

    finish(run_it, args.json)
    sys.exit(not found["holds"])


if __name__ == "__main__":
    main()
