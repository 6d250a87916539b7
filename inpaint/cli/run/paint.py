"""The painting of tasks, a few at a time; results are written in the order of the tasks."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from inpaint.cli.run.early import check_mask
from inpaint.cli.run.engine_options import EngineOptions
from inpaint.cli.run.inputs import FORMATS
from inpaint.cli.run.outputs import write_whole
from inpaint.cli.run.prepare import Prepared, Preparer, Skipped
from inpaint.cli.run.progress import Progress
from inpaint.cli.run.results import Results
from inpaint.cli.run.resume import sha256_of
from inpaint.cli.run.tasks import Refused, Task
from inpaint.errors import InpaintError
from inpaint.images import metadata
from inpaint.request import InpaintResult

if TYPE_CHECKING:
    from inpaint.engine import Engine
    from inpaint.job import Event, Job

# Pictures under way share UNet calls. More rows than these gain little, and their results wait in memory for
# the pictures before them.
_ROWS = 4
_PIXELS = 32_000_000
_AT_LEAST = 2  # one is encoded or written while another is painted


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A task that was started and is not reported yet; with a job if it needs the engine."""

    task: Task | Refused
    prepared: Prepared | Skipped | InpaintError
    job: "Job | None" = None


class Painter:
    """One run's queue of pictures under way. The model is loaded for the first that needs it."""

    def __init__(
        self,
        preparer: Preparer,
        engine_options: EngineOptions,
        progress: Progress,
        results: Results,
        stack: ExitStack,
        *,
        with_metadata: bool,
    ) -> None:
        """Start with an empty queue; ``stack`` closes the engine."""
        self._preparer = preparer
        self._engine_options = engine_options
        self._progress = progress
        self._results = results
        self._stack = stack
        self._with_metadata = with_metadata
        self._engine: Engine | None = None
        self._queue: deque[_UnderWay] = deque()

    def paint(self, tasks: Iterable[Task | Refused]) -> Iterator[None]:
        """Paint, and yield whenever a task has ended and was reported.

        Raises:
            InpaintError: the model cannot be loaded, or an error of the only picture.
        """
        for task in tasks:
            while self._queue and self._must_finish_first():
                self._finish_first()
                yield
            self._queue.append(self._begin(task))
        while self._queue:
            self._finish_first()
            yield

    def _must_finish_first(self) -> bool:
        """Return whether the first task has ended, or as many are under way as may be."""
        first = self._queue[0]
        if first.job is None or first.job.finished:
            return True
        requests = [one.job.request for one in self._queue if one.job is not None]
        full = (
            sum(request.samples for request in requests) >= _ROWS
            or sum(request.image.width * request.image.height for request in requests) >= _PIXELS
        )
        return full and len(requests) >= _AT_LEAST

    def _begin(self, task: Task | Refused) -> _UnderWay:
        try:
            prepared = self._preparer.pick(task)
        except InpaintError as error:
            return _UnderWay(task, error)
        if isinstance(prepared, Skipped):
            return _UnderWay(task, prepared)
        try:
            if self._engine is None:
                check_mask(prepared.request)
        except InpaintError as error:
            return _UnderWay(task, error)
        if self._engine is None:
            with self._progress.loading(self._engine_options.model):
                self._engine = self._stack.enter_context(self._engine_options.engine())
        try:
            job = self._engine.submit(prepared.request)
        except InpaintError as error:
            return _UnderWay(task, error)
        self._progress.began(task.label)
        job.listen(partial(self._on_event, task.label))
        return _UnderWay(task, prepared, job)

    def _on_event(self, label: str, event: "Event") -> None:
        if event.state == "step":
            self._progress.stepped(label, event.step, event.steps)

    def _finish_first(self) -> None:
        """Wait for the first task under way, write its results and report it."""
        one = self._queue.popleft()
        if isinstance(one.prepared, Skipped):
            self._results.skipped(one.prepared)
            return
        try:
            if isinstance(one.prepared, InpaintError):
                raise one.prepared
            assert one.job is not None
            result = one.job.result()
            result = replace(result, warnings=(*one.prepared.notes, *result.warnings))
            digests = self._write(one.prepared, result)
        except InpaintError as error:
            self._results.failed(one.task, error)
        else:
            self._results.painted(one.prepared, result, self._engine_options.model, digests)

    def _write(self, prepared: Prepared, result: InpaintResult) -> list[str]:
        """Write the results that do not exist yet; return the SHA-256 of every file."""
        assert self._engine is not None
        made = metadata.made_by(prepared.request, result, self._engine.model.name, prepared.settings_hash)
        digests = []
        for image, output, how in zip(result.images, prepared.outputs, made, strict=True):
            if output in prepared.kept:
                data = output.read_bytes()
            else:
                stored = how if self._with_metadata else None
                data = metadata.write(image, prepared.picture, stored, FORMATS[output.suffix.lower()])
                write_whole(output, data)
            digests.append(sha256_of(data))
        return digests
