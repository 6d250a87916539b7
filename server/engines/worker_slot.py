"""The state of a pool's workers: what each holds, what it has done, and when it is started again."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inpaint.batching.admission import Load
from inpaint.batching.work import Work
from inpaint.errors import InpaintError
from inpaint.request import InpaintRequest
from server.engines.child import Child
from server.engines.forecast import load
from server.engines.ticket import LoopTicket

COUNTS = ("row_steps", "unet_calls", "images", "out_of_memory")


@dataclass(frozen=True, slots=True)
class Restarts:
    """A back-off for workers that died."""

    first_s: float = 0.5  # doubled with each death in a row
    longest_s: float = 30.0
    crash_limit: int = 5  # deaths in a row without a picture: the worker is broken, not unlucky
    broken_s: float = 60.0  # between tries from then on
    load_s: float = 900.0  # a model that is not loaded by then counts as stalled

    def delay_s(self, deaths: int) -> float:
        """Return the seconds to wait after this many deaths in a row."""
        if deaths >= self.crash_limit:
            return self.broken_s
        return min(self.longest_s, self.first_s * 2.0 ** max(0, deaths - 1))


class PoolTicket(LoopTicket):
    """A request in the pool's queue or on a worker."""

    def __init__(self, request: InpaintRequest, number: int, work: Work) -> None:
        super().__init__(request)
        self.number = number
        self.work = work  # its deadline is on the loop's clock
        self.attempts = 0  # workers that it was sent to

    @property
    def load(self) -> Load:
        """The work that is left of it."""
        return load(self.work, self.steps_taken, self.request.steps_to_run)


@dataclass(slots=True, eq=False)
class WorkerSlot:
    """A worker's place in the pool: its process now, and the totals of those before."""

    index: int
    max_rows: int
    child: Child | None = None
    ready: bool = False
    starts: int = 0
    deaths: int = 0  # in a row, without a picture between them
    reason: str = "the model is being loaded"  # why it is not ready
    error: InpaintError | None = None  # reported by the process before it ended, or why it was killed
    tickets: dict[int, PoolTicket] = field(default_factory=dict)
    alone: bool = False  # holds a suspect, which gets no neighbours
    stalled_s: float = 0.0  # without progress
    idle_s: float = 0.0  # ready, and without work
    unloaded: bool = False  # ended for being idle, until it is ready again or has failed to load
    reload_event: asyncio.Event | None = None  # its process was ended for being idle, until this is set
    unload_count: int = 0
    started_at: float = 0.0  # on the loop's clock
    counts: Counter[str] = field(default_factory=Counter)  # of the process now
    counts_before: Counter[str] = field(default_factory=Counter)  # of those before

    @property
    def rows(self) -> int:
        """Rows of all requests that it holds."""
        return sum(ticket.work.rows for ticket in self.tickets.values())

    @property
    def has_room(self) -> bool:
        """True if it takes another request: up to its rows, and one in reserve for when they are done."""
        none_in_reserve = all(ticket.begun for ticket in self.tickets.values())
        return self.ready and not self.alone and (self.rows < self.max_rows or none_in_reserve)

    @property
    def available(self) -> bool:
        """True if it paints, or will when a request needs it."""
        return self.ready or self.unloaded

    @property
    def can_reload(self) -> bool:
        """True while it is unloaded and no request has started it again."""
        return self.reload_event is not None and not self.reload_event.is_set()

    def unload(self) -> None:
        """End the idle process, which frees its GPU, until :meth:`reload`."""
        assert self.ready, self.reason
        assert self.child is not None, self.index
        assert not self.tickets, self.tickets
        self.ready, self.unloaded, self.reload_event = False, True, asyncio.Event()
        self.unload_count += 1
        self.child.link.close()

    def reload(self) -> None:
        """Start the process again."""
        if self.reload_event is not None:
            self.reload_event.set()

    def keep_counts(self) -> None:
        """Add the counts of a process that has ended to the totals."""
        self.counts_before += self.counts
        self.counts = Counter()

    def mark_failed(self, error: InpaintError) -> None:
        """Note that the process is about to end because of ``error``."""
        self.ready = False
        self.error = error
        self.reason = f"worker {self.index} is replaced: {error}"

    def count(self, stats: dict[str, Any]) -> None:
        """Take over the counts of the worker's engine; a changed count is progress."""
        counts = Counter({name: stats[name] for name in COUNTS})
        for rows, (calls, micros) in stats.get("step_us", {}).items():
            counts += Counter({f"calls:{rows}": calls, f"us:{rows}": micros})
        self.max_rows = stats["max_rows"]
        if counts != self.counts:
            self.stalled_s = 0.0
        self.counts = counts


def steps_of(counts: Counter[str]) -> Mapping[str, tuple[int, int]]:
    """Return the number of UNet calls and their microseconds, by the rows in a call."""
    rows = [name.removeprefix("calls:") for name in counts if name.startswith("calls:")]
    return {n: (counts[f"calls:{n}"], counts[f"us:{n}"]) for n in rows}
