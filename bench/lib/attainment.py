"""The share of requests sent at a rate that get a valid picture in time, on two servers in turn."""

import asyncio
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.lib.search import Search, allowed_misses
from bench.lib.servers import CONTENDERS, LOCK
from bench.lib.traffic import MIX, Kind, Outcome, client, is_picture, painted_pixels, play, post, trace

YARDSTICKS = (LOCK, "own")  # the server whose seconds alone are the base
SAME_LEVELS = 4.0  # mean difference of two paintings; another seed or scheduler gives tens
SETTLE_S = 300.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a measurement."""

    requests: int  # a run
    seeds: int  # runs a rate
    rounds: int  # of each kind alone
    step: float  # from one rate that is tried to the next
    budget_s: float
    tries: int = 20  # rates of one search
    slowdown: float = 5.0  # times the seconds alone, still good
    share: float = 0.99  # of the requests that must be good
    for_curve: float = 0.3  # of the budget
    past: tuple[float, ...] = (1.0, 1.25, 1.5)  # times the highest rate, for the curve


FULL = Plan(requests=100, seeds=3, rounds=7, step=1.1, budget_s=3600.0)
QUICK = Plan(requests=12, seeds=1, rounds=2, step=1.5, budget_s=60.0)


@dataclass(slots=True)
class Bench:
    """The two servers, and the measurements of them."""

    plan: Plan
    urls: Mapping[str, str]
    native: int
    end: float  # on the monotonic clock: no run may last longer
    kinds: Sequence[Kind] = MIX
    serials: Iterator[int] = field(default_factory=itertools.count)
    alone: dict[str, dict[str, float]] = field(default_factory=dict)  # contender → kind → seconds
    runs: dict[tuple[str, float, int], list[Outcome]] = field(default_factory=dict)  # contender, rate, seed

    async def same_pictures(self, *, may_differ: bool) -> dict[str, dict[str, float]]:
        """Return the differences of the contenders' pictures of each kind, in levels of 255, inside the mask.

        Raises:
            SystemExit: one does not paint, or they paint different pictures and may not.
        """
        found = {}
        for kind in self.kinds:
            body = kind.body(self.native, next(self.serials))
            files = [await self._paint(contender, body, kind.size(self.native)) for contender in CONTENDERS]
            difference = np.abs(painted_pixels(files[0]) - painted_pixels(files[1]))
            found[kind.name] = {"mean": round(float(difference.mean()), 3), "max": int(difference.max())}
            if difference.mean() > SAME_LEVELS and not may_differ:
                sys.exit(
                    f"{kind.name}: the servers paint different pictures, {found[kind.name]} levels apart"
                )
        return found

    async def _paint(self, contender: str, body: bytes, size: tuple[int, int]) -> bytes:
        async with client(self.urls[contender]) as http:
            response = await post(http, body)
        if response.status_code != 200 or not is_picture(response.content, size):
            sys.exit(f"{contender} does not paint: {response.status_code}, {response.content[:300]!r}")
        return response.content

    async def measure_alone(self) -> None:
        """Measure the seconds of each kind on an idle server; contenders take turns."""
        seconds: dict[str, dict[str, list[float]]] = {
            contender: {kind.name: [] for kind in self.kinds} for contender in CONTENDERS
        }
        for number in range(self.plan.rounds):
            for kind in self.kinds:
                for contender in CONTENDERS if number % 2 else CONTENDERS[::-1]:
                    body = kind.body(self.native, next(self.serials))
                    started = time.perf_counter()
                    await self._paint(contender, body, kind.size(self.native))
                    seconds[contender][kind.name].append(time.perf_counter() - started)
        for contender in CONTENDERS:
            self.alone[contender] = {
                name: statistics.median(found) for name, found in seconds[contender].items()
            }

    def capacity(self) -> float:
        """Return the requests a second of the mix that the lock could serve one after the other."""
        shares = sum(kind.share for kind in self.kinds)
        return shares / sum(kind.share * self.alone[LOCK][kind.name] for kind in self.kinds)

    def limits(self, contender: str, yardstick: str) -> dict[str, float]:
        """Return the seconds within which each kind's picture is good."""
        alone = self.alone[contender if yardstick == "own" else yardstick]
        return {name: self.plan.slowdown * seconds for name, seconds in alone.items()}

    async def run(self, contender: str, rate: float, seed: int) -> list[Outcome] | None:
        """Run one trace, once; return None if there is no time for it."""
        key = (contender, rate, seed)
        if key not in self.runs:
            shots = trace(rate, seed, self.plan.requests, self.kinds)
            end_s = max(max(self.limits(of, "own").values()) for of in CONTENDERS)
            if time.monotonic() + shots[-1].at_s + end_s > self.end:
                return None
            self.runs[key] = await play(self.urls[contender], shots, self.native, self.serials, end_s)
            await self._settled(contender)
        return self.runs[key]

    async def _settled(self, contender: str) -> None:
        """Wait until the server has finished the requests of a run: it paints a picture again."""
        async with asyncio.timeout(SETTLE_S), client(self.urls[contender]) as http:
            while True:
                body = self.kinds[0].body(self.native, next(self.serials))
                if (await post(http, body)).status_code == 200:
                    return
                await asyncio.sleep(_POLL_S)

    async def passes(self, contender: str, rate: float, yardstick: str) -> bool | None:
        """Return True if enough of all seeds' requests are good; None if the time is over.

        Seeds that cannot change the result are not run.
        """
        limits, misses = self.limits(contender, yardstick), 0
        allowed = allowed_misses(self.plan.requests * self.plan.seeds, self.plan.share)
        for seed in range(self.plan.seeds):
            if (outcomes := await self.run(contender, rate, seed)) is None:
                return None
            misses += sum(not outcome.good(limits) for outcome in outcomes)
            if misses > allowed:
                return False
        return True

    async def search(self) -> dict[str, dict[str, Search]]:
        """Search each contender's highest rate on each yardstick, one rate of each at a time."""
        searches = {contender: {yardstick: Search() for yardstick in YARDSTICKS} for contender in CONTENDERS}
        pending = [(contender, yardstick) for yardstick in YARDSTICKS for contender in CONTENDERS]
        for _ in range(self.plan.tries):
            pending = [(name, y) for name, y in pending if await self._try_one(name, y, searches[name][y])]
        return searches

    async def _try_one(self, contender: str, yardstick: str, search: Search) -> bool:
        """Try a search's next rate; return False when the search is complete or the time is over."""
        notch = search.next_notch()
        if notch is None:
            return False
        passes = await self.passes(contender, self.rate(notch), yardstick)
        if passes is None:
            print(f"{contender}, {yardstick}: no time left for {self.rate(notch):.2f}/s", file=sys.stderr)
            return False
        search.record(notch, passes)
        print(f"{contender}, {yardstick}: {self.rate(notch):.2f}/s {passes}", file=sys.stderr)
        return True

    def rate(self, notch: int) -> float:
        """Return the requests a second of a notch; notch 0 is half of the lock's capacity."""
        return 0.5 * self.capacity() * self.plan.step**notch

    async def curve(self, rates: Sequence[float]) -> None:
        """Run both contenders at these rates, as far as there is time."""
        for seed in range(self.plan.seeds):
            for rate, contender in itertools.product(rates, CONTENDERS):
                await self.run(contender, rate, seed)

    # The report.

    def points(self) -> list[dict[str, Any]]:
        """Return every measured rate, contender by contender."""
        keys = sorted({(contender, rate) for contender, rate, _ in self.runs})
        return [self.point(contender, rate) for contender, rate in keys]

    def point(self, contender: str, rate: float) -> dict[str, Any]:
        """Return the figures of all requests sent at one rate; seconds are those of valid pictures."""
        runs = [found for (of, at, _), found in self.runs.items() if (of, at) == (contender, rate)]
        outcomes = [outcome for run in runs for outcome in run]
        seconds = sorted(outcome.seconds for outcome in outcomes if outcome.valid)
        good = {
            y: sum(o.good(self.limits(contender, y)) for o in outcomes) / len(outcomes) for y in YARDSTICKS
        }
        return {
            "contender": contender,
            "rate": round(rate, 3),
            "seeds": len(runs),
            "sent": len(outcomes),
            "attainment": {name: round(share, 4) for name, share in good.items()},
            "goodput_per_s": {name: round(share * rate, 3) for name, share in good.items()},
            "answers": dict(Counter(str(outcome.status or "none") for outcome in outcomes)),
            "seconds": {
                name: round(seconds[int(part * (len(seconds) - 1))], 3)
                for name, part in (("median", 0.5), ("p99", 0.99))
                if seconds
            },
            "sent_late_s_max": round(max(outcome.late_s for outcome in outcomes), 3),
        }
