"""The interface of engines to the HTTP side: submit a request, follow it, cancel it.

Implementations: ``in_process.InProcessClient`` (an engine in this process: tests, ``--workers 0``),
``pool.Pool`` (one supervised child process per GPU), ``fleet.Fleet`` (a pool for each of several models) and
``server.ray.client.RayClient`` (a Ray cluster).
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from inpaint.job import Event
from inpaint.request import InpaintRequest, InpaintResult


@dataclass(frozen=True, slots=True)
class Terms:
    """The key that a request belongs to, the time within which its pictures are wanted, and the model."""

    key: str = ""  # engines share their time fairly between keys
    deadline_s: float = inf  # from now
    slowdown: float = inf  # nor later than this multiple of its time on an idle engine
    model: str = ""  # the one that paints it, of a client with several; empty: the first


ANY_TIME = Terms()


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a client's engines: readiness, load and counts. ``reason`` is empty when ready."""

    ready: bool
    reason: str = ""
    waiting: int = 0  # requests submitted and not yet begun
    running: int = 0  # requests between their first and their last step
    native_size: int | None = None  # side of the model's own pictures in pixels, once it is known
    in_channels: int | None = None  # of its UNet, once known: 9 with the mask, 4 without
    backlog_s: float = 0.0  # until everything under way is painted, as far as costs are known
    restarts: int = 0  # of worker processes since the start
    row_steps: int = 0  # UNet calls × rows in them
    unet_calls: int = 0
    images: int = 0
    out_of_memory: int = 0
    steps: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # rows → UNet calls, microseconds
    failed: bool = False  # the model was not loaded yet, and not for lack of trying
    models: Mapping[str, "Health"] = field(default_factory=dict)  # of each, by name, if there are several

    def of(self, model: str) -> "Health":
        """Return the state of one model; it is this one where a client has only one."""
        return self.models.get(model, self)


class Ticket(Protocol):
    """A submitted request, for use on the event loop that submitted it."""

    @property
    def request(self) -> InpaintRequest:
        """The request as its engine gets it."""

    @property
    def seeds(self) -> list[int]:
        """Seed of each sample, known from the start."""

    @property
    def started(self) -> bool:
        """True once its first denoising step was taken; from then on it is charged if it is cancelled."""

    @property
    def steps_taken(self) -> int:
        """Denoising steps taken so far by each sample."""

    def events(self, *, preview: bool = False) -> AsyncIterator[Event]:
        """Yield all events from the first on, ending with done, failed or cancelled."""

    async def result(self) -> InpaintResult:
        """Wait for the pictures.

        Raises:
            CancelledError: it was cancelled.
            InpaintError: it failed.
        """

    def cancel(self) -> None:
        """Stop within one step; do nothing if the request has ended."""


class EngineClient(Protocol):
    """One or more engines, in this process, on this machine or on a cluster."""

    async def start(self) -> None:
        """Load the model; return once the first engine is ready.

        Raises:
            ModelError: missing or damaged.
            DeviceError: the device is not there.
        """

    async def close(self, drain_s: float) -> None:
        """Take no more, wait at most ``drain_s`` seconds for what is under way, then stop everything."""

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> Ticket:
        """Queue a request.

        ``request.seed`` must not be -1: the service draws it, so that a retry paints the same picture.

        Raises:
            RequestError: there is nothing to repaint.
            BusyError: no engine is ready, or it could not be painted within ``terms``.
        """

    def health(self) -> Health:
        """Return the present state; cheap enough to call for every request."""
