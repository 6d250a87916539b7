"""Seconds from a fresh process to its first picture, and to its full speed.

Every figure is of a separate process, timed from its start by its parent:

- *cli*: ``inpaint run`` on the demo picture, from start to exit, when the picture is on the disk.
- *cold*, *warm*: a Python process with our engine, with an empty cache of compiled code and with the cache of
  the run before. *imported*, *loaded*, then each of ``--pictures``: they get faster when compiled code has
  been swapped in.
- *stock*: the same with the stock pipeline on the same weights, nothing compiled.

    python -m bench.coldstart [--device cuda] [--contenders cli,cold,warm,stock] [--pictures 3]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.lib.contenders import PORTRAIT, ROOT, chosen_contenders, conditions, finish, parser
from inpaint.errors import PaintError, RequestError

CONTENDERS = ("cli", "cold", "warm", "stock")
TARGET_FIRST_S = {"warm": 15.0, "cold": 40.0}  # SDXL on a GPU
TARGET_CLI_S = 12.0  # the demo on two CPU cores
_MASK = PORTRAIT.with_name("portrait_patch_mask.png")
_CACHES = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one fresh process."""

    contender: str
    device: str
    model: str
    pictures: int
    steps: int
    settle_s: float
    without: tuple[str, ...]  # optimizations


def child(task: Task) -> None:
    """Run a task, in a fresh process, and print each stage on a line of its own when it is reached."""
    from bench.lib.jobs import job
    from bench.lib.ours import Mode, engine_on, load
    from bench.lib.stock import Stock
    from inpaint.model.load import pick_device

    _reached("imported")
    model = load(task.model, pick_device(task.device))
    side, steps = model.native_size, task.steps
    requests = [job(side, "DDIM", prompt=f"{i}", num_inference_steps=steps) for i in range(task.pictures + 1)]
    if task.contender == "stock":
        stock = Stock(model)
        _reached("loaded")
        for request in requests[:-1]:
            stock.paint(request)
            _reached("picture")
        return
    with engine_on(model, Mode(without=frozenset(task.without))) as ours:
        _reached("loaded")
        for request in requests[:-1]:
            ours.engine.paint(request)
            _reached("picture")
        # Also for the next process, which must find all of it in the cache.
        ours.settle(task.settle_s)
        _reached("settled")
        ours.engine.paint(requests[-1])
        _reached("settled picture")


def _reached(stage: str) -> None:
    print(stage, flush=True)


def run_child(task: Task, cache: Path) -> dict[str, Any]:
    """Return the seconds since the process was started, by stage, and the seconds of each picture.

    Raises:
        PaintError: the process failed.
    """
    cache.mkdir(exist_ok=True)
    complaints = cache / "stderr.txt"  # a pipe that is not read would fill up and stop the process
    environment = os.environ | {name: str(cache / name.lower()) for name in _CACHES}
    started = time.perf_counter()
    with (
        complaints.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "bench.coldstart", "--child", json.dumps(asdict(task))],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        marks = [(line.strip(), time.perf_counter() - started) for line in process.stdout]
    if process.returncode:
        raise PaintError(f"{task.contender}: the process failed: {complaints.read_text().strip()[-300:]}")
    return _read(marks)


def _read(marks: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Turn a process's lines and the seconds at which they came into its figures."""
    seconds = dict(reversed(marks))  # the first picture's, not the last's
    figures: dict[str, Any] = {
        "imported_s": round(seconds["imported"], 3),
        "loaded_s": round(seconds["loaded"], 3),
        "first_picture_s": round(seconds["picture"], 3),
    }
    each = [round(now - before, 3) for (_, before), (stage, now) in pairwise(marks) if "picture" in stage]
    if "settled" in seconds:
        figures |= {"settled_s": round(seconds["settled"], 3), "settled_picture_s": each.pop()}
    return figures | {"pictures_s": each}


def run_cli(device: str, model: str, steps: int, folder: Path) -> dict[str, Any]:
    """Time ``inpaint run`` from the process's start to its end, with the picture on the disk."""
    output = folder / "painted.png"
    words = [str(PORTRAIT), "--mask", str(_MASK), "--prompt", "a blue heart", "--seed", "4"]
    options = ["--model", model, "--device", device, "--steps", str(steps), "--output", str(output)]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "inpaint", "run", *words, *options, "--overwrite"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode or not output.exists():
        raise PaintError(f"inpaint run failed: {done.stderr.strip()[-300:]}")
    return {"written_s": round(seconds, 3)}


def measure(contenders: Sequence[str], runs: int, task: Mapping[str, Any]) -> dict[str, Any]:
    """Measure each contender in each run, in one order: *warm* uses the code that *cold* compiled."""
    figures: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for contender in contenders:
                if contender == "cli":
                    found = run_cli(task["device"], task["model"], task["steps"], Path(folder))
                else:
                    # Stock compiles nothing; with its own folder it cannot use our compiled code.
                    cache = Path(folder) / ("stock" if contender == "stock" else "ours")
                    found = run_child(Task(contender, **task), cache)
                figures[contender].append(found)
                print(f"  {contender:<6}" + "".join(f" {k} {v}" for k, v in found.items()), flush=True)
    return {contender: {"median": _medians(found), "runs": found} for contender, found in figures.items()}


def _medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = [name for name in runs[0] if name != "pictures_s"]
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument(
        "--contenders", default=",".join(CONTENDERS), help=f"of {', '.join(CONTENDERS)} (default all)"
    )
    options.add_argument("--pictures", type=int, default=3, help="that each process paints (default 3)")
    options.add_argument("--steps", type=int, default=25, help="of each picture (default 25)")
    options.add_argument("--runs", type=int, default=3, help="processes of each contender (default 3)")
    options.add_argument(
        "--settle-s", type=float, default=600, help="to wait for compiled code (default 600)"
    )
    options.add_argument("--without", nargs="+", default=(), help="optimizations to leave out of ours")
    options.add_argument("--child", help="(internal: the work of a process that this program starts)")
    chosen = options.parse_args(arguments)
    if chosen.child:
        child(Task(**json.loads(chosen.child)))
        return

    def run() -> dict[str, Any]:
        from bench.lib.ours import FULL_SIZE, default_model
        from inpaint.model.load import pick_device

        device = pick_device(chosen.device)
        model = default_model(device, chosen.model)
        contenders = list(chosen_contenders(chosen.contenders, CONTENDERS))
        if "warm" in contenders and "cold" not in contenders:
            raise RequestError("contenders", "warm needs cold, too: it uses the code that cold compiles")
        missing = {"cli": "it has no full-size model"} if model == FULL_SIZE else {}
        contenders = [contender for contender in contenders if contender not in missing]
        print(f"{model} on {device}: seconds since the process was started")
        settings = {"pictures": chosen.pictures, "steps": chosen.steps, "settle_s": chosen.settle_s}
        settings["without"] = chosen.without
        figures = measure(contenders, chosen.runs, {"device": str(device), "model": model, **settings})
        targets = {"first_picture_s": TARGET_FIRST_S, "cli_s": TARGET_CLI_S}
        about = {"model": model, **settings, "runs": chosen.runs, "targets": targets, "left_out": missing}
        return conditions("coldstart", device, **about, contenders=figures)

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
