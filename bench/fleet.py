"""Latency and size of a fleet: the real batcher and routing on up to 1,000 simulated devices.

Requests come at Poisson times from ``bench.simulate``'s mix. One of several routers, drawn at random, sends
each to a device by one of three rules (``bench.lib.routers``): *random*, *two-choices*, or *least-backlog*,
which is the server's own (``server.engines.routing``) with a report once a second. No request is refused, so
that the latencies are those of all requests; attainment counts those done within five times their time alone.
Further tables: the same with admission by that deadline; with reports that arrive late; and the fewest GPUs
that paint 99 % of the requests within a limit of seconds.

Without ``--profile`` the costs are a model, not a measurement (see ``bench.simulate``): they serve to compare
the rules; they are no device's speed.

    python -m bench.fleet [--profile FILE] [--mix sdxl|demo] [--quick] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from math import ceil, inf
from pathlib import Path
from typing import Any

from bench.lib.routers import REPORT_S, Case, Fleet
from bench.lib.virtual import Sent
from bench.simulate import CPU_MIX, MIX, SLOWDOWN, Kind, Modelled, OnCpu, capacity, trace
from inpaint.batching.admission import alone_s
from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import Costs, Work

LOAD = 0.9
WARM_UP = 0.25  # of a trace, while the fleet is emptier than it will be
SIZES = {2: 3000, 4: 1500, 16: 400, 64: 150, 256: 100, 1000: 60}  # GPUs → requests for each
WAYS = (("random", 1), ("two-choices", 1), ("least-backlog", 1), ("least-backlog", 4))  # rule, routers
RATES = (0.5, 1, 3, 10, 30, 100)  # requests a second
MIXES: Mapping[str, tuple[Sequence[Kind], Sequence[float]]] = {  # with limits of seconds for 99 %
    "sdxl": (MIX, (10, 20)),
    "demo": (CPU_MIX, (2, 5)),
}


class Remembered:
    """A cache of costs: a measured profile takes a lock and averages for each answer."""

    def __init__(self, costs: Costs) -> None:
        self.overlapped = costs.overlapped
        self.step_s = cache(costs.step_s)
        self.encode_s = cache(costs.encode_s)
        self.decode_s = cache(costs.decode_s)
        self.cap = cache(costs.cap)
        self.switch_s = costs.switch_s
        self._alone_s = cache(lambda work: alone_s(work, costs))

    def alone_s(self, work: Work) -> float:
        """Return the seconds that it takes on an idle device."""
        return self._alone_s(replace(work, key="", expires_at=inf))


@dataclass(frozen=True, slots=True)
class Bench:
    """Simulations of one mix of requests on devices of one kind of costs."""

    mix: Sequence[Kind]
    costs: Remembered
    sizing: int = 3000  # requests at least, of a trace that tests a number of GPUs

    def simulate(self, case: Case, count: int, rate: float, *, refusing: bool = False) -> dict[str, float]:
        """Return the seconds of the painted requests, and the share of good ones among all sent."""
        requests = trace(self.mix, rate, count, case.gpus, self.costs)
        if not refusing:
            requests = [Sent(sent.at, replace(sent.work, expires_at=inf)) for sent in requests]
        Fleet(case, self.costs, seed=case.gpus).run(requests)
        counted = requests[int(WARM_UP * count) :]
        seconds = sorted(sent.finished_at - sent.at for sent in counted if sent.fate == "finished")
        good = sum(sent.finished_at - sent.at <= SLOWDOWN * self.costs.alone_s(sent.work) for sent in counted)
        return {
            "p50_s": round(seconds[len(seconds) // 2], 3),
            "p99_s": round(seconds[ceil(0.99 * len(seconds)) - 1], 3),
            "attainment": round(good / len(counted), 4),
        }

    def compare(self, sizes: Mapping[int, int]) -> list[dict[str, Any]]:
        """Simulate each rule on each size of fleet, on the same traces."""
        rows = []
        print("  GPUs  routers rule              p50 s     p99 s  attainment   random's p99 ÷")
        for gpus, each in sizes.items():
            random_p99_s = None
            for rule, routers in WAYS:
                case = Case(gpus, rule, routers)
                found = self.simulate(case, gpus * each, LOAD * gpus * self.capacity)
                random_p99_s = random_p99_s or found["p99_s"]
                found["gain"] = round(random_p99_s / found["p99_s"], 2)
                rows.append({"gpus": gpus, "rule": rule, "routers": routers, **found})
                figures = f"{found['p50_s']:>9.2f} {found['p99_s']:>9.2f} {found['attainment']:>11.3f}"
                print(f"{gpus:>6} {routers:>8} {rule:<14}{figures} {found['gain']:>16.2f}", flush=True)
        return rows

    def admit(self, gpus: int, each: int) -> list[dict[str, Any]]:
        """Simulate the rules with devices that refuse requests that would be late."""
        rows = []
        print(f"good, of all sent, with {gpus} GPUs that refuse requests that would be late:")
        for load in (LOAD, 1.2):
            for rule, routers in WAYS:
                rate = load * gpus * self.capacity
                found = self.simulate(Case(gpus, rule, routers), gpus * each, rate, refusing=True)
                rows.append({"gpus": gpus, "load": load, "rule": rule, "routers": routers, **found})
                print(f"  load {load}, {rule}, {routers} routers: {found['attainment']:.3f}", flush=True)
        return rows

    def late(self, gpus: int, each: int) -> list[dict[str, Any]]:
        """Simulate the server's rule with late reports, whose age the routers know or do not know."""
        rows = []
        print(f"{gpus} GPUs, least-backlog:  p50 s    p99 s  attainment")
        for routers in (1, 2):
            for late_s, known in ((0.0, True), (0.5, True), (0.5, False), (1.0, True), (1.0, False)):
                case = Case(gpus, "least-backlog", routers, late_s, known)
                found = self.simulate(case, gpus * each, LOAD * gpus * self.capacity)
                rows.append(
                    {"gpus": gpus, "routers": routers, "late_s": late_s, "ages_known": known, **found}
                )
                words = f"{routers} routers, {late_s} s late, {'age known' if known else 'age unknown'}"
                print(f"  {words:<32} {found['p50_s']:.2f} {found['p99_s']:.2f} {found['attainment']:.3f}")
        return rows

    def size(self, rates: Sequence[float], limits_s: Sequence[float]) -> list[dict[str, Any]]:
        """Find the fewest GPUs for each rate and limit; four routers.

        The load is never above LOAD: nearer to 1 the wait depends on the length of the trace.
        """
        rows = []
        print("requests/s   p99 within   GPUs  load      p99")
        for rate in rates:
            p99_s = cache(lambda gpus, rate=rate: self._p99_s(gpus, rate))
            for limit_s in limits_s:
                least = ceil(rate / self.capacity / LOAD)
                gpus = fewest(lambda gpus: p99_s(gpus) <= limit_s, least)  # noqa: B023
                load = round(rate / gpus / self.capacity, 3)
                found = {"gpus": gpus, "load": load, "p99_s": p99_s(gpus)}
                rows.append({"rate": rate, "within_s": limit_s, **found})
                print(f"{rate:>10} {limit_s:>10} s {gpus:>6} {load:>5.2f} {p99_s(gpus):>6.1f} s", flush=True)
        return rows

    def _p99_s(self, gpus: int, rate: float) -> float:
        count = max(self.sizing, 60 * gpus)
        return self.simulate(Case(gpus, "least-backlog", 4), count, rate)["p99_s"]

    @property
    def capacity(self) -> float:
        """Requests a second that one device can do with full calls."""
        return capacity(self.mix, self.costs)


def fewest(enough: Callable[[int], bool], least: int) -> int:
    """Return the smallest number from ``least`` on that is enough, where more is never worse."""
    low, high = least - 1, least
    while not enough(high):
        low, high = high, high + max(1, high // 4)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", type=Path, metavar="FILE", help="costs as measured, a profile.json")
    parser.add_argument("--mix", choices=MIXES, default="sdxl", help="the mix of requests (default sdxl)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few GPUs and requests, to see that it works: its figures mean nothing",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    chosen = parser.parse_args(arguments)
    mix, limits_s = MIXES[chosen.mix]
    costs: Costs = Modelled() if chosen.mix == "sdxl" else OnCpu()
    if chosen.profile:
        costs = Profile.from_json(json.loads(chosen.profile.read_text("utf-8")))
    bench = Bench(mix, Remembered(costs), 300 if chosen.quick else 3000)
    result: dict[str, Any] = {
        "bench": "fleet",
        "date": datetime.now(UTC).date().isoformat(),
        "costs": chosen.profile.name if chosen.profile else "modelled, not measured",
        "mix": chosen.mix,
        "capacity_per_s": round(bench.capacity, 4),
        "load": LOAD,
        "report_s": REPORT_S,
        "rows": bench.compare({2: 100, 4: 50} if chosen.quick else SIZES),
        "admission": bench.admit(*((4, 50) if chosen.quick else (64, 150))),
        "late": bench.late(*((4, 50) if chosen.quick else (64, 150))),
        "sizing": bench.size((1,) if chosen.quick else RATES, limits_s),
    }
    result["cpu_s"] = round(time.process_time())
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
