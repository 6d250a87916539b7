"""The two servers that ``bench.serving`` compares, as processes that are started and ended."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

from bench.lib.contenders import ROOT
from server.settings import Settings

LOCK, OURS = CONTENDERS = ("lock", "ours")
START_S, STOP_S = 300.0, 30.0
_POLL_S = 0.05


@contextmanager
def served(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """Run a server in its own process, for the length of the block; yield its URL, which it prints first.

    Raises:
        SystemExit: it did not start; the message has the end of its log.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("INPAINT_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=plain | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield _url(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # our server's worker ends with it
            process.wait()


def _url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the server is ready and return its URL."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        lines = log.read_text("utf-8", "replace").splitlines()
        url = next((line.split()[0] for line in lines if line.startswith("http://")), None)
        if url is not None and _ready(url):
            return url
        time.sleep(_POLL_S)
    sys.exit(f"a server did not start:\n{log.read_text('utf-8', 'replace')[-2000:]}")


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=10, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def environments(threads: int, slowdown: float, settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the environment variables of each contender's process.

    Args:
        threads: of torch.
        slowdown: times a kind's seconds alone; ours refuses a request that it cannot paint within it.
        settings: of ours, as NAME=VALUE.
    """
    both = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    own: dict[str, object] = {
        # The bench's callers share one key, which must not be limited; the server's own limits stay.
        "rate": "1000000/minute",
        "max_in_flight_per_key": 100_000,
        "drain_s": 0,
        "max_slowdown": slowdown,
    }
    own = {name: value for name, value in own.items() if name in Settings.model_fields}
    own |= dict(setting.split("=", 1) for setting in settings)
    return {LOCK: both, OURS: both | {f"INPAINT_{name.upper()}": str(value) for name, value in own.items()}}
