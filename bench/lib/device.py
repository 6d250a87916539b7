"""Measurements of a device: its matrix products a second, its memory, its synchronisations."""

import contextlib
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from inpaint import cuda

MIB = 2**20


def synchronize(device: torch.device | None) -> None:
    """Wait until the device has finished its queued work."""
    if device is not None:
        cuda.runtime.synchronize(device)  # not while an engine records a graph


def matmul_tflops(device: torch.device, dtype: torch.dtype, repeats: int = 13) -> float:
    """Measure the TFLOP/s of a square matrix product, the yardstick in each run's figures."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        _ = a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds[3:]) / 1e12


def counted_tflop(work: Callable[[], object], device: torch.device) -> float:
    """Count the TFLOP of ``work``, 2 per multiply-add, while it runs in this thread; eager code only."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with contextlib.ExitStack() as settings:
        if device.type == "cpu":  # the counter does not know the CPU's fused attention
            settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = settings.enter_context(FlopCounterMode(display=False))
        work()
    return float(counter.get_total_flops()) / 1e12


def held_bytes(device: torch.device) -> int:
    """Return the bytes of this process's tensors on a GPU; 0 on a CPU, whose memory others use, too."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def extra_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Return the bytes that ``work`` adds at its peak to those held on a GPU before; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    before = held_bytes(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def count_syncs(work: Callable[[], object], device: torch.device) -> int | None:
    """Count how often ``work``, in any thread, makes the CPU wait for the GPU; None on a CPU.

    This is torch's own count: copies to the CPU, ``.item()``, boolean indexing. It does not include explicit
    waits for an event or for the whole device.
    """
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def device_line(device: torch.device) -> str:
    """Return the device's name and its free memory or number of threads."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"{torch.cuda.get_device_name(device)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    return f"{_cpu_name()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} core(s)"


def _cpu_name() -> str:
    with contextlib.suppress(OSError):  # only Linux has /proc
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return "CPU"
