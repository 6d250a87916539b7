"""A submitted request from its caller's side: events, result, cancel. It knows nothing of models."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

from PIL import Image

from inpaint.errors import CancelledError, InpaintError
from inpaint.request import InpaintRequest, InpaintResult

# A signal that comes just before a thread falls asleep is noticed when it wakes, and Python does not wake it.
_LOOK_FOR_SIGNALS_S = 0.5

CANCELLED = "the job was cancelled"
CLOSED = "the engine was closed before this was finished"

State = Literal["queued", "encoding", "step", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A change in a job's progress.

    Attributes:
        state: the job's state from now on; the last three of :data:`State` are final.
        step: steps taken, averaged over the samples.
        steps: steps to take.
        preview: a rough RGB picture of the painted box, one pixel for each latent pixel; None unless a caller
            asked for previews.
        error: the reason of a failed or cancelled job.
    """

    state: State
    step: int = 0
    steps: int = 0
    preview: Image.Image | None = None
    error: InpaintError | None = None

    @classmethod
    def failure(cls, error: InpaintError, step: int = 0, steps: int = 0) -> "Event":
        """Return the final event of a job that ends with ``error``."""
        return cls("cancelled" if isinstance(error, CancelledError) else "failed", step, steps, error=error)

    @property
    def final(self) -> bool:
        """True if no event of this job comes after it."""
        return self.state in ("done", "failed", "cancelled")


class EventLog:
    """The events of one request so far, and its result. It neither waits nor locks; its owner does."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._result: InpaintResult | None = None

    def append(self, event: Event, result: InpaintResult | None = None) -> bool:
        """Add an event, a "done" with its result; return False, and add nothing, after the final event."""
        if self.ended:
            return False
        self.events.append(event)
        self._result = result
        return True

    @property
    def ended(self) -> bool:
        """True once the request is done, failed or cancelled."""
        return bool(self.events) and self.events[-1].final

    @property
    def error(self) -> InpaintError | None:
        """The error that the request ended with; None if it has not, or not yet."""
        return self.events[-1].error if self.events else None

    def result(self) -> InpaintResult:
        """Return the result of a request that has ended.

        Raises:
            InpaintError: the error that it ended with.
        """
        if self.error is not None:
            raise self.error
        assert self._result is not None, "the request has not ended"
        return self._result


class Job:
    """A request that an engine works on. Every method may be called from any thread."""

    def __init__(self, request: InpaintRequest, seeds: list[int]) -> None:
        self.request = request
        self.seeds = seeds  # one for each sample
        self._changed = threading.Condition()
        self._log = EventLog()
        self._cancelled = False
        self._preview_listeners = 0
        self._listeners: list[Callable[[Event], None]] = []

    def events(self, *, preview: bool = False) -> Iterator[Event]:
        """Yield every event from the first one on, waiting for the next, up to the final one.

        Args:
            preview: also compute a preview at each step while this iterator is being read.
        """
        self.watch(preview)
        try:
            yield from self._follow()
        finally:
            self.watch(-preview)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every event so far, and with each later one as it happens.

        This follows many jobs without a thread for each. The listener runs in the engine's thread: it must be
        quick and must not raise.
        """
        with self._changed:
            for event in self._log.events:
                listener(event)
            if not self._log.ended:
                self._listeners.append(listener)

    def watch(self, count: int) -> None:
        """Add ``count`` callers that want a preview with each step; a negative number removes them."""
        with self._changed:
            self._preview_listeners += count

    def _follow(self) -> Iterator[Event]:
        events = self._log.events
        for i in count():
            with self._changed:
                self._changed.wait_for(lambda: len(events) > i)  # noqa: B023 - called before i changes
            yield events[i]
            if events[i].final:
                return

    def result(self, timeout_s: float | None = None) -> InpaintResult:
        """Wait for the pictures.

        Raises:
            TimeoutError: not finished within ``timeout_s`` seconds; the job goes on.
            CancelledError: :meth:`cancel` was called, or the engine was closed.
            InpaintError: the reason why the job failed.
        """
        with self._changed:
            if timeout_s is None:
                while not self._changed.wait_for(lambda: self.finished, _LOOK_FOR_SIGNALS_S):
                    pass
            elif not self._changed.wait_for(lambda: self.finished, timeout_s):
                raise TimeoutError(f"not finished within {timeout_s:g} s; the job goes on")
        return self._log.result()

    def cancel(self) -> None:
        """Stop within one step; does nothing to a job that has ended."""
        with self._changed:
            self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """True once :meth:`cancel` was called; the job itself ends a moment later."""
        return self._cancelled

    @property
    def finished(self) -> bool:
        """True once the job is done, failed or cancelled."""
        return self._log.ended

    @property
    def wants_preview(self) -> bool:
        """True while a caller reads ``events(preview=True)`` or watches."""
        return self._preview_listeners > 0

    def emit(self, event: Event) -> None:
        """Record an event and pass it to the listeners; for the engine."""
        self._append(event)

    def finish(self, result: InpaintResult, steps: int) -> None:
        """End the job with its pictures, after ``steps`` steps; for the engine."""
        self._append(Event("done", steps, steps), result)

    def fail(self, error: InpaintError) -> None:
        """End the job with an error; for the engine."""
        self._append(Event.failure(error))

    def _append(self, event: Event, result: InpaintResult | None = None) -> None:
        with self._changed:
            if self._log.append(event, result):
                self._changed.notify_all()
                for listener in self._listeners:
                    listener(event)
                if event.final:  # they may hold this job: its pictures would wait for the garbage collector
                    self._listeners.clear()


async def submitted(submit: Callable[[], Job]) -> Job:
    """Call ``submit`` in another thread; if the caller leaves meanwhile, cancel its job once there is one."""
    submitting = asyncio.ensure_future(asyncio.to_thread(submit))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:  # the thread goes on
        submitting.add_done_callback(_cancel)
        raise


def _cancel(submitting: "asyncio.Future[Job]") -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
