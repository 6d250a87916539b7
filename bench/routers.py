"""Three rules by which a router of a simulated fleet chooses a device for a request."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bench.virtual import Device
from inpaint.admission import demand_s
from inpaint.work import Costs, Work
from server.routing import Board

Clock = Callable[[], float]


class Router(Protocol):
    """One ingress process."""

    def choose(self, work: Work) -> int:
        """The device that gets it; the router remembers that it sent it there."""

    def hear(self, device: int, backlog_s: float) -> None:
        """A device reports its backlog of this moment."""


class AtRandom:
    """Any device."""

    def __init__(self, devices: Sequence[Device], costs: Costs, chance: random.Random, _: Clock) -> None:
        self._devices, self._chance = devices, chance

    def choose(self, work: Work) -> int:
        """Without a look."""
        return self._chance.randrange(len(self._devices))

    def hear(self, device: int, backlog_s: float) -> None:
        """Nothing comes of it."""


class TwoChoices(AtRandom):
    """Of two drawn devices the one with fewer requests, asked at this moment: better than any report."""

    def choose(self, work: Work) -> int:
        """The first, where both have as many."""
        drawn = self._chance.sample(range(len(self._devices)), min(2, len(self._devices)))
        return min(drawn, key=lambda device: self._devices[device].under_way)


class LeastBacklog:
    """The server's own rule: reports that are up to a second old, and what this router sent since."""

    def __init__(self, devices: Sequence[Device], costs: Costs, chance: random.Random, clock: Clock) -> None:
        self._board = Board(clock=clock, chance=chance)
        self._names = [str(number) for number in range(len(devices))]
        self._costs = costs

    def choose(self, work: Work) -> int:
        """By seconds; a request counts as what it takes of a device whose calls are full."""
        name = self._board.choose(self._names)
        self._board.sent(name, demand_s(work, self._costs))
        return int(name)

    def hear(self, device: int, backlog_s: float) -> None:
        """From now on that is what is known of it."""
        self._board.report(self._names[device], backlog_s)


RULES: Mapping[str, Callable[[Sequence[Device], Costs, random.Random, Clock], Router]] = {
    "random": AtRandom,
    "two-choices": TwoChoices,
    "least-backlog": LeastBacklog,
}
