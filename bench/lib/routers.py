"""A simulated fleet: devices, routers, and three rules by which routers choose a device."""

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
    """An ingress process that chooses a device for each request."""

    def choose(self, work: Work) -> int:
        """Return the device that gets the work; the router counts it as sent there."""

    def report(self, device: int, backlog_s: float, age_s: float) -> None:
        """Take a device's report: its backlog in seconds, measured ``age_s`` ago."""


class AtRandom:
    """A router that draws a device at random."""

    def __init__(self, devices: Sequence[Device], costs: Costs, chance: random.Random, _: Clock) -> None:
        self._devices, self._chance = devices, chance

    def choose(self, work: Work) -> int:
        """Return a random device."""
        return self._chance.randrange(len(self._devices))

    def report(self, device: int, backlog_s: float, age_s: float) -> None:
        """Ignore the report."""


class TwoChoices(AtRandom):
    """A router that takes, of two random devices, the one with fewer requests now: better than any report."""

    def choose(self, work: Work) -> int:
        """Return the one with fewer requests, the first if both have as many."""
        drawn = self._chance.sample(range(len(self._devices)), min(2, len(self._devices)))
        return min(drawn, key=lambda device: self._devices[device].under_way)


class LeastBacklog:
    """The server's own rule: reports up to a second old, and the work that this router has sent since."""

    def __init__(self, devices: Sequence[Device], costs: Costs, chance: random.Random, clock: Clock) -> None:
        self._backlogs = BacklogTable(clock=clock, chance=chance)
        self._names = [str(number) for number in range(len(devices))]
        self._costs = costs

    def choose(self, work: Work) -> int:
        """Return the device with the least backlog; a request counts its seconds in full calls."""
        name = self._backlogs.choose(self._names)
        self._backlogs.sent(name, demand_s(work, self._costs))
        return int(name)

    def report(self, device: int, backlog_s: float, age_s: float) -> None:
        """Keep the report as the device's backlog."""
        self._backlogs.report(self._names[device], backlog_s, age_s=age_s)


RULES: Mapping[str, Callable[[Sequence[Device], Costs, random.Random, Clock], Router]] = {
    "random": AtRandom,
    "two-choices": TwoChoices,
    "least-backlog": LeastBacklog,
}

REPORT_S = 1.0
_ADMIT_ALL = Policy("batcher", admits=True)  # the batcher itself refuses, only requests with a deadline


@dataclass(frozen=True, slots=True)
class Case:
    """The size of a fleet, its routers and the delay of its reports."""

    gpus: int
    rule: str
    routers: int = 1
    late_s: float = 0.0  # from a report's measurement to its arrival
    ages_known: bool = True  # else a router takes a late report for a new one


class Fleet:
    """A fleet of devices and routers in one virtual time."""

    def __init__(self, case: Case, costs: Costs, seed: int = 0) -> None:
        self.now = 0.0
        self.devices = [Device(costs, _ADMIT_ALL) for _ in range(case.gpus)]
        self._case = case
        self._chance = random.Random(seed)
        self._routers = [
            RULES[case.rule](self.devices, costs, random.Random(self._chance.random()), lambda: self.now)
            for _ in range(case.routers)
        ]
        self._reports = 0  # sent so far, one device after the other, each once in REPORT_S
        self._posted: deque[tuple[float, int, float]] = deque()  # (time, device, seconds), on their way
        self._due: list[tuple[float, int]] = []  # when a device goes on; one of its entries is current

    def run(self, requests: Sequence[Sent]) -> None:
        """Send all of ``requests``; each then knows its own fate."""
        for sent in requests:
            self._until(sent.at)
            self.now = sent.at
            device = self._chance.choice(self._routers).choose(sent.work)
            self.devices[device].send(sent)
            self._expect(device)
        while self._due:
            self._go_on()

    def _until(self, at: float) -> None:
        """Simulate everything before ``at``, in order."""
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
                router.report(device, backlog_s, at - then if self._case.ages_known else 0.0)

    def _go_on(self) -> None:
        at, number = heappop(self._due)
        if self.devices[number].next_at == at:  # else a request has changed it since
            self.devices[number].advance()
            self._expect(number)

    def _expect(self, number: int) -> None:
        if (at := self.devices[number].next_at) < inf:
            heappush(self._due, (at, number))
