"""The page of a check: for each step its targets, its figures and a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from tools.gpu_check.run import Run
from tools.gpu_check.steps import Step, Target

REHEARSAL = (
    "**This is a rehearsal on a CPU with the demo model. It shows that every step runs and that this page is "
    "written; no figure on it says anything about a GPU.**"
)


def verdict(target: Target, result: Mapping[str, Any]) -> tuple[str, str]:
    """Return a line's figure and its verdict."""
    value = target.figure(result["figures"])
    shown = "–" if value is None else f"{value:.3g}"
    if result["state"] != "done":
        return shown, result["state"]
    if result["rehearsal"]:
        return shown, "rehearsed"
    if value is None:
        return shown, "not measured"
    kept = target.kept(value)
    return shown, "measured" if kept is None else "good" if kept else "**missed**"


def write(run: Run, steps: Sequence[Step], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page in Markdown; a step without a result is said not to have run."""
    lines = ["# GPU check", "", f"{run.device_name}, commit {run.commit}.", ""]
    if run.rehearsal:
        lines += [REHEARSAL, ""]
    lines += ["| step | what | target | figure | verdict |", "|---|---|---|---|---|"]
    for step in steps:
        for target in step.targets:
            result = results.get(step.name)
            shown, said = ("–", "not run") if result is None else verdict(target, result)
            lines.append(f"| {step.name} | {target.what} | {target.text} | {shown} | {said} |")
    lines += ["", "| step | seconds | shows |", "|---|---|---|"]
    for step in steps:
        took = results.get(step.name, {}).get("seconds", "–")
        lines.append(f"| {step.name} | {took} of at most {step.limit_s:g} | {step.learns} |")
    return "\n".join(lines) + "\n"
