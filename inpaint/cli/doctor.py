"""The checks of ``inpaint doctor``."""

import platform
from dataclasses import dataclass
from importlib import metadata

from inpaint.errors import DeviceError, ModelError
from inpaint.weights import listings, models_dir

_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pillow")


_SMALL_CARD = "this GPU is small: fp8 rounds the weights to 8 bit, streamed is exact and slow (--memory)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    fine: bool = True
    advice: str = ""


def examine() -> list[Finding]:
    """Return the findings about this machine that matter before the first picture, most basic first."""
    versions = [f"{name} {metadata.version(name)}" for name in _LIBRARIES]
    return [
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("libraries", ", ".join(versions)),
        *_device(),
        *_models(),
    ]


def _device() -> list[Finding]:
    import torch

    from inpaint.cpu import FULL_SIZE
    from inpaint.drivers import driver_version
    from inpaint.memory import GIB, choose_plan, free_bytes
    from inpaint.model.load import pick_device, pick_dtype

    try:
        device = pick_device()
    except DeviceError as error:
        return [Finding("device", str(error).removeprefix("device: "), fine=False)]
    free = free_bytes(device)
    dtype = str(pick_dtype("auto", device, FULL_SIZE)).removeprefix("torch.")
    if free is None:
        return _cpu(dtype)
    plan = choose_plan(free)
    return [
        Finding("device", f"{torch.cuda.get_device_name(device)}, {free / GIB:.1f} GiB free, {dtype}"),
        Finding("driver", f"{driver_version() or 'unknown'}, CUDA {torch.version.cuda}"),
        Finding(
            "memory plan",
            f"{plan.name}, {plan.max_slots // 2} picture(s) in a step, for SDXL; counted, not measured, "
            f"to need {plan.needs_gib:g} GiB",
            advice="force another with --memory" if plan.unet == "resident" else _SMALL_CARD,
        ),
    ]


def _cpu(dtype: str) -> list[Finding]:
    """Return the findings about the CPU; ``dtype`` is SDXL's on it."""
    import torch

    from inpaint.cpu import bf16_units, cores

    unit = bf16_units()
    why = (
        f"this CPU multiplies in it ({unit})" if unit else "this CPU has no units for bf16 (AVX512-BF16, AMX)"
    )
    threads = min(torch.get_num_threads(), cores())
    advice = "on a CPU, SDXL takes minutes per picture; the demo model takes seconds"
    return [
        Finding("device", f"cpu, {threads} threads; no CUDA GPU", advice=advice),
        Finding(
            "dtype",
            f"{dtype} for SDXL: {why}; float32 for the demo model",
            advice="force another with --dtype",
        ),
    ]


def _models() -> list[Finding]:
    root = models_dir()
    try:
        there = listings(root)
    except ModelError as error:
        return [Finding("models folder", str(error), fine=False)]
    rows = [Finding("models folder", str(root))]
    for listing in there:
        if listing.state == "not installed":
            continue
        damaged = listing.state == "partial"
        advice = f"run: inpaint models fetch {listing.entry.name}" if damaged else ""
        rows.append(Finding("model", f"{listing.entry.name}: {listing.state}", not damaged, advice))
    if len(rows) == 1:
        rows.append(Finding("model", "demo only", advice="run: inpaint models fetch sdxl-inpainting"))
    return rows
