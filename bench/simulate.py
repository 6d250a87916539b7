"""Attainment with admission by predicted finish under overload: real batcher, simulated device and traces.

Requests come at Poisson times, their kinds drawn from a mix; a request is *good* if it is finished within
five times the seconds that its kind takes on an idle device, and attainment counts the good among all that
were *sent*. Three policies: *admission*, ours; *cap16*, a first-in, first-out queue of at most 16;
*unbounded*, the same without a limit. The load is in multiples of the step loop's capacity with full calls.

Without ``--profile`` the costs are a model, not a measurement: the FLOPs of SDXL's parts at 300 TFLOP/s (the
VAE at 150) and 10 ms a call. They serve to compare the policies; they are no device's speed.

    python -m bench.simulate [--profile FILE] [--requests 1500] [--seeds 3] [--json FILE]
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.lib.virtual import Device, Policy, Sent, Tally
from inpaint.batching.admission import alone_s, demand_s
from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import Bucket, Costs, Work
from inpaint.pace import call_plan

SLOWDOWN = 5.0  # times the seconds on an idle device: a request that takes no longer is good
LOADS = (0.5, 0.75, 1.0, 1.2, 1.5)
POLICIES = (
    Policy("admission", admits=True),
    Policy("cap16", admits=False, room=16),
    Policy("unbounded", admits=False),
)
KEYS = {"a": 0.6, "b": 0.3, "c": 0.1}  # one customer sends most


class Modelled:
    """Costs from counted FLOPs; ``../shared/performance.md`` has where they come from."""

    overlapped = True

    def step_s(self, bucket: Bucket, slots: int) -> float:
        """Return the seconds of a UNet call.

        A slot at 1024² has 6.23 TFLOP that grow with the area and 0.53 with its square, or 1.67 and 0.41 if
        the deepest level comes from a cache; fp32 doubles them.
        """
        area = bucket.latent_pixels / 128**2
        linear, square = (1.67, 0.41) if bucket.cached else (6.23, 0.53)
        return 0.010 + slots * (linear * area + square * area**2) * (1 + bucket.precise) / 300

    def encode_s(self, bucket: Bucket) -> float:
        """Return the seconds of two encodes of the VAE and of a pair of prompts."""
        return (2 * 4.88 * bucket.latent_pixels / 128**2 + 0.2) / 150

    def decode_s(self, bucket: Bucket) -> float:
        """Return the seconds of one decode of the VAE."""
        return 10.47 * bucket.latent_pixels / 128**2 / 150

    def cap(self, bucket: Bucket) -> int:
        """Return the fewest slots, 4 to 16, past which twice as many gain under 8 % of throughput."""
        slots = 4
        while slots < 16 and 2 * self.step_s(bucket, slots) / self.step_s(bucket, 2 * slots) >= 1.08:
            slots *= 2
        return slots

    def switch_s(self) -> float:
        """Return 0: no request here uses LoRAs."""
        return 0.0


class OnCpu:
    """The demo model's costs on two cores: more slots are cheap; the step loop encodes and decodes, too.

    A call with all 16 slots takes five times as long as one with 2, so that a policy that admits every
    request makes all of them late.
    """

    overlapped = False

    def step_s(self, bucket: Bucket, slots: int) -> float:
        """Return a call's seconds: a fixed part, and little for each slot."""
        return 0.006 + 0.0035 * slots * bucket.latent_pixels / 16**2

    def encode_s(self, bucket: Bucket) -> float:
        """Return the seconds of encoding: as long as three calls."""
        return 0.040 * bucket.latent_pixels / 16**2

    def decode_s(self, bucket: Bucket) -> float:
        """Return the seconds of decoding: as long as two calls."""
        return 0.030 * bucket.latent_pixels / 16**2

    def cap(self, bucket: Bucket) -> int:
        """Return the most slots that a call may have."""
        return 16

    def switch_s(self) -> float:
        """Return 0: no request here uses LoRAs."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of requests and its share of them."""

    share: float
    work: Work
    sampler: tuple[str, int, float] = ("Euler", 25, 0.9)  # its name, steps and strength


SQUARE, WIDE, SMALL = Bucket(128, 128), Bucket(104, 152), Bucket(64, 64)
MIX = (
    Kind(
        0.30, Work(SQUARE, 44), ("DPM2 Karras", 25, 0.9)
    ),  # the default: 25 steps of DPM2 Karras at strength 0.9, two calls each
    Kind(0.20, Work(SQUARE, 18), ("Euler", 20, 0.9)),  # 20 steps of Euler
    Kind(0.05, Work(SQUARE, 90), ("Euler", 100, 0.9)),  # 100 steps
    Kind(0.05, Work(SQUARE, 18, samples=4), ("Euler", 20, 0.9)),
    Kind(0.10, Work(SQUARE, 8, slots=1), ("Euler", 8, 1.0)),  # a few steps, no guidance
    Kind(0.20, Work(WIDE, 22)),
    Kind(0.10, Work(SMALL, 22)),
)

CPU_SQUARE, CPU_WIDE, CPU_TALL = Bucket(16, 16), Bucket(16, 24), Bucket(24, 16)
CPU_MIX = (  # as ``bench.lib.traffic`` sends it
    Kind(0.35, Work(CPU_SQUARE, 18)),
    Kind(0.25, Work(CPU_SQUARE, 44)),
    Kind(0.15, Work(CPU_WIDE, 27)),
    Kind(0.15, Work(CPU_TALL, 22, slots=1)),
    Kind(0.10, Work(CPU_SQUARE, 54)),
)


PACES = ("exact", "near", "near with caches")


def paced(mix: Sequence[Kind], pace: str) -> tuple[Kind, ...]:
    """Return the same requests at one of ``PACES``; without caches, near calls are forecast only."""
    kinds = []
    for kind in mix:
        plan = call_plan(*kind.sampler, pace.split()[0])
        cached = plan.cached_calls if pace == "near with caches" else frozenset()
        kinds.append(replace(kind, work=replace(kind.work, calls=plan.made, cached=cached)))
    return tuple(kinds)


def capacity(mix: Sequence[Kind], costs: Costs) -> float:
    """Return the requests a second that the step loop can do with full calls."""
    return sum(kind.share for kind in mix) / sum(kind.share * demand_s(kind.work, costs) for kind in mix)


def trace(mix: Sequence[Kind], rate: float, count: int, seed: int, costs: Costs) -> list[Sent]:
    """Return ``count`` requests at ``rate`` a second."""
    chance = random.Random(seed)
    shares = [kind.share for kind in mix]
    now, sent = 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        work = chance.choices(mix, shares)[0].work
        deadline = now + SLOWDOWN * alone_s(work, costs)
        key = chance.choices([*KEYS], KEYS.values())[0]
        sent.append(Sent(now, replace(work, key=key, expires_at=deadline)))
    return sent


def simulate(requests: Sequence[Sent], costs: Costs, policy: Policy) -> Tally:
    """Send all of ``requests``; each then knows its own fate."""
    device = Device(costs, policy)
    device.run(requests)
    return device.tally


def attainment(requests: Sequence[Sent]) -> float:
    """Return the share of good requests among all that were sent."""
    return sum(sent.good for sent in requests) / len(requests)


def figures(requests: Sequence[Sent], tally: Tally) -> dict[str, float]:
    """Return the figures of one simulation: shares of the requests sent, or of the time."""
    fates = {
        fate: sum(sent.fate == fate for sent in requests) / len(requests) for fate in ("refused", "expired")
    }
    late = sum(sent.fate == "finished" and not sent.good for sent in requests) / len(requests)
    found = {
        "attainment": attainment(requests),
        **fates,
        "late": late,
        "busy": tally.busy_s / tally.ended_at,
        "side_busy": tally.side_s / tally.ended_at,
        "rows_a_call": tally.row_steps / tally.calls,
        "longest_queue": tally.longest_queue,
    }
    return {name: round(value, 4) for name, value in found.items()}


def compare(costs: Costs, mix: Sequence[Kind], count: int, seeds: int) -> list[dict[str, Any]]:
    """Simulate each load under each policy on the same traces: the mean over the seeds, and the worst."""
    rows = []
    rate = capacity(mix, costs)
    for load in LOADS:
        for policy in POLICIES:
            runs = []
            for seed in range(seeds):
                requests = trace(mix, load * rate, count, seed, costs)
                runs.append(figures(requests, simulate(requests, costs, policy)))
            mean = {name: round(sum(run[name] for run in runs) / seeds, 4) for name in runs[0]}
            worst = min(run["attainment"] for run in runs)
            rows.append({"load": load, "policy": policy.name, **mean, "worst_attainment": worst})
            _print_row(rows[-1])
    return rows


def compare_paces(costs: Costs, count: int, seeds: int, load: float = 1.2) -> list[dict[str, Any]]:
    """Simulate each pace at ``load`` times its own capacity and times the exact one's.

    Requests in time a second are in units of those at the exact pace, as the mean over the seeds and the
    least; of the requests that were accepted, the shares that were late or expired were promised in vain.
    """
    rows = []
    exact_rate = load * capacity(paced(MIX, "exact"), costs)
    exact_goodput = [0.0] * seeds
    for pace in PACES:
        mix = paced(MIX, pace)
        rates = {"own": load * capacity(mix, costs), "exact's": exact_rate}
        for whose, rate in rates.items():
            runs = []
            for seed in range(seeds):
                requests = trace(mix, rate, count, seed, costs)
                run = figures(requests, simulate(requests, costs, POLICIES[0]))
                goodput = rate * run["attainment"]
                if pace == "exact":
                    exact_goodput[seed] = goodput
                run["goodput"] = goodput / exact_goodput[seed]
                run["in_vain"] = (run["late"] + run["expired"]) / (1 - run["refused"])
                runs.append(run)
            shown = ("goodput", "attainment", "refused", "in_vain", "busy", "rows_a_call")
            mean = {name: round(sum(run[name] for run in runs) / seeds, 4) for name in shown}
            least = round(min(run["goodput"] for run in runs), 4)
            found = {"pace": pace, "load": load, "capacity_of": whose, "rate_per_s": round(rate, 4), **mean}
            rows.append({**found, "least_goodput": least})
            print(f"{pace:<17}{whose:>9}" + "".join(f"{value:>12.3f}" for value in [*mean.values(), least]))
    return rows


def _print_row(row: dict[str, Any]) -> None:
    shares = "".join(
        f"{row[name]:>11.3f}"
        for name in ("attainment", "worst_attainment", "refused", "expired", "late", "busy")
    )
    print(f"{row['load']:>5} {row['policy']:<10}{shares}{row['longest_queue']:>11.0f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", type=Path, metavar="FILE", help="costs as measured, a profile.json")
    parser.add_argument("--requests", type=int, default=1500, help="of each trace (default 1500)")
    parser.add_argument("--seeds", type=int, default=3, help="traces of each load (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    chosen = parser.parse_args(arguments)
    costs: Costs = Modelled()
    if chosen.profile:
        costs = Profile.from_json(json.loads(chosen.profile.read_text("utf-8")))
    heading = (
        " load policy      attainment      worst    refused    expired       late       busy    longest queue"
    )
    print(heading)
    result: dict[str, Any] = {
        "bench": "simulate",
        "date": datetime.now(UTC).date().isoformat(),
        "costs": str(chosen.profile.name) if chosen.profile else "modelled from counted FLOPs, not measured",
        "capacity_per_s": round(capacity(MIX, costs), 4),
        "slowdown": SLOWDOWN,
        "requests": chosen.requests,
        "seeds": chosen.seeds,
        "rows": compare(costs, MIX, chosen.requests, chosen.seeds),
    }
    if not chosen.profile:
        print(f"where the step loop encodes and decodes, as on a CPU:\n{heading}")
        result["rows_on_a_cpu"] = compare(OnCpu(), CPU_MIX, chosen.requests, chosen.seeds)
    print("paces, at 1.2 × capacity; goodput in units of the exact pace's:")
    print(
        "pace             capacity     goodput  attainment     refused     in vain        busy    rows/call",
        end="",
    )
    print("       least")
    result["paces"] = compare_paces(costs, chosen.requests, chosen.seeds)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
