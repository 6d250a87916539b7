"""The findings of a run: one per place in the code, each with the input that shows it."""

import hashlib
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class Findings:
    """Reproducers in a folder, which is outside the repository."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.places: Counter[str] = Counter()

    def add(self, data: bytes, error: BaseException) -> None:
        """Keep an input, if nothing else was found at its place."""
        self.note(data, _place(error), "".join(traceback.format_exception(error)))

    def note(self, data: bytes, place: str, report: str) -> None:
        """Keep an input with a report, as :meth:`add` does."""
        self.places[place] += 1
        if self.places[place] > 1:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(report, encoding="utf-8", errors="backslashreplace")
        sys.stderr.write(f"FINDING {place} ({path})\n")


def _place(error: BaseException) -> str:
    """Return the error's kind, and the last lines of our own code that it passed."""
    ours = [frame for frame in _frames(error.__traceback__) if "/inpaint/" in frame or "/server/" in frame]
    return f"{type(error).__name__} at {' < '.join(reversed(ours[-2:])) or 'no line of ours'}"


def _frames(trace: TracebackType | None) -> Iterator[str]:
    for frame in traceback.extract_tb(trace):
        yield "/".join(Path(frame.filename).parts[-5:]) + f":{frame.lineno}"
