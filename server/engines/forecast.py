"""What an engine tells of itself, and what follows from it for those who wait: how long everything takes."""

from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, Protocol, Self

from inpaint.batching.admission import Load, alone_s
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Work, work_of
from inpaint.canvas.crop import working_size_of
from inpaint.request import InpaintRequest
from server.engines.client import Terms

_UNKNOWN = MadeFor("unknown", "", "", "", "")


class Describes(Protocol):
    """What must be known of an engine."""

    profile: Profile

    @property
    def native_size(self) -> int:
        """Side of its pictures in pixels."""

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell and side."""


@dataclass(frozen=True, slots=True, eq=False)
class Engines:
    """The engines of one client, which are all alike."""

    native_size: int = 1024
    vae_factor: int = 8
    profile: Profile = field(default_factory=lambda: Profile(_UNKNOWN))

    @classmethod
    def of(cls, engine: Describes) -> Self:
        """Of one that is at hand."""
        return cls(engine.native_size, engine.vae_factor, engine.profile)

    @classmethod
    def from_json(cls, told: Any) -> Self:
        """Of one elsewhere, as :meth:`to_json` describes it there."""
        return cls(told["native_size"], told["vae_factor"], Profile.from_json(told["profile"]))

    def to_json(self) -> dict[str, Any]:
        """For a message."""
        profile = self.profile.to_json()
        return {"native_size": self.native_size, "vae_factor": self.vae_factor, "profile": profile}

    def work(self, request: InpaintRequest, key: str) -> Work:
        """What a request is for them. Looks at every pixel of its mask: not for an event loop.

        Raises:
            RequestError: nothing to repaint.
        """
        return work_of(request, working_size_of(request, self.native_size), self.vae_factor, key)

    def given_s(self, work: Work, terms: Terms) -> float:
        """Seconds from now within which ``terms`` want it; never less than is known of its cost."""
        if terms.slowdown < inf and self.profile.known:
            return min(terms.deadline_s, terms.slowdown * alone_s(work, self.profile))
        return terms.deadline_s


def load(work: Work, taken: int, steps: int) -> Load:
    """What is left of work of which ``taken`` of ``steps`` steps are done."""
    return Load(work, ceil(work.calls * (1 - taken / steps)))
