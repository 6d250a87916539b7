"""Peak memory of the engine on GPUs of 6, 8, 12, 16 and 24 GB, simulated by a cap on a larger one.

For each cap a fresh process limits torch to it, takes the plan that such a GPU would get, paints
``--pictures`` (one alone, the others simultaneously) and reports torch's peaks. Good: every picture is
painted, and the peak of the memory that torch *reserved* is under the cap by ``SPARE_GB``, which the CUDA
context and the desktop take of a real card.

A CPU has no such cap, and all processes share its memory: there the bench prints the plan that each cap would
get, paints the demo once with each plan, and reports the process's peak resident memory, with its libraries.

    python -m bench.memory [--device cuda] [--caps 6 8 12 16 24] [--pictures 3] [--side 1024]
    python -m bench.memory --device cpu [--plans resident streamed]
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.lib.contenders import ROOT, conditions, finish, parser
from inpaint.errors import PaintError

CAPS_GB = (6, 8, 12, 16, 24)
SPARE_GB = 0.5  # of each card: 8 GB means a peak of 7.5
_GB = 2**30


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one fresh process."""

    device: str
    model: str
    plan: str
    cap_gb: float | None  # None: no cap
    pictures: int
    side: int | None
    steps: int
    without: tuple[str, ...]  # optimizations


def child(task: Task) -> None:
    """Paint under the cap, in a fresh process, and print one JSON line."""
    import torch

    from bench.lib.device import synchronize
    from bench.lib.jobs import job
    from bench.lib.ours import Mode, engine_on, load
    from inpaint.errors import InpaintError
    from inpaint.gpu_errors import explained
    from inpaint.model.load import pick_device

    device = pick_device(task.device)
    if task.cap_gb is not None:
        total = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, task.cap_gb * _GB / total), device)
    figures: dict[str, Any] = {"plan": task.plan}
    try:
        with explained("{}"):
            model = load(task.model, device, memory=task.plan)
            side = task.side or model.native_size
            requests = [
                job(side, "DDIM", prompt=f"{i}", num_inference_steps=task.steps) for i in range(task.pictures)
            ]
            with engine_on(model, Mode(without=frozenset(task.without))) as ours:
                started = time.perf_counter()
                ours.engine.paint(requests[0])
                synchronize(device)
                figures["alone_s"] = round(time.perf_counter() - started, 3)
                for pending in [ours.engine.submit(request) for request in requests[1:]]:
                    pending.result()
                # Handled by a smaller batch or by tiles.
                figures["out_of_memory"] = ours.engine.stats().out_of_memory
            figures["painted"] = len(requests)
    except InpaintError as error:
        figures["failed"] = " ".join(str(error).split())[:200]
    if device.type == "cuda":
        figures["peak_allocated_gb"] = round(torch.cuda.max_memory_allocated(device) / _GB, 2)
        figures["peak_reserved_gb"] = round(torch.cuda.max_memory_reserved(device) / _GB, 2)
    figures["peak_rss_gb"] = round(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _GB, 2)
    print(json.dumps(figures))


def run_child(task: Task) -> dict[str, Any]:
    """Run a task in a process of its own, because peaks and the cap are of a whole process.

    Raises:
        PaintError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", "--child", json.dumps(asdict(task))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        raise PaintError(f"{task.plan}: the process failed: {done.stderr.strip()[-300:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def is_good(figures: dict[str, Any], cap_gb: float) -> bool:
    """Return True if a card of ``cap_gb`` would have been enough, with room for memory outside torch."""
    return "painted" in figures and figures["peak_reserved_gb"] <= cap_gb - SPARE_GB


def measure_caps(caps: Sequence[float], settings: dict[str, Any]) -> dict[str, Any]:
    """Measure each cap in GB with the plan that it gets, on a GPU."""
    figures: dict[str, Any] = {}
    for cap, plan in plans_by_cap(caps).items():
        found = run_child(Task(**settings, plan=plan, cap_gb=float(cap)))
        figures[cap] = {**found, "good": is_good(found, float(cap))}
        print(
            f"  {cap:>4} GB  " + ", ".join(f"{name} {value}" for name, value in figures[cap].items()),
            flush=True,
        )
    return figures


def measure_plans(plans: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Measure each plan once, without a cap, on a CPU."""
    figures = {}
    for plan in plans:
        figures[plan] = run_child(Task(**settings, plan=plan, cap_gb=None))
        print("  " + ", ".join(f"{name} {value}" for name, value in figures[plan].items()), flush=True)
    return figures


def plans_by_cap(caps: Sequence[float]) -> dict[str, str]:
    """Return cap in GB → the plan that a card with that much free memory gets."""
    from inpaint.memory import choose_plan

    return {f"{cap:g}": choose_plan(int((cap - SPARE_GB) * _GB)).name for cap in caps}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument(
        "--caps", type=float, nargs="+", default=CAPS_GB, help="in GB (default 6 8 12 16 24)"
    )
    options.add_argument(
        "--pictures", type=int, default=3, help="one alone, then the others simultaneously (default 3)"
    )
    options.add_argument(
        "--side", type=int, help="of the picture, in pixels (default: the model's native size)"
    )
    options.add_argument("--steps", type=int, default=4, help="of each picture (default 4)")
    options.add_argument("--plans", nargs="+", help="on a CPU: memory plans to measure (default all)")
    options.add_argument("--without", nargs="+", default=(), help="optimizations to leave out of ours")
    options.add_argument("--child", help="(internal: the work of a process that this program starts)")
    chosen = options.parse_args(arguments)
    if chosen.child:
        child(Task(**json.loads(chosen.child)))
        return

    def run() -> dict[str, Any]:
        from bench.lib.ours import default_model
        from inpaint.memory import PLANS
        from inpaint.model.load import pick_device

        device = pick_device(chosen.device)
        model = default_model(device, chosen.model)
        work = {
            "pictures": chosen.pictures,
            "side": chosen.side,
            "steps": chosen.steps,
            "without": chosen.without,
        }
        settings = {"device": str(device), "model": model, **work}
        plans = plans_by_cap(chosen.caps)
        about = {"model": model, **work, "plans_by_cap": plans, "spare_gb": SPARE_GB}
        if device.type == "cuda":
            print(f"{model} on {device}, capped: GB")
            return conditions("memory", device, **about, caps=measure_caps(chosen.caps, settings))
        print(f"{model} on a CPU, which has no cap: the plan that a GPU would get, {plans}")
        print("peak resident memory of a process with each plan, in GB; most of it is libraries")
        return conditions(
            "memory",
            device,
            **about,
            by_plan=measure_plans(chosen.plans or [p.name for p in PLANS], settings),
        )

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
