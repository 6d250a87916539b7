"""The places of a pool's workers: what each holds, has done, and when it is started again."""

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
    """When a worker that died is started again."""

    first_s: float = 0.5  # doubled with each death in a row
    longest_s: float = 30.0
    crash_limit: int = 5  # deaths in a row, no picture between them: it is broken, not unlucky
    broken_s: float = 60.0  # between tries from then on
    load_s: float = 900.0  # a model that is not there by then will not come

    def delay_s(self, deaths: int) -> float:
        """How long to wait after so many deaths in a row."""
        if deaths >= self.crash_limit:
            return self.broken_s
        return min(self.longest_s, self.first_s * 2.0 ** max(0, deaths - 1))


class PoolTicket(LoopTicket):
    """A request in the pool's queue or on a worker."""

    def __init__(self, request: InpaintRequest, number: int, work: Work) -> None:
        super().__init__(request)
        self.number = number
        self.work = work  # its deadline is on the loop's clock
        self.attempts = 0

    @property
    def load(self) -> Load:
        """What is left of it."""
        return load(self.work, self.steps_taken, self.request.steps_to_run)


@dataclass(slots=True, eq=False)
class WorkerSlot:
    """The place of one worker: its process now, and what is known of those before."""

    index: int
    max_rows: int
    child: Child | None = None
    ready: bool = False
    starts: int = 0
    deaths: int = 0  # in a row, without a picture between them
    reason: str = "the model is being loaded"
    error: InpaintError | None = None  # what it said itself before it died
    tickets: dict[int, PoolTicket] = field(default_factory=dict)
    alone: bool = False  # what it holds may be poison and gets no neighbours
    stalled_s: float = 0.0  # without progress
    idle_s: float = 0.0  # ready, and without work
    unloaded: bool = False  # unloaded for want of work, until it is ready again or has failed to be
    wake_event: asyncio.Event | None = None  # its process was told to end, until this is set
    unload_count: int = 0  # how often
    started_at: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)  # of the process now
    counts_before: Counter[str] = field(default_factory=Counter)  # of those before

    @property
    def rows(self) -> int:
        """Samples that it holds."""
        return sum(ticket.request.samples for ticket in self.tickets.values())

    @property
    def has_room(self) -> bool:
        """Whether it takes another: up to its rows, and one to go on with when those are done."""
        idle_hands = all(ticket.begun for ticket in self.tickets.values())
        return self.ready and not self.alone and (self.rows < self.max_rows or idle_hands)

    @property
    def available(self) -> bool:
        """Whether it paints, or will as soon as it is asked to."""
        return self.ready or self.unloaded

    @property
    def resting(self) -> bool:
        """Whether it sleeps and nobody has called it."""
        return self.wake_event is not None and not self.wake_event.is_set()

    def sleep(self) -> None:
        """End the idle process, which frees its GPU, until :meth:`wake`."""
        assert self.ready, self.reason
        assert self.child is not None, self.index
        assert not self.tickets, self.tickets
        self.ready, self.unloaded, self.wake_event = False, True, asyncio.Event()
        self.unload_count += 1
        self.child.link.close()

    def wake(self) -> None:
        """Start the process again."""
        if self.wake_event is not None:
            self.wake_event.set()

    def settle(self) -> None:
        """Its process has ended: keep what it had counted."""
        self.counts_before += self.counts
        self.counts = Counter()

    def give_up(self, error: InpaintError) -> None:
        """The process is about to end, because of ``error``."""
        self.ready = False
        self.error = error
        self.reason = f"worker {self.index} is replaced: {error}"

    def count(self, stats: dict[str, Any]) -> None:
        """Take in what the worker's engine has done, which counts as progress if it is more than before."""
        counts = Counter({name: stats[name] for name in COUNTS})
        for rows, (calls, micros) in stats.get("step_us", {}).items():
            counts += Counter({f"calls:{rows}": calls, f"us:{rows}": micros})
        self.max_rows = stats["max_rows"]
        if counts != self.counts:
            self.stalled_s = 0.0
        self.counts = counts


def steps_of(counts: Counter[str]) -> Mapping[str, tuple[int, int]]:
    """Rows of a UNet call → how many such calls, and their microseconds."""
    rows = [name.removeprefix("calls:") for name in counts if name.startswith("calls:")]
    return {n: (counts[f"calls:{n}"], counts[f"us:{n}"]) for n in rows}
