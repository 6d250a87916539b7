"""What ``inpaint run`` does: check its report and claims, then paint or rehearse every task."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import typer

from inpaint.canvas.crop import cut
from inpaint.cli import SOME_FAILED
from inpaint.cli.run.machine import Machine
from inpaint.cli.run.outputs import Claims
from inpaint.cli.run.paint import Studio
from inpaint.cli.run.prepare import Picker, Skipped
from inpaint.cli.run.progress import Progress, progress_of
from inpaint.cli.run.report import Report, read_report
from inpaint.cli.run.results import Account
from inpaint.cli.run.resume import Earlier
from inpaint.cli.run.tasks import Refused, Task
from inpaint.errors import InpaintError, RequestError


@dataclass(frozen=True, slots=True)
class Work:
    """One ``inpaint run``, after its options were read."""

    tasks: Sequence[Task | Refused]
    machine: Machine
    report: Path | None
    alone: bool  # one picture was named: its error is the command's
    overwrite: bool
    resume: bool
    fail_fast: bool
    with_metadata: bool
    as_json: bool

    def rehearse(self) -> None:
        """Check everything and say what would be painted, without loading a model or writing a file.

        Raises:
            InpaintError: the only picture is at fault.
            typer.Exit: with code 3 where some of several pictures would fail.
        """
        picker = self._picker()
        account = Account(Progress(len(self.tasks), None), None, alone=self.alone, as_json=self.as_json)
        for task in self.tasks:
            try:
                picked = picker.pick(task)
                if isinstance(picked, Skipped):
                    account.skipped(picked)
                else:
                    account.rehearsed(picked, cut(picked.request))
            except InpaintError as error:
                account.failed(task, error)
        account.close()
        _leave(account)

    def run(self) -> None:
        """Paint everything; a picture that fails does not stop the others unless ``fail_fast``.

        Raises:
            InpaintError: the model, the report or the only picture is at fault.
            typer.Exit: with code 3 where some of several pictures failed.
        """
        picker = self._picker()
        with ExitStack() as stack:
            report = stack.enter_context(Report(self.report, again=self.resume)) if self.report else None
            progress = stack.enter_context(progress_of(len(self.tasks)))
            account = Account(progress, report, alone=self.alone, as_json=self.as_json)
            studio = Studio(picker, self.machine, progress, account, stack, with_metadata=self.with_metadata)
            try:
                for _ in studio.paint(self.tasks):
                    if self.fail_fast and account.failed_count:
                        break
            except KeyboardInterrupt:
                account.close()
                raise
            account.close()
        _leave(account)

    def _picker(self) -> Picker:
        """Raises a ``RequestError`` where the report would replace something."""
        inputs = [path for task in self.tasks if isinstance(task, Task) for path in task.reads()]
        reported = read_report(self.report) if self.report else {}
        if self.report and self.report.exists() and not (self.resume or self.overwrite):
            raise RequestError("report", f"{self.report} exists already; add --resume or --overwrite")
        return Picker(
            Claims(inputs, overwrite=self.overwrite),
            self.machine.identity(),
            Earlier(reported) if self.resume else None,
            self.machine.loras,
        )


def _leave(account: Account) -> None:
    if account.failed_count:
        raise typer.Exit(SOME_FAILED)
