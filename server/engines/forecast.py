"""The costs of one client's engines, and when a request would be finished on them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Any, Protocol, Self

from inpaint.batching.admission import Load, alone_s, refuse_late
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Work, work_of
from inpaint.canvas.crop import working_sizes_of
from inpaint.request import InpaintRequest
from server.engines.client import Terms

LATE = "not painted in time: the requests before it took longer than predicted; try again"
_UNKNOWN = MadeFor("unknown", "", "", "", "")


class Describes(Protocol):
    """An engine's part that forecasts need."""

    profile: Profile

    @property
    def native_size(self) -> int:
        """Side of the model's own pictures in pixels."""

    @property
    def vae_factor(self) -> int:
        """Pixels per latent pixel and side."""

    @property
    def in_channels(self) -> int:
        """Input channels of the model's UNet."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """The work that a new request would share the engines with."""

    ahead: Sequence[Load] = ()  # begun and not finished, oldest first, and what would be begun before it
    behind: Sequence[Load] = ()  # what would be begun after it
    devices: int = 1  # that share all this
    delay_s: float = 0.0  # before a device takes any of it


@dataclass(frozen=True, slots=True, eq=False)
class Engines:
    """A description of one client's engines, which are all alike."""

    native_size: int = 1024
    vae_factor: int = 8
    profile: Profile = field(default_factory=lambda: Profile(_UNKNOWN))
    in_channels: int = 9

    @classmethod
    def of(cls, engine: Describes) -> Self:
        """Describe an engine in this process."""
        return cls(engine.native_size, engine.vae_factor, engine.profile, engine.in_channels)

    @classmethod
    def from_json(cls, fields: Any) -> Self:
        """Read what :meth:`to_json` wrote in another process."""
        profile = Profile.from_json(fields["profile"])
        return cls(fields["native_size"], fields["vae_factor"], profile, fields["in_channels"])

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON, for a message."""
        sizes = {"native_size": self.native_size, "vae_factor": self.vae_factor}
        return {**sizes, "in_channels": self.in_channels, "profile": self.profile.to_json()}

    def work(self, request: InpaintRequest, key: str) -> Work:
        """Return a request's work. It reads every pixel of the mask: call it outside the event loop.

        Raises:
            RequestError: there is nothing to repaint.
        """
        sizes = working_sizes_of(request, self.native_size)
        return work_of(request, sizes, self.vae_factor, key, deep_cache=self.profile.made_for.deep_cache)

    def given_s(self, work: Work, terms: Terms) -> float:
        """Return the seconds from now within which ``terms`` want the work finished.

        The slowdown counts only once costs have been measured.
        """
        if terms.slowdown < inf and self.profile.known:
            return min(terms.deadline_s, terms.slowdown * alone_s(work, self.profile))
        return terms.deadline_s

    def promise(self, work: Work, terms: Terms, queued_with: Callable[[Work], QueueState]) -> Work:
        """Set when the work expires, on the event loop's clock.

        Args:
            work: what the request costs.
            terms: until when it is wanted.
            queued_with: returns what the work would be queued with; called only if the work expires.

        Raises:
            BusyError: it would not be in time, or would make others late.
        """
        now = asyncio.get_running_loop().time()
        work = replace(work, expires_at=now + self.given_s(work, terms))
        if work.expires_at < inf:
            queued = queued_with(work)
            begins_at = now + queued.delay_s
            refuse_late(work, begins_at, queued.ahead, queued.behind, self.profile, devices=queued.devices)
        return work


def load(work: Work, taken: int, steps: int) -> Load:
    """Return what is left of work of which ``taken`` of ``steps`` steps are done."""
    return Load(work, ceil(work.calls * (1 - taken / steps)))
