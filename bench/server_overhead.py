"""Cost of a v1 request outside the model: ``python -m bench.server_overhead``.

A real server on loopback whose engine returns the caller's picture immediately; a client in another process
sends a 1024² JPEG with a mask, one request after the other. Two figures against their targets: milliseconds
from the first byte sent to the last received, and the part of them in which the event loop was busy, so that
no other client was served. The second is measured around every callback that the loop runs.
"""

import argparse
import asyncio
import base64
import io
import json
import statistics
import sys
import tempfile
import time
from asyncio import events
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from bench.lib.instant import ROOT, conditions, serve, settings

SIDE = 1024
TARGET_MS, TARGET_LOOP_MS = 60.0, 5.0
FORMS = ("multipart", "json")
STAGES = ("fetch", "read", "write")


@dataclass(slots=True)
class LoopMeter:
    """A meter of the seconds that the loop's callbacks take: by the clock, and of this thread's CPU time."""

    wall: list[float] = field(default_factory=list)
    busy_s: float = 0.0

    def install(self) -> None:
        """Measure every callback from now on; of all loops of this process, which has one."""
        plain = events.Handle._run  # noqa: SLF001 — the one place that every callback passes

        def timed(handle: events.Handle) -> None:
            wall, busy = time.perf_counter(), time.thread_time()
            plain(handle)
            self.busy_s += time.thread_time() - busy
            self.wall.append(time.perf_counter() - wall)

        events.Handle._run = timed  # type: ignore[method-assign]  # noqa: SLF001

    def reset(self) -> None:
        """Forget what was measured."""
        self.wall, self.busy_s = [], 0.0


def pictures() -> tuple[bytes, bytes]:
    """Return a photograph and a mask of a quarter of it, as files."""
    photo = Image.open(ROOT / "docs" / "images" / "portrait.jpg").convert("RGB").resize((SIDE, SIDE))
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4))
    files = io.BytesIO(), io.BytesIO()
    photo.save(files[0], "JPEG", quality=95)
    mask.save(files[1], "PNG")
    return files[0].getvalue(), files[1].getvalue()


def client(port: int, form: str, rounds: int) -> None:
    """Send requests, in a process of its own, and print the seconds of each as JSON."""
    import httpx2

    image, mask = pictures()
    asked: dict[str, Any] = {"data": {"prompt": "x"}, "files": {"image": image, "mask": mask}}
    if form == "json":
        texts = {"image": base64.b64encode(image).decode(), "mask": base64.b64encode(mask).decode()}
        asked = {
            "content": json.dumps({"prompt": "x", **texts}),
            "headers": {"content-type": "application/json"},
        }
    seconds = []
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
        for _ in range(rounds):
            request = http.build_request("POST", "/v1/sdxl-inpaint", **asked)
            request.read()
            started = time.perf_counter()
            response = http.send(request)
            seconds.append(time.perf_counter() - started)
            response.raise_for_status()
    print(json.dumps(seconds))


async def send(port: int, form: str, rounds: int) -> list[float]:
    """Send requests from another process; return the seconds of each."""
    arguments = ["-m", "bench.server_overhead", "--client", str(port), form, str(rounds)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    found: list[float] = json.loads(out)
    return found


async def measure(rounds: int, warmups: int) -> dict[str, Any]:
    """Measure both forms of a body, one after the other."""
    found: dict[str, Any] = {}
    meter = LoopMeter()
    meter.install()

    async def drive(port: int) -> None:
        for form in FORMS:
            await send(port, form, warmups)
            meter.reset()
            found[form] = _figures(await send(port, form, rounds), meter)

    with tempfile.TemporaryDirectory() as data:
        await serve(settings(data), drive)
    return found


def _figures(seconds: Sequence[float], meter: LoopMeter) -> dict[str, float]:
    ordered = sorted(seconds)
    figures = {
        "ms_median": 1000 * statistics.median(ordered),
        "ms_p95": 1000 * ordered[int(0.95 * len(ordered))],
        "ms_min": 1000 * ordered[0],
        "loop_ms_a_request": 1000 * meter.busy_s / len(ordered),
        "loop_wall_ms_a_request": 1000 * sum(meter.wall) / len(ordered),
        "longest_callback_ms": 1000 * max(meter.wall),
    }
    return {name: round(value, 2) for name, value in figures.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="timed requests of each form (default 200)")
    parser.add_argument("--warmups", type=int, default=20, help="requests before those (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.client:
        client(int(chosen.client[0]), chosen.client[1], int(chosen.client[2]))
        return
    forms = asyncio.run(measure(chosen.rounds, chosen.warmups))
    figures = {
        "bench": "server_overhead",
        "date": datetime.now(UTC).date().isoformat(),
        **conditions(),
        "side": SIDE,
        "rounds": chosen.rounds,
        "targets": {"ms_median": TARGET_MS, "loop_ms_a_request": TARGET_LOOP_MS},
        "forms": forms,
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
