"""Which parts of a model stay on the GPU, chosen from the free memory; and how to hold nothing twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from inpaint.errors import RequestError

GIB = 1024**3
_SLICE = 100  # tensors


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How one model is spread over a device; the thresholds are for SDXL in 16 bit (8 GiB resident)."""

    name: str
    needs_gib: float  # free memory below which the next plan is taken
    text_encoders_resident: bool = True
    vae_resident: bool = True
    vae_tiled: bool = False
    unet: str = "resident"  # or "fp8" (stored in 8 bit, computed in 16) or "streamed" (block by block)


PLANS: tuple[MemoryPlan, ...] = (
    MemoryPlan("resident", 14),
    MemoryPlan("offload-text", 9, text_encoders_resident=False),
    MemoryPlan("fp8", 6, text_encoders_resident=False, vae_resident=False, vae_tiled=True, unet="fp8"),
    MemoryPlan(
        "streamed", 0, text_encoders_resident=False, vae_resident=False, vae_tiled=True, unet="streamed"
    ),
)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of ``device`` in bytes, None where everything shares one memory (a CPU)."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def empty_cache(device: torch.device) -> None:
    """Give cached blocks back to the driver, after an out-of-memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def choose_plan(free: int | None, name: str = "auto") -> MemoryPlan:
    """The plan called ``name``, or the first that fits into ``free`` bytes.

    Raises:
        RequestError: no such plan.
    """
    by_name = {plan.name: plan for plan in PLANS}
    if name != "auto":
        if name not in by_name:
            raise RequestError("memory", f"must be auto or one of {', '.join(by_name)}, not {name!r}")
        return by_name[name]
    return next(plan for plan in PLANS if free is None or free >= plan.needs_gib * GIB)


def place(
    plan: MemoryPlan, device: torch.device, dtype: torch.dtype, unet: Any, vae: Any, encoders: list[Any]
) -> None:
    """Move a loaded model's parts to where ``plan`` wants them to rest."""
    for encoder in encoders:
        encoder.to(device if plan.text_encoders_resident else "cpu")
    vae.to(device if plan.vae_resident else "cpu")
    if plan.unet == "fp8":
        # Stored in 8 bit, cast back block by block: half the memory for a slower step.
        unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        unet.to(device)
    elif plan.unet == "streamed":
        unet.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",
        )
    else:
        unet.to(device)


@contextmanager
def tiled(vae: Any) -> Iterator[None]:
    """Decode in tiles for the length of the block: far less memory, blends at the tiles' borders."""
    # Only ever around a decode: encoded in tiles, a picture's latents differ from what the UNet learnt.
    # diffusers tiles only above sample_size, which this VAE never exceeds at 1024²; half of it does.
    vae.tile_sample_min_size = vae.config.sample_size // 2
    vae.tile_latent_min_size = vae.tile_sample_min_size // 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


def recast(part: torch.nn.Module, file: Path, dtype: torch.dtype) -> None:
    """Cast a module to ``dtype`` that was loaded from ``file`` as it is stored there.

    A loaded module's tensors are pages of its mapped file. Casting it whole keeps them all until the last one
    is done: a peak of 1.55 × SDXL's weights. Opening the file anew for a slice at a time, 1.27 ×.
    """
    parameters = dict(part.named_parameters())
    names = list(parameters)
    for start in range(0, len(names), _SLICE):
        with safe_open(file, framework="pt") as pages:
            for name in names[start : start + _SLICE]:
                parameters[name].data = pages.get_tensor(name).to(dtype)


@contextmanager
def visiting(module: Any, device: torch.device) -> Iterator[None]:
    """Have an offloaded module on ``device`` for the length of the block."""
    home = module.device
    if home == device:
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.to(home)


@contextmanager
def computing_in(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """Have a module in another dtype for the length of the block."""
    home = module.dtype
    if home == dtype:
        yield
        return
    module.to(dtype=dtype)
    try:
        yield
    finally:
        module.to(dtype=home)
