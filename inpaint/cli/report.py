"""What ``inpaint run`` tells: progress and failures to people on stderr, JSON to programs on stdout."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import typer

from inpaint.cli import SOME_FAILED
from inpaint.errors import InpaintError


class Failures:
    """Counts pictures that failed; the error of an only picture goes on to the caller."""

    @classmethod
    @contextmanager
    def of(cls, total: int, as_json: bool) -> Iterator[Self]:
        """A count for ``total`` pictures that ends the command with its code if any failed.

        Raises:
            typer.Exit: with code 3, at the end of the block.
        """
        failures = cls(alone=total == 1, as_json=as_json)
        yield failures
        if failures.count:
            note(f"{failures.count} of {total} pictures failed")
            raise typer.Exit(SOME_FAILED)

    def __init__(self, *, alone: bool, as_json: bool) -> None:
        self.count = 0
        self._alone = alone
        self._as_json = as_json

    @contextmanager
    def about(self, path: Path) -> Iterator[None]:
        """Report an error inside the block as this picture's."""
        try:
            yield
        except InpaintError as error:
            if self._as_json:
                typer.echo(json.dumps({"image": str(path), "error": str(error)}, ensure_ascii=False))
            if self._alone:
                raise
            self.count += 1
            note(f"error: {path}: {error}")


class ProgressBar:
    """Steps of the picture being painted, on a terminal; silent elsewhere."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None) if bar else None

    def show(self, name: str, step: int, steps: int) -> None:
        """Step ``step`` of ``steps`` of the picture called ``name``."""
        if self._bar:
            self._bar.update(self._task, description=name, completed=step, total=steps or None)


@contextmanager
def progress() -> Iterator[ProgressBar]:
    """A progress bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield ProgressBar(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        yield ProgressBar(bar)


def note(text: str) -> None:
    """A line for the person at the terminal."""
    typer.echo(text, err=True)
