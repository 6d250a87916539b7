"""How far a run is: k of n pictures and the time left, as a bar on a terminal."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def note(text: str) -> None:
    """A line for the person at the terminal, above the bar if there is one."""
    # typer.echo would look for the stream behind the one that rich has put there, and write into the bar.
    sys.stderr.write(f"{text}\n")


class Progress:
    """Pictures behind and under way. ``stepped`` may be called from any thread, the others from one."""

    def __init__(self, total: int, bar: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """Of ``total`` pictures, none begun; ``bar`` is rich's, or None."""
        self.total = total
        self.behind = 0  # painted, skipped or failed
        self._painted = 0
        self._clock = clock
        self._started_at: float | None = None
        self._lock = threading.Lock()
        self._under_way: dict[str, float] = {}  # label → how much of it is done
        self._bar = bar
        self._task = bar.add_task("", total=total, left="") if bar else None

    def began(self, label: str) -> None:
        """A picture is being painted."""
        with self._lock:
            if self._started_at is None:  # what was skipped before took no time
                self._started_at = self._clock()
            self._under_way[label] = 0.0

    def stepped(self, label: str, step: int, steps: int) -> None:
        """``step`` of its ``steps`` are taken."""
        with self._lock:
            if label in self._under_way:
                self._under_way[label] = step / max(steps, 1)
        self._draw(f"{label}, step {step} of {steps}")

    def ended(self, label: str, *, painted: bool) -> None:
        """Its fate is known."""
        with self._lock:
            self._under_way.pop(label, None)
            self.behind += 1
            self._painted += painted
        self._draw(label)

    def left_s(self) -> float | None:
        """Seconds until all are painted, if they go on as they have so far; None before anything was."""
        with self._lock:
            done = self._painted + sum(self._under_way.values())
            if self._started_at is None or not done:
                return None
            open_ = self.total - self.behind - sum(self._under_way.values())
            return (self._clock() - self._started_at) / done * open_

    def __str__(self) -> str:
        """``3 of 20, 2 min left``."""
        return f"{self.behind} of {self.total}" + _in_words(self.left_s() if self._painted else None)

    def _draw(self, what: str) -> None:
        if self._bar:
            with self._lock:
                done = self.behind + sum(self._under_way.values())
            words = f"{self.behind} of {self.total}{_in_words(self.left_s())}"
            self._bar.update(self._task, description=what, completed=done, left=words)


def _in_words(seconds: float | None) -> str:
    if not seconds:
        return ""
    for unit_s, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f", {seconds / unit_s:.0f} {unit} left"
    return f", {seconds:.0f} s left"


@contextmanager
def progress_of(total: int) -> Iterator[Progress]:
    """Progress with a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield Progress(total, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    console = Console(stderr=True)
    # Standard output is a program's: redirected, its lines would come out on the terminal, between ours.
    with RichProgress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        yield Progress(total, bar)
