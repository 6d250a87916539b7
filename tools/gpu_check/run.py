"""Runs one step as a process within its limit, and keeps what came out, also of one that failed."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.gpu_check.steps import Step

_TAIL = 2000  # characters of a failed step's output that are kept
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """The conditions of a whole check: results count only for the same commit and device."""

    commit: str
    device: str  # the option: cpu, cuda, cuda:1
    device_name: str
    folder: Path

    @property
    def rehearsal(self) -> bool:
        """Whether no GPU takes part, so that no figure says anything about one."""
        return self.device == "cpu"

    def path(self, step: Step) -> Path:
        """Return the file of a step's result."""
        return self.folder / f"{step.name}.json"

    def kept(self, step: Step) -> dict[str, Any] | None:
        """Return the result of a step that was run to its end before, for this commit and device."""
        try:
            found: dict[str, Any] = json.loads(self.path(step).read_text("utf-8"))
        except (OSError, ValueError):  # none yet, or an earlier check was killed while it wrote
            return None
        same = (found.get("commit"), found.get("device")) == (self.commit, self.device_name)
        return found if same else None

    def take(self, step: Step, command: list[str] | None = None) -> dict[str, Any]:
        """Run a step and keep its result; tests give another ``command``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        figures, log = self.folder / f".{step.name}.figures.json", self.folder / f"{step.name}.log"
        figures.unlink(missing_ok=True)
        started = time.monotonic()
        state = _run(command or step.command(self.device, figures), log, step.limit_s)
        result = {
            "step": step.name,
            "commit": self.commit,
            "device": self.device_name,
            "rehearsal": self.rehearsal,
            "state": state,
            "seconds": round(time.monotonic() - started, 1),
            "figures": _figures(figures),
        }
        if state != "done":
            result["output"] = log.read_text("utf-8", "replace")[-_TAIL:]
        # Last and whole: a check that is killed before has no result of this step, and runs it again.
        figures.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        figures.replace(self.path(step))
        return result


def _run(command: list[str], log: Path, limit_s: float) -> str:
    """Return ``done``, or how the command ended otherwise; nothing that it started is left."""
    with log.open("wb") as out:
        # A session of its own, so that a step that hangs is ended together with the processes it started.
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"took longer than {limit_s:g} s"
        finally:
            _end(process)
    return "done" if status == 0 else f"failed with status {status}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it started, first politely."""
    for number, grace_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            continue


def _figures(path: Path) -> dict[str, Any]:
    """Return what the step wrote, also before it failed; nothing if it wrote nothing whole."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found
