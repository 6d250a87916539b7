"""The steps of ``make gpu-check``, the most telling first, with what each must show.

The seconds are limits, not expectations: half an hour in all is meant, and how long a step takes on a GPU
has not been measured.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]  # a step's JSON


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the page: a figure and the number that it must keep to."""

    what: str
    figure: Callable[[Figures], float | None]  # None: the step did not measure it
    most: float | None = None
    least: float | None = None

    @property
    def text(self) -> str:
        """The target as the page shows it."""
        if self.most is None and self.least is None:
            return "–"
        return f"≤ {self.most:g}" if self.most is not None else f"≥ {self.least:g}"

    def kept(self, value: float) -> bool | None:
        """Return whether a figure is good; None if there is no target for it."""
        if self.most is None and self.least is None:
            return None
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)


@dataclass(frozen=True, slots=True)
class Step:
    """A program that writes one JSON file within a time."""

    name: str
    learns: str
    limit_s: float
    program: tuple[str, ...]  # module and options
    rehearsal: tuple[str, ...]  # the same on a CPU, with the demo model
    targets: tuple[Target, ...] = field(default=())

    def command(self, device: str, out: Path) -> list[str]:
        """Return the command that writes ``out``."""
        program = self.rehearsal if device == "cpu" else self.program
        return [sys.executable, "-m", *program, "--device", device, "--json", str(out)]


def _at(*keys: str) -> Callable[[Figures], float | None]:
    """Return the reader of one figure, by its keys."""

    def read(figures: Figures) -> float | None:
        found: Any = figures
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else float(found)

    return read


def _seconds(contender: str) -> Callable[[Figures], float | None]:
    ms = _at("contenders", contender, "ms", "median")
    return lambda figures: None if (value := ms(figures)) is None else value / 1000


def _ratio(of: str, to: str) -> Callable[[Figures], float | None]:
    def read(figures: Figures) -> float | None:
        ours, theirs = _seconds(of)(figures), _seconds(to)(figures)
        return None if ours is None or not theirs else ours / theirs

    return read


def _caps_that_fit(figures: Figures) -> float | None:
    caps = figures.get("caps")
    return None if caps is None else sum(bool(cap["good"]) for cap in caps.values()) / len(caps)


_CHECKS = "tools.gpu_check.checks"
_LATENCY = ("bench.latency", "--warmups", "2")
_SMALL = ("--rounds", "1", "--warmups", "1", "--steps", "4", "--settle-s", "0")

STEPS: tuple[Step, ...] = (
    Step(
        "tests", "the tests that need a GPU", 360,
        (_CHECKS, "tests"), (_CHECKS, "tests"),
        (Target("tests that failed", _at("failed"), most=0), Target("tests that passed", _at("passed"))),
    ),
    Step(
        "parts", "prompts, VAE and UNet calls alone, uncompiled", 240,
        ("bench.full_size", "--slots", "1", "2", "4", "8", "16", "--rounds", "5"),
        (_CHECKS, "small-parts"),
        (
            Target("UNet call of 2 slots, ms", _at("parts", "step 2", "ms", "median"), most=67),
            Target("VAE decode, ms", _at("parts", "decode", "ms", "median"), most=90),
        ),
    ),
    Step(
        "exact", "one picture at 1024², 25 steps, against stock diffusers", 600,
        (*_LATENCY, "--contenders", "A,C", "--rounds", "8", "--settle-s", "420"),
        ("bench.latency", "--contenders", "A,C", *_SMALL),
        (
            Target("seconds a picture, exact", _seconds("C"), most=0.85),
            Target("of stock diffusers' time", _ratio("C", "A"), most=1),
            Target("waits for the GPU in a picture", _at("contenders", "C", "syncs")),
        ),
    ),
    Step(
        "fp8", "the same in 8 bit, from the compiled code that the last step kept", 420,
        (*_LATENCY, "--contenders", "C,D", "--rounds", "6", "--settle-s", "150", "--without", "graphs"),
        ("bench.latency", "--contenders", "C,D", *_SMALL),
        (Target("seconds a picture, fp8", _seconds("D"), most=0.55),),
    ),
    Step(
        "small", "one picture at 512², where launching kernels takes longest", 300,
        (*_LATENCY, "--contenders", "C", "--side", "512", "--rounds", "6", "--settle-s", "150"),
        ("bench.latency", "--contenders", "C", "--side", "128", *_SMALL),
        (Target("seconds a picture at 512²", _seconds("C")),),
    ),
    Step(
        "memory", "peaks under the memory of cards of 8, 12, 16 and 24 GB", 420,
        ("bench.memory", "--caps", "8", "12", "16", "24", "--steps", "4", "--pictures", "3"),
        ("bench.memory", "--plans", "resident", "streamed", "--steps", "2", "--pictures", "2"),
        (Target("share of the cards that are enough", _caps_that_fit, least=1),),
    ),
    Step(
        "throughput", "several callers with different settings", 300,
        (
            "bench.throughput", "--contenders", "C", "--at-once", "1", "4", "8", "--workload", "mixed",
            "--rounds", "2", "--warmups", "1", "--steps", "8", "--settle-s", "60",
        ),
        ("bench.throughput", "--contenders", "C", "--at-once", "4", "--workload", "mixed", *_SMALL),
        (Target("pictures a second, 4 callers", _at("workloads", "mixed", "4", "C", "pictures_per_s")),),
    ),
    Step(
        "out-of-memory", "a card without free memory: an error or a picture, and then pictures again", 180,
        (_CHECKS, "out-of-memory"), (_CHECKS, "out-of-memory"),
        (
            Target("other endings than a picture or a sentence", _at("other_errors"), most=0),
            Target("pictures once there is memory again", _at("painted_after"), least=1),
        ),
    ),
    Step(
        "device-assert", "a GPU that failed is said to have failed, and nothing hangs", 120,
        (_CHECKS, "device-assert"), (_CHECKS, "device-assert"),
        (Target("requests that end with DeviceError", _at("device_errors"), least=1),),
    ),
    Step(
        "sizes", "120 pictures of 15 sizes: the memory that torch reserves stops growing", 420,
        (_CHECKS, "sizes", "--pictures", "120"), (_CHECKS, "sizes", "--pictures", "30"),
        (
            Target("GiB reserved after the last, over that after half", _at("growth_gib"), most=0.5),
            Target("pictures", _at("painted")),
        ),
    ),
)  # fmt: skip
