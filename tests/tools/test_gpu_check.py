"""The GPU check: its order, its limits, and a page that says no more than what was measured."""

import argparse
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tools.gpu_check import __main__ as program
from tools.gpu_check import checks, page
from tools.gpu_check.run import Run
from tools.gpu_check.steps import STEPS, Step, Target

FIGURES = (
    "import json, pathlib, sys; from time import sleep; "
    "pathlib.Path(sys.argv[1]).write_text(json.dumps({'calls': 1}));"
)


def step(name: str = "parts", limit_s: float = 60, **more: Any) -> Step:
    return Step(name, "something", limit_s, ("json.tool",), ("json.tool",), **more)


def a_run(folder: Path, device: str = "cuda") -> Run:
    return Run("abc1234", device, "CPU" if device == "cpu" else "NVIDIA H200", folder)


def command(run: Run, of: Step, then: str = "") -> list[str]:
    """Return a program that writes figures as a step does, and goes on with ``then``."""
    return [sys.executable, "-c", FIGURES + then, str(run.folder / f".{of.name}.figures.json")]


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_the_most_telling_steps_come_first() -> None:
    """A rented card may be gone after ten minutes; then at least tests and speed are known."""
    order = "tests parts exact fp8 small memory throughput out-of-memory device-assert sizes"
    assert [step.name for step in STEPS] == order.split()
    assert all(step.limit_s <= 600 for step in STEPS)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("of", STEPS, ids=lambda step: step.name)
def test_every_command_is_one_that_its_program_takes(
    of: Step, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong option would be found on the rented card, where every minute is paid for."""
    _, _, module, *options = of.command(device, tmp_path / "out.json")

    def error(self: argparse.ArgumentParser, text: str) -> None:
        raise LookupError(text)

    monkeypatch.setattr(argparse.ArgumentParser, "error", error)
    monkeypatch.setattr(sys, "argv", [module, *options, "--no-such-option"])
    with pytest.raises(LookupError, match=r"^unrecognized arguments: --no-such-option$"):
        import_module(module).main()


def test_a_step_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """A bench starts processes of its own; one that stays would keep the GPU's memory from later steps."""
    run, of, child = a_run(tmp_path), step(limit_s=5), tmp_path / "child"
    hang = (
        "import subprocess; "
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(child)!r}).write_text(str(p.pid)); sleep(600)"
    )
    result = run.take(of, command(run, of, hang))
    assert result["state"] == "took longer than 5 s"
    assert result["figures"] == {"calls": 1}  # what it wrote before is kept
    process, until = int(child.read_text("ascii")), time.monotonic() + 10
    while is_running(process) and time.monotonic() < until:
        os.sched_yield()
    assert not is_running(process)


def test_a_step_that_fails_says_what_it_printed(tmp_path: Path) -> None:
    """The machine is gone by the time its failures are read."""
    run, of = a_run(tmp_path), step()
    result = run.take(of, command(run, of, "sys.exit('no room on the card')"))
    assert result["state"] == "failed with status 1"
    assert "no room on the card" in result["output"]


def test_a_check_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Half an hour is paid for; what is done already is not done again, unless commit or card are others."""
    run, of = a_run(tmp_path), step()
    assert run.kept(of) is None
    done = run.take(of, command(run, of))
    assert run.kept(of) == done
    assert Run("other", "cuda", "NVIDIA H200", tmp_path).kept(of) is None
    assert Run("abc1234", "cuda", "NVIDIA L4", tmp_path).kept(of) is None
    whole = run.path(of).read_text("utf-8")
    run.path(of).write_text(whole[:-20], "utf-8")
    assert run.kept(of) is None


def test_finished_steps_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--again`` is the way to repeat a measurement."""
    ran: list[str] = []

    def take(self: Run, of: Step) -> dict[str, Any]:
        ran.append(of.name)
        found = {"commit": self.commit, "device": self.device_name, "state": "done", "rehearsal": True}
        self.path(of).write_text(json.dumps({**found, "seconds": 1, "figures": {}}), "utf-8")
        return {**found, "seconds": 1, "figures": {}}

    monkeypatch.setattr(Run, "take", take)
    run = a_run(tmp_path, "cpu")
    program.check(run, ["tests", "sizes"], again=False)
    program.check(run, ["tests", "parts", "sizes"], again=False)
    assert ran == ["tests", "sizes", "parts"]
    program.check(run, ["tests"], again=True)
    assert ran[3:] == ["tests"]
    assert (
        "| exact | seconds a picture, exact | ≤ 0.85 | – | not run |"
        in (tmp_path / "gpu-check.md").read_text()
    )


@pytest.mark.parametrize(
    ("figures", "state", "device", "line"),
    [
        ({"x": 0.8}, "done", "cuda", "| ≤ 0.85 | 0.8 | good |"),
        ({"x": 0.9}, "done", "cuda", "| ≤ 0.85 | 0.9 | **missed** |"),
        ({}, "done", "cuda", "| ≤ 0.85 | – | not measured |"),
        ({"x": 0.8}, "took longer than 9 s", "cuda", "| ≤ 0.85 | 0.8 | took longer than 9 s |"),
        ({"x": 0.8}, "done", "cpu", "| ≤ 0.85 | 0.8 | rehearsed |"),
    ],
)
def test_a_verdict_is_no_better_than_its_figure(
    figures: dict[str, float], state: str, device: str, line: str, tmp_path: Path
) -> None:
    """A figure of a CPU or of a step that was ended must never be read as a GPU's."""
    of = step(targets=(Target("seconds", lambda found: found.get("x"), most=0.85),))
    run = a_run(tmp_path, device)
    result = {"state": state, "rehearsal": run.rehearsal, "seconds": 1, "figures": figures}
    text = page.write(run, [of], {of.name: result})
    assert f"| parts | seconds {line}" in text
    assert ("no figure on it says anything about a GPU" in text) == (device == "cpu")


def test_the_page_reads_what_the_benches_write() -> None:
    """A renamed key would turn a measured figure into a dash, an hour after the card was given back."""
    latency = {"contenders": {"A": {"ms": {"median": 2000}}, "C": {"ms": {"median": 800}, "syncs": 3}}}
    caps = {"caps": {"8": {"good": True}, "12": {"good": False}}}
    by_name = {step.name: [target.figure for target in step.targets] for step in STEPS}
    assert [read(latency) for read in by_name["exact"]] == [0.8, 0.4, 3]
    assert by_name["memory"][0](caps) == 0.5
    throughput = {"workloads": {"mixed": {"4": {"C": {"pictures_per_s": 3.5}}}}}
    assert by_name["throughput"][0](throughput) == 3.5


def test_tests_are_counted(tmp_path: Path) -> None:
    """pytest's exit status does not tell a skipped test from one that passed."""
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite><testcase name='a'/><testcase name='b'><skipped/></testcase>"
        "<testcase classname='t' name='c'><failure/></testcase></testsuite></testsuites>"
    )
    assert checks.counts(report) == {"passed": 1, "skipped": 1, "failed": 1, "failures": ["t::c"]}


def test_a_machine_without_a_gpu_is_told_how_to_rehearse() -> None:
    """The command is tried before a card is rented."""
    with pytest.raises(SystemExit, match="make gpu-check DEVICE=cpu"):
        program.device_name("cuda:97")


def test_make_passes_the_device_on() -> None:
    """``make gpu-check DEVICE=cpu`` is what the page tells to run."""
    assert "-m tools.gpu_check --device $(DEVICE)" in (ROOT / "Makefile").read_text("utf-8")
