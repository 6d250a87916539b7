"""The work of ``inpaint run``: check the report and the outputs, then paint or plan every task."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import typer

from inpaint.about import native_size
from inpaint.canvas.crop import cut
from inpaint.cli import SOME_FAILED
from inpaint.cli.run.engine_options import EngineOptions
from inpaint.cli.run.outputs import Claims
from inpaint.cli.run.paint import Painter
from inpaint.cli.run.prepare import Preparer, Skipped
from inpaint.cli.run.progress import Progress, progress_of
from inpaint.cli.run.report import Report, read_report
from inpaint.cli.run.results import Results
from inpaint.cli.run.resume import ResumeIndex
from inpaint.cli.run.tasks import Refused, Task
from inpaint.errors import InpaintError, RequestError


@dataclass(frozen=True, slots=True)
class Batch:
    """One ``inpaint run``, after its options were read."""

    tasks: Sequence[Task | Refused]
    engine_options: EngineOptions
    report: Path | None
    flags: Mapping[str, str]  # the command's options by the fields that they set
    alone: bool  # one picture was named: its error is the command's
    overwrite: bool
    resume: bool
    fail_fast: bool
    with_metadata: bool
    as_json: bool

    def dry_run(self) -> None:
        """Check everything and print what would be painted, without loading a model or writing a file.

        Raises:
            InpaintError: the only picture is at fault.
            typer.Exit: with code 3 if some of several pictures would fail.
        """
        self.engine_options.check(installed=False)
        preparer = self._preparer()
        native = native_size(self.engine_options.model)
        results = self._results(Progress(len(self.tasks), None), None)
        for task in self.tasks:
            try:
                prepared = preparer.pick(task)
                if isinstance(prepared, Skipped):
                    results.skipped(prepared)
                else:
                    results.dry_run(prepared, cut(prepared.request, native), native)
            except InpaintError as error:
                results.failed(task, error)
        results.close()
        _leave(results)

    def run(self) -> None:
        """Paint everything; a picture that fails does not stop the others unless ``fail_fast``.

        Raises:
            InpaintError: the model, the report or the only picture is at fault.
            typer.Exit: with code 3 if some of several pictures failed.
        """
        self.engine_options.check(installed=True)
        preparer = self._preparer()
        with ExitStack() as stack:
            report = stack.enter_context(Report(self.report, again=self.resume)) if self.report else None
            progress = stack.enter_context(progress_of(len(self.tasks)))
            results = self._results(progress, report)
            options = self.engine_options.for_pictures(len(self.tasks))
            painter = Painter(preparer, options, progress, results, stack, with_metadata=self.with_metadata)
            try:
                for _ in painter.paint(self.tasks):
                    if self.fail_fast and results.failed_count:
                        break
            except KeyboardInterrupt:
                results.close()
                raise
            results.close()
        _leave(results)

    def _results(self, progress: Progress, report: Report | None) -> Results:
        return Results(progress, report, self.flags, alone=self.alone, as_json=self.as_json)

    def _preparer(self) -> Preparer:
        """Return the preparer of this run's tasks.

        Raises:
            RequestError: the report would replace another file.
        """
        inputs = [path for task in self.tasks if isinstance(task, Task) for path in task.reads()]
        reported = read_report(self.report) if self.report else {}
        if self.report and self.report.exists() and not (self.resume or self.overwrite):
            raise RequestError("report", f"{self.report} exists already; add --resume or --overwrite")
        return Preparer(
            Claims(inputs, overwrite=self.overwrite),
            self.engine_options.identity(),
            ResumeIndex(reported) if self.resume else None,
            self.engine_options.loras,
        )


def _leave(results: Results) -> None:
    """Exit with code 3 if a picture failed."""
    if results.failed_count:
        raise typer.Exit(SOME_FAILED)
