"""``python -m tools.fuzz PARSER --minutes 20 --seed N``: fuzz one parser, or run one input again."""

import argparse
import importlib
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tools.fuzz.findings import Findings
from tools.fuzz.mutations import bytes_changed
from tools.fuzz.target import Target

PARSERS = ("pictures", "loras", "checkpoints", "folders", "prompts", "metadata", "http", "jobs", "arguments")
_KEPT = 2000  # inputs of the corpus that are mutated further, without atheris
_MAX_BYTES = 65_536
_TOO_MUCH_KB = 600_000  # of memory that one input may add to the peak
_WARM_UP = 50  # inputs, after which the peak holds what is loaded once


class Slow(Exception):  # noqa: N818 - a finding, not an error that anyone catches
    """An input took too long."""


class Fuzzer:
    """One run: the outcomes and findings so far, until its time is up."""

    def __init__(self, target: Target, findings: Findings, seconds: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self._target, self._findings = target, findings
        self._ends = time.monotonic() + seconds
        self._peak_kb = 0

    @property
    def over(self) -> bool:
        """True once the time is up."""
        return time.monotonic() >= self._ends

    def try_one(self, data: bytes) -> str:
        """Run one input, and return its outcome."""
        signal.setitimer(signal.ITIMER_REAL, self._target.slow_s)
        try:
            outcome = self._target.one(data)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is what we look for
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._findings.add(data, error)
            outcome = "finding"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.outcomes[outcome] += 1
        self._check_memory(data)
        return outcome

    def report(self) -> str:
        """Return one line of JSON with the figures of the run."""
        return json.dumps(
            {
                "runs": self.outcomes.total(),
                "outcomes": dict(self.outcomes.most_common()),
                "findings": dict(self._findings.places),
                "peak_mb": _peak_kb() // 1024,
            }
        )

    def _check_memory(self, data: bytes) -> None:
        before, self._peak_kb = self._peak_kb, _peak_kb()
        grown = self._peak_kb - before
        if self.outcomes.total() > _WARM_UP and grown > _TOO_MUCH_KB:
            self._findings.note(data, "memory", f"the peak grew by {grown // 1024} MB")


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _too_slow(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Slow


def mutated(target: Target, data: bytes, chance: random.Random) -> bytes:
    """Change an input: its structure if the parser's module can, else bytes, which it may repair."""
    if target.mutate is not None and chance.random() < 0.8:
        return target.mutate(data, chance)[:_MAX_BYTES]
    changed = bytes_changed(data, chance)[:_MAX_BYTES]
    return target.repair(changed) if chance.random() < 0.75 else changed


def by_chance(target: Target, fuzzer: Fuzzer, seed: int) -> None:
    """Mutate the seeds, and what came of those with an outcome of their own, until the time is up."""
    chance = random.Random(seed)
    corpus = list(target.seeds)
    for data in corpus:
        fuzzer.try_one(data)
    while not fuzzer.over:
        data = chance.choice(corpus)
        for _ in range(chance.choice((1, 1, 2, 3))):
            data = mutated(target, data, chance)
        new = fuzzer.outcomes.copy()
        if fuzzer.try_one(data) not in new or chance.random() < 0.01:
            corpus = [*corpus, data][-_KEPT:]


def by_coverage(atheris: Any, target: Target, fuzzer: Fuzzer, seed: int) -> None:
    """Let libFuzzer choose the inputs, by the lines of Python that they reach; it never returns."""
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    for number, data in enumerate(target.seeds):
        (corpus / f"{number:04}").write_bytes(data)

    def one(data: bytes) -> None:
        fuzzer.try_one(data)
        if fuzzer.over:
            _end(fuzzer)

    def custom(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if target.mutate is None or chance.random() < 0.3:
            return target.repair(bytes(atheris.Mutate(data, max_size)))[:max_size]
        return mutated(target, data, chance)[:max_size]

    options = {
        "seed": seed,
        "max_len": _MAX_BYTES,
        "rss_limit_mb": 0,
        "timeout": 600,
        "report_slow_units": 600,
    }
    options |= {"artifact_prefix": f"{corpus}-", "verbosity": 0}
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=custom)
    atheris.Fuzz()


def _end(fuzzer: Fuzzer) -> NoReturn:
    sys.__stdout__.write(fuzzer.report() + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]
    # Not sys.exit: libFuzzer would take it for a crash, and threads of a server may still run.
    import os

    os._exit(1 if fuzzer.report().find('"findings": {}') < 0 else 0)


def _load(name: str, atheris: Any) -> Target:
    """Import a parser's module, and what it parses with, so that atheris sees the lines that are reached."""
    if atheris is None:
        return importlib.import_module(f"tools.fuzz.{name}").target()  # type: ignore[no-any-return]
    with atheris.instrument_imports(include=["inpaint", "server", "PIL"]):
        return importlib.import_module(f"tools.fuzz.{name}").target()  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("parser", choices=PARSERS)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for reproducers; a new one below TMPDIR by default")
    parser.add_argument(
        "--once", type=Path, metavar="INPUT", help="run one reproducer, and let its error show"
    )
    parser.add_argument("--no-coverage", action="store_true", help="mutate the seeds only, without atheris")
    chosen = parser.parse_args()
    atheris = None if chosen.no_coverage or chosen.once else _atheris()
    target = _load(chosen.parser, atheris)
    if chosen.once:
        sys.stderr.write(f"{target.one(chosen.once.read_bytes())}\n")
        return
    out = chosen.out or Path(tempfile.mkdtemp(prefix=f"fuzz-{chosen.parser}-"))
    signal.signal(signal.SIGALRM, _too_slow)
    fuzzer = Fuzzer(target, Findings(out), 60 * chosen.minutes)
    if atheris is not None:
        by_coverage(atheris, target, fuzzer, chosen.seed)
    by_chance(target, fuzzer, chosen.seed)
    _end(fuzzer)


def _atheris() -> Any:
    try:
        return importlib.import_module("atheris")
    except ImportError:
        sys.stderr.write("atheris is not installed: mutating the seeds without looking at coverage\n")
        return None


if __name__ == "__main__":
    main()
