"""The progress of a run: k of n pictures and the time left, as a bar on a terminal."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from inpaint.cli.terminal import printable


class Progress:
    """Pictures finished and under way. ``stepped`` may be called from any thread, the others from one."""

    def __init__(self, total: int, bar: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with ``total`` pictures, none begun; ``bar`` is rich's, or None."""
        self.total = total
        self.finished = 0  # painted, skipped or failed
        self._painted = 0
        self._clock = clock
        self._started_at: float | None = None
        self._lock = threading.Lock()
        self._under_way: dict[str, float] = {}  # label → fraction done
        self._bar = bar
        self._task = bar.add_task("", total=total, left="") if bar else None

    @contextmanager
    def loading(self, model: str) -> Iterator[None]:
        """Say on the bar that the model is being loaded, while it is."""
        if self._bar:
            self._bar.update(self._task, description=f"loading {printable(model)}…", total=None, refresh=True)
        yield
        if self._bar:
            self._bar.update(self._task, description="", total=self.total)

    def began(self, label: str) -> None:
        """Count a picture as under way."""
        with self._lock:
            if self._started_at is None:  # pictures skipped before took no time
                self._started_at = self._clock()
            self._under_way[label] = 0.0

    def stepped(self, label: str, step: int, steps: int) -> None:
        """Record that ``step`` of a picture's ``steps`` are done."""
        with self._lock:
            if label in self._under_way:
                self._under_way[label] = step / max(steps, 1)
        # The bar is drawn ten times a second, in which a small model may paint a picture.
        self._draw(f"{label}, step {step} of {steps}", immediately=step == 1)

    def ended(self, label: str, *, painted: bool) -> None:
        """Count a picture as finished: painted, or else skipped or failed."""
        with self._lock:
            self._under_way.pop(label, None)
            self.finished += 1
            self._painted += painted
        self._draw(label)

    def left_s(self) -> float | None:
        """Return the seconds until all are painted, at the pace so far; None before anything was painted."""
        with self._lock:
            done = self._painted + sum(self._under_way.values())
            if self._started_at is None or not done:
                return None
            open_ = self.total - self.finished - sum(self._under_way.values())
            return (self._clock() - self._started_at) / done * open_

    def __str__(self) -> str:
        """Return text such as ``3 of 20, 2 min left``."""
        return f"{self.finished} of {self.total}" + _in_words(self.left_s() if self._painted else None)

    def _draw(self, what: str, *, immediately: bool = False) -> None:
        if self._bar:
            with self._lock:
                done = self.finished + sum(self._under_way.values())
            words = f"{self.finished} of {self.total}{_in_words(self.left_s())}"
            self._bar.update(
                self._task, description=printable(what), completed=done, left=words, refresh=immediately
            )


def _in_words(seconds: float | None) -> str:
    if not seconds:
        return ""
    for unit_s, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f", {seconds / unit_s:.0f} {unit} left"
    return f", {seconds:.0f} s left"


@contextmanager
def progress_of(total: int) -> Iterator[Progress]:
    """Open a progress with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield Progress(total, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
    console = Console(stderr=True)
    # stdout is for programs: if rich redirected it, its lines would appear on the terminal, between ours.
    with RichProgress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        yield Progress(total, bar)
