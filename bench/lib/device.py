"""What can be asked of a device: how fast it multiplies, what it holds, how often it was waited for."""

import contextlib
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2**20


def synchronize(device: torch.device | None) -> None:
    """Wait until the device has done what it was given."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_tflops(device: torch.device, dtype: torch.dtype, repeats: int = 13) -> float:
    """TFLOP/s of a square matrix product, the yardstick that a run carries with it."""
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
    """TFLOP of ``work``, 2 per multiply-add, counted while it runs in this thread; eager code only."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with contextlib.ExitStack() as settings:
        if device.type == "cpu":  # the CPU's fused attention is one that the counter does not know
            settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = settings.enter_context(FlopCounterMode(display=False))
        work()
    return float(counter.get_total_flops()) / 1e12


def held_bytes(device: torch.device) -> int:
    """What this process's tensors hold of a GPU now; 0 on a CPU, which shares its memory with all else."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def extra_bytes(work: Callable[[], object], device: torch.device) -> int:
    """How much more of a GPU ``work`` holds at its peak than before it; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    before = held_bytes(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def count_syncs(work: Callable[[], object], device: torch.device) -> int | None:
    """How often ``work``, in whatever thread, makes the CPU wait for the GPU; None on a CPU.

    torch's own count: copies to the CPU, ``.item()``, boolean indexing. Waiting for an event or for the whole
    device on purpose is not in it.
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
    """The device as a person would name it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"{torch.cuda.get_device_name(device)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    return f"{_cpu_name()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} core(s)"


def _cpu_name() -> str:
    with contextlib.suppress(OSError):  # there is no /proc but on Linux
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return "CPU"
