"""Growth of memory over 10,000 requests, and errors with 50 clients: ``python -m bench.soak``.

``memory``: 10,000 small requests to a server whose engine returns immediately, one in five refused, one in
ten queued (v2); the server's resident memory after every thousand. The target is 1 MB per thousand, taken as
the slope of a line through the second half: in the first the server warms up, and rates are kept for a
minute.

``demo``: 50 clients for a minute on ``inpaint serve`` with the demo model. Every answer must be 200, or 503
with Retry-After.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from bench.lib.instant import ROOT, conditions, serve, settings

REQUESTS, EVERY, CLIENTS = 10_000, 1_000, 8
TARGET_MB = 1.0
V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"


def body(side: int, **fields: object) -> dict[str, object]:
    """Return the JSON body of a square picture, its middle to be repainted."""
    mask = Image.new("L", (side, side))
    mask.paste(255, (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    found: dict[str, object] = {"prompt": "a red circle", **fields}
    for name, image in (("image", Image.new("RGB", (side, side), "teal")), ("mask", mask)):
        file = io.BytesIO()
        image.save(file, "PNG")
        found[name] = base64.b64encode(file.getvalue()).decode()
    return found


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a Python module in a child process, which SIGTERM ends after the block."""
    child = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# Memory.


async def memory() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as data, process("bench.soak", "--serve", data) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
            started = time.monotonic()
            samples, statuses = await _thousands(http, child.pid)
            seconds = time.monotonic() - started
    half = samples[len(samples) // 2 :]
    slope = statistics.linear_regression(range(len(half)), half).slope
    return {
        "requests": REQUESTS,
        "seconds": round(seconds, 1),
        "statuses": dict(statuses),
        "rss_mb": [round(sample, 1) for sample in samples],
        "mb_per_thousand": round(slope * 1000 / EVERY, 3),
        "target_mb_per_thousand": TARGET_MB,
    }


async def _thousands(http: httpx2.AsyncClient, pid: int) -> tuple[list[float], Counter[int]]:
    good, bad = body(64), body(64, samples=99)
    statuses: Counter[int] = Counter()

    async def client_of(numbers: Iterator[int]) -> None:
        for number in numbers:
            path, asked = (V2 if number % 10 == 3 else V1), (bad if number % 5 == 0 else good)
            statuses[(await http.post(path, json=asked)).status_code] += 1

    samples = [rss_mb(pid)]
    for first in range(0, REQUESTS, EVERY):
        numbers = iter(range(first, first + EVERY))
        await asyncio.gather(*(client_of(numbers) for _ in range(CLIENTS)))
        samples.append(rss_mb(pid))
        print(f"{first + EVERY} requests, {samples[-1]:.1f} MB", file=sys.stderr)
    return samples, statuses


# The demo model.


async def demo(clients: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as data:
        environment = {"INPAINT_MAX_IN_FLIGHT_PER_KEY": "1000", "INPAINT_RATE": "1000000/minute"}
        arguments = ["serve", "--port", "0", "--data", data, "--log-level", "ERROR"]
        with process("inpaint", *arguments, **environment) as child:
            assert child.stderr is not None
            url = child.stderr.readline().split()[0]
            async with httpx2.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
                await _until_ready(http)
                return await _crowd(http, child.pid, clients, seconds)


async def _until_ready(http: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(120):
        while (await http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.2)


async def _crowd(http: httpx2.AsyncClient, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    took: list[float] = []
    rss = [rss_mb(pid)]
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        asked = body(64 if number % 2 else 96, num_inference_steps=20, scheduler="DDIM")
        while time.monotonic() < end:
            started = time.monotonic()
            response = await http.post(V1, json=asked)
            retry = response.headers.get("retry-after")
            statuses[f"{response.status_code}{' with Retry-After' if retry else ''}"] += 1
            if response.status_code == 200:
                took.append(time.monotonic() - started)
            elif retry:
                await asyncio.sleep(min(float(retry), 5.0))

    await asyncio.gather(*(one(number) for number in range(clients)))
    rss.append(rss_mb(pid))
    return {
        "clients": clients,
        "seconds": seconds,
        "statuses": dict(statuses),
        "seconds_median": round(statistics.median(took), 2) if took else None,
        "seconds_max": round(max(took), 2) if took else None,
        "server_rss_mb": [round(sample, 1) for sample in rss],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("memory", "demo"), help="one part (default: both)")
    parser.add_argument("--clients", type=int, default=50, help="of the demo part (default 50)")
    parser.add_argument("--seconds", type=float, default=60, help="of the demo part (default 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    parser.add_argument("--serve", metavar="DATA", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        asyncio.run(serve(settings(chosen.serve)))
        return
    figures: dict[str, Any] = {"bench": "soak", "date": datetime.now(UTC).date().isoformat(), **conditions()}
    if chosen.part != "demo":
        figures["memory"] = asyncio.run(memory())
    if chosen.part != "memory":
        figures["demo"] = asyncio.run(demo(chosen.clients, chosen.seconds))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
