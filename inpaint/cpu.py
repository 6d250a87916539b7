"""CPUs: the cores that this process may use, how torch's threads wait, and what is fast on a CPU.

libgomp, which runs torch's threads, reads its variables once, when torch is imported; so nothing here imports
torch before it is asked for units.
"""

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

FULL_SIZE = 500_000_000  # parameters of a UNet from which on it counts as large; SDXL's has 2.6e9
# A thread that waits for the others looks this often (about 50 µs) before it sleeps. libgomp's own 300,000
# are 10 ms, for which a waiting thread keeps the core that the thread it waits for needs.
_SPINS = "1000"
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def prepare_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Bound how long torch's threads wait actively, unless the caller's variables say how they wait.

    Call it before torch is imported; worker processes inherit the variable.
    """
    if not any(name in environ for name in _WAITING):
        environ["GOMP_SPINCOUNT"] = _SPINS


def threads_are_chosen(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Return whether the caller's variables say how many threads torch has."""
    return any(name in environ for name in _THREADS)


def cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may keep busy: those it may run on, within its quota.

    Args:
        root: where /proc and /sys are; for tests.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas in cores of this process's control groups, of both versions, and of their parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return  # no Linux, or no /proc
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / controllers
        # A container sees its own group as the root of the mount, whatever path the kernel names.
        own = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(own), -1, -1):
            group = mounted.joinpath(*own[:depth])
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            yield from _quota(*(group / file for file in files))


def _quota(*files: Path) -> Iterator[float]:
    """Yield the quota in cores that a control group's files hold; nothing if there is none."""
    try:
        quota, period = (int(word) for file in files for word in file.read_text("ascii").split())
    except (OSError, ValueError):  # no such group here; or "max", no limit
        return
    if quota > 0 and period > 0:
        yield quota / period


def bf16_units() -> str:
    """Return the unit of this CPU that multiplies bf16 ("AMX", "AVX512-BF16"); empty if it has none."""
    import torch

    for name, unit in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16")):
        supported = getattr(torch.cpu, name, None)  # private names, which another torch may lack
        if supported is not None and supported():
            return unit
    return ""


def maker() -> str:
    """Return this CPU's maker as the kernel spells it ("GenuineIntel"); empty if it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
