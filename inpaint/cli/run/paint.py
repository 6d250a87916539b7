"""Paints one task after the other, a few at a time, and writes what comes out in the order of the tasks."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from inpaint.cli.run.inputs import FORMATS
from inpaint.cli.run.machine import Machine
from inpaint.cli.run.outputs import write_whole
from inpaint.cli.run.prepare import Picked, Picker, Skipped
from inpaint.cli.run.progress import Progress
from inpaint.cli.run.results import Account
from inpaint.cli.run.resume import sha256_of
from inpaint.cli.run.tasks import Refused, Task
from inpaint.errors import InpaintError
from inpaint.images import metadata
from inpaint.request import InpaintResult

if TYPE_CHECKING:
    from inpaint.engine import Engine
    from inpaint.job import Event, Job

# Pictures under way share UNet calls. More rows than these gain little, and they wait in memory for those
# before them.
_ROWS = 4
_PIXELS = 32_000_000
_AT_LEAST = 2  # one is encoded or written while another is painted


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A task between its start and its end; with a job where it needs the engine."""

    task: Task | Refused
    picked: Picked | Skipped | InpaintError
    job: "Job | None" = None


class Studio:
    """One run's pictures under way. The model is loaded for the first that needs it."""

    def __init__(
        self,
        picker: Picker,
        machine: Machine,
        progress: Progress,
        account: Account,
        stack: ExitStack,
        *,
        with_metadata: bool,
    ) -> None:
        """Nothing is under way; ``stack`` closes the engine."""
        self._picker = picker
        self._machine = machine
        self._progress = progress
        self._account = account
        self._stack = stack
        self._with_metadata = with_metadata
        self._engine: Engine | None = None
        self._line: deque[_UnderWay] = deque()

    def paint(self, tasks: Iterable[Task | Refused]) -> Iterator[None]:
        """Paint, and yield whenever a task has ended and its account is given.

        Raises:
            InpaintError: the model cannot be loaded, or the account stops the run.
        """
        for task in tasks:
            while self._line and self._must_land():
                self._land()
                yield
            self._line.append(self._begin(task))
        while self._line:
            self._land()
            yield

    def _must_land(self) -> bool:
        """Whether the first in line has ended, or there are as many under way as may be."""
        first = self._line[0]
        if first.job is None or first.job.finished:
            return True
        requests = [one.job.request for one in self._line if one.job is not None]
        full = (
            sum(request.samples for request in requests) >= _ROWS
            or sum(request.image.width * request.image.height for request in requests) >= _PIXELS
        )
        return full and len(requests) >= _AT_LEAST

    def _begin(self, task: Task | Refused) -> _UnderWay:
        try:
            picked = self._picker.pick(task)
        except InpaintError as error:
            return _UnderWay(task, error)
        if isinstance(picked, Skipped):
            return _UnderWay(task, picked)
        if self._engine is None:
            self._engine = self._stack.enter_context(self._machine.load())
        try:
            job = self._engine.submit(picked.request)
        except InpaintError as error:
            return _UnderWay(task, error)
        self._progress.began(task.label)
        job.listen(partial(self._hear, task.label))
        return _UnderWay(task, picked, job)

    def _hear(self, label: str, event: "Event") -> None:
        if event.state == "step":
            self._progress.stepped(label, event.step, event.steps)

    def _land(self) -> None:
        """Wait for the first in line, write its results and give account of it."""
        one = self._line.popleft()
        if isinstance(one.picked, Skipped):
            self._account.skipped(one.picked)
            return
        try:
            if isinstance(one.picked, InpaintError):
                raise one.picked
            assert one.job is not None
            result = one.job.result()
            digests = self._write(one.picked, result)
        except InpaintError as error:
            self._account.failed(one.task, error)
        else:
            self._account.painted(one.picked, result, self._machine.model, digests)

    def _write(self, picked: Picked, result: InpaintResult) -> list[str]:
        """Write what is not there yet; the SHA-256 of every file."""
        assert self._engine is not None
        made = metadata.made_by(picked.request, result, self._engine.model.name, picked.settings_hash)
        digests = []
        for image, output, how in zip(result.images, picked.outputs, made, strict=True):
            if output in picked.kept:
                data = output.read_bytes()
            else:
                told = how if self._with_metadata else None
                data = metadata.write(image, picked.picture, told, FORMATS[output.suffix.lower()])
                write_whole(output, data)
            digests.append(sha256_of(data))
        return digests
