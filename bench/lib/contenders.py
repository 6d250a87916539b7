"""Tools that the benches share: contenders timed in turn, the conditions of a run, figures as JSON.

A *contender* is one way to do a job. Contenders are interleaved round by round in rotating order, because a
machine has slow stretches: ratios paired within a round are not moved by them. This module knows nothing of
models or engines.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.lib.device import device_line, synchronize
from inpaint.errors import InpaintError, RequestError

ROOT = Path(__file__).parents[2]
PORTRAIT = ROOT / "docs" / "images" / "portrait.jpg"

Job = TypeVar("Job")
Opened = TypeVar("Opened")


@dataclass(frozen=True, slots=True)
class Timing:
    """A contender's rounds in seconds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median round in seconds."""
        return statistics.median(self.rounds)

    def to_json(self) -> dict[str, float]:
        """Return the median and range in milliseconds."""
        figures = {"median": self.median, "min": min(self.rounds), "max": max(self.rounds)}
        return {name: round(1000 * seconds, 2) for name, seconds in figures.items()}

    def over(self, other: "Timing") -> dict[str, float]:
        """Return the ratio to ``other``, of medians and paired; slow stretches do not move the second."""
        paired = [mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True)]
        ratios = {"of_medians": self.median / other.median, "median_paired": statistics.median(paired)}
        return {name: round(ratio, 4) for name, ratio in ratios.items()}


def interleave(
    contenders: Mapping[str, Callable[[Job], object]],
    job: Callable[[int, int], Job],
    *,
    warmups: int,
    rounds: int,
    device: torch.device | None = None,
) -> dict[str, Timing]:
    """Time each contender; the contender that begins changes with each round.

    Args:
        contenders: functions to time, by name.
        job: (round, place within it) → the contender's argument; warm-up rounds have negative numbers.
        warmups: rounds before the timed ones.
        rounds: timed rounds.
        device: synchronised after each job; a CPU needs no waiting.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(-warmups, rounds):
        first = i % len(contenders)
        order = [*contenders][first:] + [*contenders][:first]
        for place, name in enumerate(order):
            given = job(i, place)
            synchronize(device)
            started = time.perf_counter()
            contenders[name](given)
            synchronize(device)
            if i >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def conditions(bench: str, device: torch.device, **more: object) -> dict[str, Any]:
    """Return the conditions of a run that a reader needs to compare it with another."""
    import diffusers
    import transformers

    versions = {lib.__name__: str(lib.__version__) for lib in (torch, diffusers, transformers)}
    if torch.version.cuda and device.type == "cuda":
        versions["cuda"] = torch.version.cuda
    return {
        "bench": bench,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": device_line(device),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
        **more,
    }


def commit() -> str:
    """Return this tree's commit, with ``-dirty`` if it has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def parser(doc: str | None, *, model: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options of every bench: device, model, file of the figures."""
    options = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    options.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto: a GPU if there is one)"
    )
    if model:
        options.add_argument(
            "--model",
            help="a model's name or folder, or full-size: random weights of SDXL's shapes, "
            "made on the device (default: demo on a CPU, full-size on a GPU)",
        )
    options.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    return options


def chosen_contenders(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the contenders named in ``text``, separated by commas, in the order of ``known``.

    Raises:
        RequestError: a name is unknown, or there is none.
    """
    named, contenders = set(text.split(",")), tuple(known)
    if not named <= set(contenders):
        raise RequestError("contenders", f"must be some of {','.join(contenders)}, not {text!r}")
    return tuple(contender for contender in contenders if contender in named)


def open_each(
    stack: contextlib.ExitStack,
    letters: Iterable[str],
    opened: Callable[[str], AbstractContextManager[Opened]],
) -> tuple[dict[str, Opened], dict[str, str]]:
    """Open the contenders that can run here, for as long as ``stack``; return the others' reasons, too.

    Raises:
        RequestError: none can run here.
    """
    contenders: dict[str, Opened] = {}
    missing: dict[str, str] = {}
    for letter in letters:
        try:
            contenders[letter] = stack.enter_context(opened(letter))
        except RequestError as reason:
            missing[letter] = str(reason)
            print(f"  {letter}: left out, {reason}")
    if not contenders:
        raise RequestError("contenders", f"none of them can run here: {missing}")
    return contenders, missing


def finish(measure: Callable[[], dict[str, Any]], keep: Path | None) -> None:
    """Measure, keep the figures and print them as one JSON line; exit with the message of an InpaintError."""
    try:
        figures = measure()
    except InpaintError as error:
        sys.exit(str(error))
    if keep:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures), flush=True)


def row(name: str, timing: Timing, base: Timing | None = None, note: str = "") -> None:
    """Print one line of a table: milliseconds, and the ratio to ``base``."""
    ms = timing.to_json()
    line = f"  {name:<18} {ms['median']:9.1f} ({ms['min']:.1f} to {ms['max']:.1f})"
    if base is not None:
        ratio = timing.over(base)
        line += f"   {ratio['median_paired']:.3f} × paired, {ratio['of_medians']:.3f} × by medians"
    print(line + (f"   {note}" if note else ""), flush=True)


def medians(samples: Sequence[Mapping[str, float]], digits: int = 2) -> dict[str, float]:
    """Return the median of each figure over several measurements."""
    return {name: round(statistics.median(s[name] for s in samples), digits) for name in samples[0]}
