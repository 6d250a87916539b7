"""The fuzzer: it finds what is wrong and keeps it, and the parsers hold for a few inputs of each kind."""

import importlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools.fuzz.__main__ import PARSERS, Fuzzer, by_chance, mutated
from tools.fuzz.findings import Findings
from tools.fuzz.mutations import json_changed
from tools.fuzz.safetensors_file import mutated as safetensors_mutated
from tools.fuzz.safetensors_file import packed, repaired
from tools.fuzz.target import Target

QUICK = ("pictures", "prompts", "metadata", "checkpoints")  # the others are tried where their fixtures are


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    """Return an empty folder of findings."""
    return Findings(tmp_path / "found")


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Give the signal back."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_finding_is_kept_once_with_its_input(findings: Findings, tmp_path: Path) -> None:
    """A thousand inputs for one bug are one file."""

    def one(data: bytes) -> str:
        if data[:1] == b"x":
            raise ValueError("wrong")
        return "fine"

    fuzzer = Fuzzer(Target([b"a"], one), findings, 60)
    assert [fuzzer.try_one(data) for data in (b"a", b"x1", b"x2")] == ["fine", "finding", "finding"]
    report = json.loads(fuzzer.report())
    assert (report["runs"], report["outcomes"]) == (3, {"finding": 2, "fine": 1})
    assert list(report["findings"].values()) == [2]
    inputs = [path for path in (tmp_path / "found").iterdir() if not path.suffix]
    assert [path.read_bytes() for path in inputs] == [b"x1"]
    assert "ValueError: wrong" in inputs[0].with_suffix(".txt").read_text()


def test_bugs_at_two_places_are_two_findings(findings: Findings) -> None:
    """The second is not hidden by the first."""
    from inpaint.prompt_weights import parse_prompt
    from inpaint.schedulers import canonical_name

    def one(data: bytes) -> str:
        parse_prompt(None) if data == b"1" else canonical_name(None)  # type: ignore[arg-type]
        return "fine"

    fuzzer = Fuzzer(Target([], one), findings, 60)
    for data in (b"1", b"2", b"1"):
        fuzzer.try_one(data)
    assert sorted(findings.places.values()) == [1, 2]


def test_a_slow_input_is_a_finding(findings: Findings) -> None:
    """An endless loop ends."""
    from tools.fuzz.__main__ import _too_slow

    def one(data: bytes) -> str:
        while data:
            pass
        return "fine"

    signal.signal(signal.SIGALRM, _too_slow)
    fuzzer = Fuzzer(Target([], one, slow_s=0.05), findings, 60)
    assert [fuzzer.try_one(data) for data in (b"", b"x")] == ["fine", "finding"]
    assert next(iter(findings.places)).startswith("Slow at")


def test_an_exit_is_a_finding(findings: Findings) -> None:
    """A parser that ends the process is as bad as one that raises."""

    def one(_: bytes) -> str:
        raise SystemExit(0)

    assert Fuzzer(Target([], one), findings, 60).try_one(b"") == "finding"


def test_the_same_seed_tries_the_same_inputs(findings: Findings) -> None:
    """A run can be repeated."""
    tried: list[list[bytes]] = []
    for _ in range(2):
        seen: list[bytes] = []

        def one(data: bytes, seen: list[bytes] = seen) -> str:
            seen.append(data)
            return "fine"

        class Counted(Fuzzer):
            """A run that ends after a number of inputs."""

            @property
            def over(self) -> bool:
                return self.outcomes.total() >= 300

        target = Target([b"one", b"two", b'{"a": [1, 2]}'], one)
        by_chance(target, Counted(target, findings, 60), seed=3)
        tried.append(seen)
    assert tried[0] == tried[1]
    assert len(set(tried[0])) > 200


def test_json_is_changed_in_every_way() -> None:
    """A key goes, comes or changes; a value becomes another kind."""
    document = {"a": 1, "b": [1, 2, {"c": "x"}]}
    changed = [json_changed(document, random.Random(seed)) for seed in range(300)]
    assert any("a" not in each for each in changed if isinstance(each, dict))
    assert any(len(each) == 3 for each in changed if isinstance(each, dict))
    assert any(isinstance(each, dict) and isinstance(each.get("a"), str) for each in changed)
    assert document == {"a": 1, "b": [1, 2, {"c": "x"}]}


def test_a_changed_safetensors_file_is_mostly_one() -> None:
    """Else nothing behind the header's check would be reached."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = packed({"a.lora_down.weight": [2, 3], "a.lora_up.weight": [4, 2], "a.alpha": []})
    assert set(load(file)) == {"a.lora_down.weight", "a.lora_up.weight", "a.alpha"}
    readable = 0
    for seed in range(200):
        try:
            load(safetensors_mutated(file, random.Random(seed)))
        except SafetensorError:
            continue
        readable += 1
    assert 40 <= readable < 200
    assert load(repaired(b"\0" * 8 + file[8:]))


@pytest.mark.parametrize("name", QUICK)
def test_a_parser_raises_its_own_errors_only(name: str, findings: Findings) -> None:
    """The seeds, and mutations of them."""
    target = importlib.import_module(f"tools.fuzz.{name}").target()
    seeds, chance = list(target.seeds), random.Random(1)
    fuzzer = Fuzzer(target, findings, 600)
    for number in range(100):
        data = seeds[number % len(seeds)]
        fuzzer.try_one(data if number < len(seeds) else mutated(target, data, chance))
    assert not findings.places, json.loads(fuzzer.report())
    assert len(fuzzer.outcomes) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PARSERS if name not in QUICK])
def test_a_parser_is_run_as_a_program(name: str, tmp_path: Path) -> None:
    """The report is one line of JSON, and the exit code says whether something was found."""
    command = [
        sys.executable,
        "-m",
        "tools.fuzz",
        name,
        "--minutes",
        "0.02",
        "--no-coverage",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    report = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, report["findings"]) == (0, {}), done.stderr[-2000:]
    assert report["runs"] >= 5
