"""A submitted request as its caller sees it: events, result, cancel. Knows nothing of models."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from inpaint.errors import CancelledError, InpaintError
from inpaint.request import InpaintRequest, InpaintResult

State = Literal["queued", "encoding", "step", "done", "failed", "cancelled"]
_ENDS = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One thing that happened to a job.

    ``step`` of ``steps`` are taken, averaged over the samples. ``preview`` is a rough small RGB picture of
    the painted box, one pixel a latent cell, only for listeners that asked for it.
    """

    state: State
    step: int = 0
    steps: int = 0
    preview: Image.Image | None = None
    error: InpaintError | None = None


class Job:
    """A request under way. Every method may be called from any thread."""

    def __init__(self, request: InpaintRequest, seeds: list[int]) -> None:
        self.request = request
        self.seeds = seeds
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._result: InpaintResult | None = None
        self._cancelled = False
        self._preview_listeners = 0
        self._listeners: list[Callable[[Event], None]] = []

    def events(self, *, preview: bool = False) -> Iterator[Event]:
        """Everything that has happened and will happen, ending with done, failed or cancelled.

        Args:
            preview: also compute a preview at each step while this iterator is being read.
        """
        self.watch(preview)
        try:
            yield from self._follow()
        finally:
            self.watch(-preview)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with everything that has happened, and with all else as it happens.

        For many jobs without a thread each. It runs in the engine's thread: it must be quick and not raise.
        """
        with self._changed:
            for event in self._events:
                listener(event)
            self._listeners.append(listener)

    def watch(self, count: int) -> None:
        """So many more (fewer, if negative) want a preview with each step."""
        with self._changed:
            self._preview_listeners += count

    def _follow(self) -> Iterator[Event]:
        seen = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._events) > seen)  # noqa: B023 - called at once
                event = self._events[seen]
            seen += 1
            yield event
            if event.state in _ENDS:
                return

    def result(self, timeout_s: float | None = None) -> InpaintResult:
        """Wait for the pictures.

        Raises:
            TimeoutError: not finished within ``timeout_s`` seconds; the job goes on.
            CancelledError: somebody cancelled it.
            InpaintError: why it failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.finished, timeout_s):
                raise TimeoutError(f"not finished within {timeout_s:g} s; the job goes on")
            if self._result is not None:
                return self._result
            error = self._events[-1].error
        assert error is not None
        raise error

    def cancel(self) -> None:
        """Stop within one step; a job that has ended stays as it is."""
        with self._changed:
            self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called; the job itself ends a moment later."""
        return self._cancelled

    @property
    def finished(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return bool(self._events) and self._events[-1].state in _ENDS

    @property
    def wants_preview(self) -> bool:
        """Whether anybody reads ``events(preview=True)`` or watches right now."""
        return self._preview_listeners > 0

    def emit(self, event: Event) -> None:
        """Called by the engine: tell the listeners."""
        with self._changed:
            if not self.finished:
                self._tell(event)

    def finish(self, result: InpaintResult, steps: int) -> None:
        """Called by the engine: the pictures are there."""
        with self._changed:
            if not self.finished:
                self._result = result
                self._tell(Event("done", steps, steps))

    def fail(self, error: InpaintError) -> None:
        """Called by the engine: there will be no pictures, and why."""
        self.emit(Event("cancelled" if isinstance(error, CancelledError) else "failed", error=error))

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._changed.notify_all()
        for listener in self._listeners:
            listener(event)
