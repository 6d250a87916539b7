"""Throughput of a Ray cluster of 1, 2 and 4 engines on one machine, and latency by its router.

The engines take a fixed time for a UNet call and paint nothing, so that two cores can run four of them;
everything else is real: Ray Serve, its proxy, the application, Postgres, pictures through the object store.

- *scaling*: 1, 2 and 4 engines, kept busy; denoising steps a second, in multiples of one engine's.
- *router*: 4 engines at 0.9 of their capacity, requests of 20 to 100 steps at Poisson times; the seconds
  from when a request was due to its answer. Contenders: least backlog; a random replica, which keeps the
  request however long its queue is; a random replica, drawn again where it is full, so that the rest waits in
  one queue before all of them. Each trace goes through all contenders before the next.

    python -m bench.cluster [--quick] [--only scaling|router] [--json FILE]
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch

from bench.lib.clusters import LEAST_BACKLOG, Cluster
from bench.lib.contenders import conditions, finish, parser
from bench.lib.postgres import Postgres, installed, postgres
from bench.lib.traffic import Kind

STEP_S, ROWS = 0.1, 2
_RANDOM = "bench.lib.random_router.RandomRouter"
CONTENDERS: dict[str, dict[str, Any]] = {
    "least backlog": {"router": LEAST_BACKLOG, "max_rows": ROWS},
    "random": {"router": _RANDOM, "max_rows": 1000},  # never full
    "random where there is room": {"router": _RANDOM, "max_rows": ROWS},
}
MIX = {20: 0.5, 30: 0.25, 60: 0.15, 100: 0.1}  # steps → share
LOAD = 0.9
KIND = Kind("fixed", 1.0)
UNLIMITED = {"rate": "1000000/minute", "max_in_flight_per_key": 10_000, "max_waiting": 10_000}


async def scaling(server: Postgres, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Measure the steps a second of 1, 2 and 4 engines."""
    found: list[dict[str, Any]] = []
    settings = {"model": f"fixed:{STEP_S}", "max_rows": ROWS, "workers": 1, **UNLIMITED}
    with Cluster(folder, server.new_database(), **settings) as cluster:
        for engines in (1, 2, 4):
            cluster.do("deploy", workers=engines)
            rate = await _busy(cluster, engines, seconds)
            found.append(
                {"engines": engines, "steps_per_s": rate, "of_one": rate / found[0]["steps_per_s"]}
                if found
                else {"engines": engines, "steps_per_s": rate, "of_one": 1.0}
            )
            print(
                f"{engines} engines: {rate:.2f} steps/s, {found[-1]['of_one']:.3f} times those of one",
                flush=True,
            )
    return found


async def _busy(cluster: Cluster, engines: int, seconds: float) -> float:
    """Measure steps a second while the queue is never empty."""
    done = False

    async def caller(client: httpx2.AsyncClient, number: int) -> None:
        serial = number
        while not done:
            (
                await client.post("/v1/sdxl-inpaint", content=_body(20, serial), headers=_JSON)
            ).raise_for_status()
            serial += 1000

    async with _client(cluster) as client:
        callers = [asyncio.create_task(caller(client, n)) for n in range(engines * (ROWS + 2))]
        await asyncio.sleep(8.0)  # until the queue is full
        steps, began = await _steps(client), time.monotonic()
        await asyncio.sleep(seconds)
        rate = (await _steps(client) - steps) / (time.monotonic() - began)
        done = True
        await asyncio.gather(*callers)
    return rate


async def _steps(client: httpx2.AsyncClient) -> float:
    """Return the steps that the engines have counted, at the moment when that number changes."""

    async def count() -> float:
        text = (await client.get("/metrics")).text
        return float(
            next(line for line in text.splitlines() if line.startswith("inpaint_row_steps_total ")).split()[1]
        )

    first = await count()
    while (now := await count()) == first:
        await asyncio.sleep(0.05)
    return now


async def routed(server: Postgres, folder: Path, seconds: float, seeds: int) -> dict[str, Any]:
    """Measure the latencies of each contender on the traces of all seeds."""
    latencies: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    settings = {"model": f"fixed:{STEP_S}:{ROWS}", "workers": 4, **UNLIMITED}
    with Cluster(folder, server.new_database(), **settings) as cluster:
        for seed in range(seeds):
            for contender, changes in CONTENDERS.items():
                cluster.do("deploy", **changes)
                async with _client(cluster) as client:
                    latencies[contender] += await _trace(client, seconds, seed)
                print(f"seed {seed}, {contender}: {_summary(latencies[contender])}", flush=True)
    return {contender: _summary(times) for contender, times in latencies.items()}


def _summary(latencies: list[float]) -> dict[str, float]:
    p50, p99 = (float(np.percentile(latencies, q)) for q in (50, 99))
    return {"requests": len(latencies), "p50_s": p50, "p99_s": p99, "mean_s": float(np.mean(latencies))}


async def _trace(client: httpx2.AsyncClient, seconds: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    mean = sum(round(0.9 * steps) * share for steps, share in MIX.items())
    rate = LOAD * 4 * ROWS / STEP_S / mean
    due, times = 0.0, []
    while (due := due + chance.expovariate(rate)) < seconds:
        times.append((due, *chance.choices(list(MIX), list(MIX.values()))))
    began = time.monotonic() + 0.5

    async def one(number: int, due: float, steps: int) -> float:
        await asyncio.sleep(max(0.0, began + due - time.monotonic()))
        content = _body(steps, 1000 * seed + number)
        (await client.post("/v1/sdxl-inpaint", content=content, headers=_JSON)).raise_for_status()
        return time.monotonic() - began - due

    return list(await asyncio.gather(*(one(n, due, steps) for n, (due, steps) in enumerate(times))))


_JSON = {"content-type": "application/json"}


def _body(steps: int, serial: int) -> bytes:
    fields = json.loads(KIND.body(64, serial % 1000)) | {"num_inference_steps": steps}
    return json.dumps(fields).encode()


def _client(cluster: Cluster) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=500, max_keepalive_connections=500)
    return httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{cluster.port}", timeout=600, trust_env=False, limits=limits
    )


async def measure(server: Postgres, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were chosen."""
    seconds, seeds = (10.0, 1) if args.quick else (60.0, 3)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "router":
            found["scaling"] = await scaling(server, Path(folder), seconds)
        if args.only != "scaling":
            found["router"] = contenders = await routed(server, Path(folder), 1.5 * seconds, seeds)
            ours = contenders["least backlog"]["p99_s"]
            found["p99_to_ours"] = {
                contender: figures["p99_s"] / ours for contender, figures in contenders.items()
            }
    return found


def main() -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--only", choices=("scaling", "router"), help="one part (default: both)")
    options.add_argument(
        "--quick", action="store_true", help="a short run, to see that it works: its figures mean nothing"
    )
    args = options.parse_args()
    binaries = installed()
    if binaries is None:
        sys.exit("PostgreSQL's server is not installed; on Debian or Ubuntu: apt install postgresql")
    plan = {"step_s": STEP_S, "rows": ROWS, "load": LOAD}

    def run() -> dict[str, Any]:
        with postgres(binaries) as server:
            found = asyncio.run(measure(server, args))
        return conditions("cluster", torch.device("cpu"), **plan, **found)

    finish(run, args.json)


if __name__ == "__main__":
    main()
