"""A simulated fleet: devices, the routers before them, and three rules by which those choose a device."""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Protocol

from bench.lib.virtual import Device, Policy, Sent
from inpaint.batching.admission import demand_s
from inpaint.batching.work import Costs, Work
from server.engines.routing import BacklogTable

Clock = Callable[[], float]


class Router(Protocol):
    """One ingress process."""

    def choose(self, work: Work) -> int:
        """The device that gets it; the router remembers that it sent it there."""

    def hear(self, device: int, backlog_s: float, age_s: float) -> None:
        """A device tells what its backlog was so long ago."""


class AtRandom:
    """Any device."""

    def __init__(self, devices: Sequence[Device], costs: Costs, chance: random.Random, _: Clock) -> None:
        self._devices, self._chance = devices, chance

    def choose(self, work: Work) -> int:
        """Without a look."""
        return self._chance.randrange(len(self._devices))

    def hear(self, device: int, backlog_s: float, age_s: float) -> None:
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
        self._backlogs = BacklogTable(clock=clock, chance=chance)
        self._names = [str(number) for number in range(len(devices))]
        self._costs = costs

    def choose(self, work: Work) -> int:
        """By seconds; a request counts as what it takes of a device whose calls are full."""
        name = self._backlogs.choose(self._names)
        self._backlogs.sent(name, demand_s(work, self._costs))
        return int(name)

    def hear(self, device: int, backlog_s: float, age_s: float) -> None:
        """From now on that is what is known of it."""
        self._backlogs.report(self._names[device], backlog_s, age_s=age_s)


RULES: Mapping[str, Callable[[Sequence[Device], Costs, random.Random, Clock], Router]] = {
    "random": AtRandom,
    "two-choices": TwoChoices,
    "least-backlog": LeastBacklog,
}

REPORT_S = 1.0
_EVERYBODY = Policy("batcher", admits=True)  # the batcher itself refuses, those alone that have a deadline


@dataclass(frozen=True, slots=True)
class Case:
    """Who sends what where."""

    gpus: int
    rule: str
    routers: int = 1
    late_s: float = 0.0  # from a report's measurement to its arrival
    ages_told: bool = True  # else a router takes a late report for news


class Fleet:
    """Devices and routers in one virtual time."""

    def __init__(self, case: Case, costs: Costs, seed: int = 0) -> None:
        self.now = 0.0
        self.devices = [Device(costs, _EVERYBODY) for _ in range(case.gpus)]
        self._case = case
        self._chance = random.Random(seed)
        self._routers = [
            RULES[case.rule](self.devices, costs, random.Random(self._chance.random()), lambda: self.now)
            for _ in range(case.routers)
        ]
        self._reports = 0  # so many, one device after the other, each once in REPORT_S
        self._posted: deque[tuple[float, int, float]] = deque()  # (when, device, seconds), not yet arrived
        self._due: list[tuple[float, int]] = []  # when a device goes on; of its entries one is true

    def run(self, requests: Sequence[Sent]) -> None:
        """Send all of ``requests``, which then know what became of them."""
        for sent in requests:
            self._until(sent.at)
            self.now = sent.at
            device = self._chance.choice(self._routers).choose(sent.work)
            self.devices[device].send(sent)
            self._expect(device)
        while self._due:
            self._go_on()

    def _until(self, at: float) -> None:
        """Everything before ``at``, in its order."""
        while True:
            report_at = self._reports * REPORT_S / len(self.devices)
            if self._due and self._due[0][0] <= min(at, report_at):
                self._go_on()
            elif report_at <= at:
                self._report(report_at)
            else:
                return

    def _report(self, at: float) -> None:
        self.now = at
        number = self._reports % len(self.devices)
        self._reports += 1
        self._posted.append((at, number, self.devices[number].batcher.backlog_s()))
        while self._posted and self._posted[0][0] <= at - self._case.late_s:
            then, device, backlog_s = self._posted.popleft()
            for router in self._routers:
                router.hear(device, backlog_s, at - then if self._case.ages_told else 0.0)

    def _go_on(self) -> None:
        at, number = heappop(self._due)
        if self.devices[number].next_at == at:  # else something came between
            self.devices[number].advance()
            self._expect(number)

    def _expect(self, number: int) -> None:
        if (at := self.devices[number].next_at) < inf:
            heappush(self._due, (at, number))
