"""Check the engine on a GPU in an hour at most: tests, speed, memory, failures; one page of verdicts.

Each step's result is a JSON file, and the page is written after each step. A check that was interrupted goes
on where it stopped: a step with a result for this commit and device is not run again, unless ``--again``.
With ``--device cpu`` all of it is rehearsed with the demo model, in a few minutes.

    python -m tools.gpu_check [--device cuda] [--out bench/results/gpu-check] [--only exact fp8] [--again]
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.gpu_check import page
from tools.gpu_check.run import Run
from tools.gpu_check.steps import STEPS

ROOT = Path(__file__).parents[2]
_NAME = "import sys, torch; print(torch.cuda.get_device_name(sys.argv[1]))"


def device_name(device: str) -> str:
    """Return the GPU's name, asked for in a process that ends: a CUDA context takes memory from the steps.

    Raises:
        SystemExit: there is no such GPU.
    """
    if device == "cpu":
        return "CPU"
    asked = subprocess.run([sys.executable, "-c", _NAME, device], capture_output=True, text=True, check=False)
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        sys.exit(f"torch cannot use {device}: {why}\nRehearse without a GPU: make gpu-check DEVICE=cpu")
    return asked.stdout.strip()


def commit() -> str:
    """Return this tree's commit, with ``-dirty`` if it has changes."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps and write the page."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal (default cuda)"
    )
    options.add_argument("--out", type=Path, help="folder of the results (default bench/results/gpu-check)")
    names = [step.name for step in STEPS]
    options.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="STEP", help=", ".join(names)
    )
    options.add_argument("--again", action="store_true", help="also run steps that have a result already")
    chosen = options.parse_args(arguments)
    folder = chosen.out or ROOT / "bench" / "results" / "gpu-check"
    if chosen.out is None and chosen.device == "cpu":
        folder = folder / "rehearsal"
    check(Run(commit(), chosen.device, device_name(chosen.device), folder), chosen.only, again=chosen.again)


def check(run: Run, only: Sequence[str], *, again: bool) -> None:
    """Run those steps of ``only`` that have no result yet; write the page after each."""
    results = {step.name: found for step in STEPS if (found := run.kept(step))}
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "gpu-check.md"
    for step in STEPS:
        if step.name in only and (again or step.name not in results):
            print(f"{step.name}: {step.learns} (at most {step.limit_s:g} s)", flush=True)
            results[step.name] = run.take(step)
            print(f"  {results[step.name]['state']} in {results[step.name]['seconds']} s", flush=True)
        path.write_text(page.write(run, STEPS, results), "utf-8")
    print(path)


if __name__ == "__main__":
    main()
