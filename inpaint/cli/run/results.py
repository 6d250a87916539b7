"""The outcome of each picture: text on stderr, JSON on stdout, and a line in the report."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from inpaint.canvas.crop import Cut
from inpaint.canvas.mask import Box
from inpaint.cli.flags import explained
from inpaint.cli.run.prepare import Prepared, Skipped
from inpaint.cli.run.progress import Progress
from inpaint.cli.run.report import Report, as_json
from inpaint.cli.run.tasks import Refused, Task
from inpaint.cli.terminal import say
from inpaint.errors import InpaintError
from inpaint.request import InpaintResult


class Results:
    """The outcomes of one run, counted and reported: each task once, in the order of the tasks."""

    def __init__(
        self,
        progress: Progress,
        report: Report | None,
        flags: Mapping[str, str],
        *,
        alone: bool,
        as_json: bool,
    ) -> None:
        """Start with none.

        Args:
            progress: counts the pictures.
            report: the report's file, if there is one.
            flags: the command's options by the fields that they set, for errors.
            alone: one picture was named, and its error is the command's.
            as_json: print an object for each picture.
        """
        self.painted_count = self.planned_count = self.skipped_count = self.failed_count = 0
        self._progress = progress
        self._report = report
        self._flags = flags
        self._alone = alone
        self._as_json = as_json

    def painted(self, prepared: Prepared, result: InpaintResult, model: str, digests: Sequence[str]) -> None:
        """Report a picture whose results are on disk; ``digests`` are their SHA-256."""
        self.painted_count += 1
        self._progress.ended(prepared.task.label, painted=True)
        seconds = sum(result.timings.values())
        line = _line(
            prepared.task.label,
            prepared.task.picture.path,
            "done",
            mask=prepared.mask,
            outputs=prepared.outputs,
            seeds=result.seeds,
            seconds=seconds,
            settings_hash=prepared.settings_hash,
        )
        # Before the note: a user who sees it and stops the run must find the picture in the report.
        self._record(line | {"sha256": list(digests)}, line | _details(prepared, result, model))
        self._warn(prepared.task.label, result.warnings)
        for output, seed in zip(prepared.outputs, result.seeds, strict=True):
            say(f"{self._position()}{output} (seed {seed}, {seconds:.1f} s)")

    def skipped(self, skipped: Skipped) -> None:
        """Report a picture whose results exist already."""
        self.skipped_count += 1
        self._progress.ended(skipped.task.label, painted=False)
        if self._alone:
            say(f"{', '.join(map(str, skipped.outputs))}: painted already, with the same settings")
        line = _line(
            skipped.task.label,
            skipped.task.picture.path,
            "skipped",
            mask=skipped.mask,
            outputs=skipped.outputs,
            seeds=skipped.seeds,
            settings_hash=skipped.settings_hash,
        )
        self._record(line, line)

    def failed(self, task: Task | Refused, error: InpaintError) -> None:
        """Report a picture that could not be painted.

        Raises:
            InpaintError: ``error`` itself, if this is the only picture.
        """
        self.failed_count += 1
        self._progress.ended(task.label, painted=False)
        image = task.picture.path if isinstance(task, Task) else Path(task.image)
        sentence = str(error) if task.from_jobs else explained(error, self._flags)
        line = _line(task.label, image, "failed") | {"error": sentence}
        self._record(line, line)
        if self._alone:
            raise error
        say(f"{self._position()}error: {task.label}: {sentence}")

    def dry_run(self, prepared: Prepared, cut: Cut, native: int) -> None:
        """Report how a picture would be painted by a model that works at ``native`` pixels."""
        self.planned_count += 1
        self._progress.ended(prepared.task.label, painted=False)
        boxes = " and ".join(
            f"the box {left},{top} to {right},{bottom} at {canvas.size[0]}×{canvas.size[1]}"
            for canvas in cut.canvases
            for left, top, right, bottom in [canvas.box]
        )
        say(
            f"{prepared.task.label}: would repaint {boxes} for a {native}-pixel model, and write "
            f"{', '.join(map(str, prepared.outputs))}"
        )
        self._warn(prepared.task.label, cut.warnings)
        line = _line(
            prepared.task.label,
            prepared.task.picture.path,
            "planned",
            mask=prepared.mask,
            outputs=prepared.outputs,
            settings_hash=prepared.settings_hash,
        )
        self._record(line, line | {"box": list(cut.box)} | _several([canvas.box for canvas in cut.canvases]))

    def close(self) -> None:
        """Print the totals, also after a run that was stopped."""
        if self._alone:
            return
        total, finished = self._progress.total, self._progress.finished
        done = (
            (self.painted_count, "painted"),
            (self.planned_count, "to be painted"),
            (self.skipped_count, "painted already"),
            (total - finished, "not finished"),
        )
        words = ", ".join(f"{count} {word}" for count, word in done if count)
        say(f"{words or 'none painted'}, of {total} pictures")
        if self.failed_count:
            say(f"{self.failed_count} of {total} pictures failed")
        if self.painted_count and (finished < total or self.failed_count):
            say("the same command with --resume paints what is missing")

    def _warn(self, label: str, warnings: Sequence[str]) -> None:
        for warning in warnings:
            say(f"warning: {warning}" if self._alone else f"warning: {label}: {warning}")

    def _position(self) -> str:
        return "" if self._alone else f"[{self._progress}] "

    def _record(self, line: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        if self._report is not None:
            self._report.add(line)
        if self._as_json:
            typer.echo(as_json(answer, sys.stdout.encoding))


def _line(
    label: str,
    image: Path,
    state: str,
    *,
    mask: str | None = None,
    outputs: Sequence[Path] = (),
    seeds: Sequence[int] = (),
    seconds: float = 0.0,
    settings_hash: str | None = None,
) -> dict[str, Any]:
    return {
        "task": label,
        "image": str(image),
        "mask": mask,
        "state": state,
        "outputs": [str(output) for output in outputs],
        "seeds": list(seeds),
        "seconds": round(seconds, 3),
        "settings_hash": settings_hash,
    }


def _several(boxes: Sequence[Box]) -> dict[str, Any]:
    """Return the field that lists the boxes of a picture, if it has several."""
    return {"boxes": [list(box) for box in boxes]} if len(boxes) > 1 else {}


def _details(prepared: Prepared, result: InpaintResult, model: str) -> dict[str, Any]:
    """Return the fields that go to stdout and not into the report."""
    width, height = result.images[0].size
    request = prepared.request
    return {
        "width": width,
        "height": height,
        "box": list(result.box),
        **_several(result.boxes),
        "model": model,
        "settings": {
            **prepared.task.settings.request,
            "seed": request.seed,
            "scheduler": request.scheduler,
        },
        "warnings": list(result.warnings),
        "timings": {stage: round(value, 4) for stage, value in result.timings.items()},
    }
