"""What the HTTP side sees of an engine, wherever it runs: submit a request, follow it, cancel it.

Implementations: ``worker.InProcessClient`` (an engine in this process: tests, ``--workers 0``) and
``pool.Pool`` (one child process per GPU, supervised).
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from inpaint.job import Event
from inpaint.request import InpaintRequest, InpaintResult


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a request is taken: whose it is, and until when its pictures are wanted."""

    key: str = ""  # engines share their time fairly between keys
    deadline_s: float = inf  # from now
    slowdown: float = inf  # and not later than so many times what it would take on an idle engine


ANY_TIME = Terms()


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests can be painted now, and what is under way. ``reason`` is empty when ready."""

    ready: bool
    reason: str = ""
    waiting: int = 0  # requests submitted and not yet begun
    running: int = 0  # requests between their first and their last step
    native_size: int | None = None  # side of the model's own pictures, once it is known
    backlog_s: float = 0.0  # how long what is under way will still take, as far as is known
    restarts: int = 0  # of worker processes since the start
    row_steps: int = 0  # UNet calls × rows in them
    unet_calls: int = 0
    images: int = 0
    out_of_memory: int = 0
    steps: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # rows → UNet calls, microseconds


class Ticket(Protocol):
    """One submitted request. Everything here is for the event loop that submitted it."""

    @property
    def seeds(self) -> list[int]:
        """The seed of each sample, known from the start."""

    @property
    def started(self) -> bool:
        """Whether its first denoising step was taken (from then on it is charged when abandoned)."""

    @property
    def steps_taken(self) -> int:
        """Denoising steps so far, of each sample."""

    def events(self, *, preview: bool = False) -> AsyncIterator[Event]:
        """Everything that has happened and will happen, ending with done, failed or cancelled."""

    async def result(self) -> InpaintResult:
        """Wait for the pictures.

        Raises:
            CancelledError: somebody cancelled it.
            InpaintError: why it failed.
        """

    def cancel(self) -> None:
        """Stop within one step; nothing happens to a request that has ended."""


class EngineClient(Protocol):
    """Engines, however many and wherever."""

    async def start(self) -> None:
        """Load the model; returns once the first engine is ready.

        Raises:
            ModelError: missing or damaged.
            DeviceError: the device is not there.
        """

    async def close(self, drain_s: float) -> None:
        """Take no more, wait at most ``drain_s`` for what is under way, then stop everything."""

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> Ticket:
        """Hand a request over.

        ``request.seed`` is never -1 here: the service draws it, so that a retry paints the same picture.

        Raises:
            RequestError: there is nothing to repaint.
            BusyError: no engine is ready, or it could not be painted within ``terms``.
        """

    def health(self) -> Health:
        """Now; cheap enough for every request."""
