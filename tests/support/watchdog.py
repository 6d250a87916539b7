"""A watchdog of a server: the CPU time of its event loop's callbacks, and what a request adds to its memory.

CPU time, not the time on the clock: the test's other processes must not count.
"""

import asyncio
import json
import time
from pathlib import Path

LOGGED_MS = 25.0


def watch_loop(log: Path) -> None:
    """Add a line to ``log`` for each of this process's callbacks from now on that takes ``LOGGED_MS``."""
    plain = asyncio.Handle._run

    def timed(self: asyncio.Handle) -> None:
        started = time.thread_time()
        try:
            plain(self)
        finally:
            ms = 1000 * (time.thread_time() - started)
            if ms >= LOGGED_MS:
                with log.open("a") as file:
                    file.write(json.dumps({"ms": round(ms, 1), "callback": repr(self)[:300]}) + "\n")

    asyncio.Handle._run = timed  # type: ignore[method-assign]


class Watchdog:
    """What a watched server process does between two looks."""

    def __init__(self, pid: int, log: Path) -> None:
        self._status, self._clear = Path(f"/proc/{pid}/status"), Path(f"/proc/{pid}/clear_refs")
        self._log, self._read = log, 0
        self.begin()

    def begin(self) -> None:
        """Start to look."""
        self._clear.write_text("5")  # the peak begins anew
        self._before = self._memory("VmRSS")
        self._read = len(self._lines())

    def blocked_ms(self) -> float:
        """The longest callback since ``begin``; 0 if none was worth a line."""
        return max((json.loads(line)["ms"] for line in self._lines()[self._read :]), default=0.0)

    def grown_mb(self) -> float:
        """What the peak of the resident memory added since ``begin``."""
        return self._memory("VmHWM") - self._before

    def _lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def _memory(self, name: str) -> float:
        lines = self._status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
