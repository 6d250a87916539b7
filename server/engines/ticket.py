"""The ticket of a submitted request on an event loop, as all engine clients return it.

Everything here runs on the one loop that submitted the request, without locks and threads: a caller that
hangs up leaves nothing behind.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count

from inpaint.canvas.mask import plain_mask, require_mask, strength_of
from inpaint.errors import InpaintError
from inpaint.images.pixels import upright
from inpaint.job import Event, EventLog, State
from inpaint.request import InpaintRequest, InpaintResult


class LoopTicket:
    """A submitted request, see :class:`server.engines.client.Ticket`; its client emits the events."""

    def __init__(self, request: InpaintRequest) -> None:
        assert request.seed >= 0, "the service draws the seed, so that a second try paints the same"
        self.request = request
        self.seeds = request.seeds
        self.started = False
        self.cancelled = False  # requested; it ends a moment later
        self.watchers = 0  # readers of events(preview=True)
        self.on_cancel: Callable[[], None] | None = None  # set by the client
        self.on_watch: Callable[[int], None] | None = None  # set by the client; one more or fewer
        self._log = EventLog()
        self._changed = asyncio.Event()
        self.emit(Event("queued", steps=request.steps_to_run))

    async def events(self, *, preview: bool = False) -> AsyncIterator[Event]:
        """Yield all events from the first on, ending with done, failed or cancelled."""
        if preview:
            self._watch(1)
        events = self._log.events
        try:
            for i in count():
                while i == len(events):
                    await self._changed.wait()
                yield events[i]
                if events[i].final:
                    return
        finally:
            if preview:
                self._watch(-1)

    async def result(self) -> InpaintResult:
        """Wait for the pictures.

        Raises:
            CancelledError: it was cancelled.
            InpaintError: it failed.
        """
        await self.ended()
        return self._log.result()

    async def ended(self) -> None:
        """Wait until it is done, failed or cancelled."""
        while not self.finished:
            await self._changed.wait()

    def cancel(self) -> None:
        """Stop within one step; do nothing if the request has ended."""
        if not self.finished and not self.cancelled:
            self.cancelled = True
            if self.on_cancel is not None:
                self.on_cancel()

    @property
    def state(self) -> State:
        """State of the last event."""
        return self._log.events[-1].state

    @property
    def begun(self) -> bool:
        """True while an engine works on it."""
        return self.state in ("encoding", "step")

    @property
    def finished(self) -> bool:
        """True once it is done, failed or cancelled."""
        return self._log.ended

    @property
    def steps_taken(self) -> int:
        """Steps taken by each sample, of ``request.steps_to_run``."""
        return self._log.events[-1].step

    def emit(self, event: Event) -> None:
        """Record an event and wake the tasks that wait for it; for the client."""
        self._append(event)

    def finish(self, result: InpaintResult) -> None:
        """End the request with its pictures; for the client."""
        self._append(Event("done", self.request.steps_to_run, self.request.steps_to_run), result)

    def fail(self, error: InpaintError) -> None:
        """End the request with an error; for the client."""
        self._append(Event.failure(error, self.steps_taken, self.request.steps_to_run))

    def _append(self, event: Event, result: InpaintResult | None = None) -> None:
        if self._log.append(event, result):
            self.started = self.started or event.step > 0
            if event.final:  # they hold this ticket: its pictures would wait for the garbage collector
                self.on_cancel = self.on_watch = None
            # A new asyncio.Event for the next wait: no task is woken twice for one event, nor misses one.
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _watch(self, change: int) -> None:
        self.watchers += change
        if self.on_watch is not None and not self.finished:
            self.on_watch(change)


async def prepare(request: InpaintRequest) -> InpaintRequest:
    """Return the request with its pictures upright and in plain modes, as they go to an engine.

    Raises:
        RequestError: there is nothing to repaint, or a picture cannot be read.
    """
    return await asyncio.to_thread(_prepare, request)  # 25 megapixels would block the loop


def _prepare(request: InpaintRequest) -> InpaintRequest:
    # As the engine does, but before the request waits in a queue.
    require_mask(strength_of(request), soft=request.soft, given=request.mask)
    mask = plain_mask(request.mask, request.mask_channel)
    return replace(request, image=upright(request.image), mask=mask)
