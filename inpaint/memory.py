"""Memory plans, the placement of a model's parts by them, and casts that keep the peak of memory low."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from inpaint import cuda
from inpaint.errors import RequestError

GIB = 1024**3
_SLICE = 100  # tensors that are cast from one opening of a file


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A placement of one model's parts, and the calls that there is memory for.

    The thresholds are for SDXL in 16 bit at 1024². They are counted, not measured, by ``tools.memory_table``.
    """

    name: str
    needs_gib: float  # with less free memory the next plan is chosen
    fp32_vae_gib: float = 0.0  # needed in addition by a VAE in fp32
    text_encoders_resident: bool = True
    vae_resident: bool = True
    vae_tiled: bool = False
    unet: str = "resident"  # or "fp8" (stored in 8 bit, computed in 16) or "streamed" (layer by layer)
    max_slots: int = 16  # in one UNet call
    deep_caches: bool = False  # of the UNet's deepest level, for near pictures
    prepared_slots: int = 8  # in a compiled or recorded call, which takes memory of its own; 0: there is none

    @property
    def overlapped(self) -> bool:
        """True if there is memory to encode and decode while the UNet runs."""
        return self.max_slots > 2


_SMALL = MemoryPlan(
    "tiled",
    7.2,
    fp32_vae_gib=1.3,
    text_encoders_resident=False,
    vae_resident=False,
    vae_tiled=True,
    max_slots=2,
    prepared_slots=0,
)
PLANS: tuple[MemoryPlan, ...] = (
    MemoryPlan("resident", 17.2, deep_caches=True),
    MemoryPlan("resident-8", 14.2, max_slots=8),
    MemoryPlan("offload-text", 11.1, text_encoders_resident=False, max_slots=4, prepared_slots=2),
    _SMALL,
    replace(_SMALL, name="fp8", needs_gib=4.9, unet="fp8"),
    replace(_SMALL, name="streamed", needs_gib=0, unet="streamed"),
)


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of ``device`` in bytes; None for a CPU, which has no memory of its own."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def empty_cache(device: torch.device) -> None:
    """Return torch's cached blocks to the driver, after an out-of-memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def choose_plan(free: int | None, name: str = "auto", *, vae_in_fp32: bool = False) -> MemoryPlan:
    """Return the plan called ``name``, or for ``auto`` the first that fits.

    Args:
        free: free memory in bytes; everything fits if None.
        name: a plan's name, or ``auto``.
        vae_in_fp32: the VAE overflows in 16 bit.

    Raises:
        RequestError: there is no such plan.
    """
    by_name = {plan.name: plan for plan in PLANS}
    if name != "auto":
        if name not in by_name:
            raise RequestError("memory", f"must be auto or one of {', '.join(by_name)}, not {name!r}")
        return by_name[name]
    for plan in PLANS[:-1]:
        needed = plan.needs_gib + (plan.fp32_vae_gib if vae_in_fp32 else 0)
        if free is None or free >= needed * GIB:
            return plan
    return PLANS[-1]


def place(
    plan: MemoryPlan, device: torch.device, dtype: torch.dtype, unet: Any, vae: Any, encoders: list[Any]
) -> None:
    """Move a loaded model's parts to the devices that ``plan`` says."""
    for encoder in encoders:
        _put(encoder, device, resident=plan.text_encoders_resident)
    if cuda.runtime.on(device) and vae.dtype != torch.float32:
        # NHWC, as tensor cores compute; here, since what is done to an offloaded module on a visit is lost.
        vae.to(memory_format=torch.channels_last)
    _put(vae, device, resident=plan.vae_resident)
    if plan.unet == "fp8":
        # Stored in 8 bit and cast back block by block: half the memory, slower steps.
        unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        unet.to(device)
    elif plan.unet == "streamed":
        unet.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            # By layers: of SDXL's blocks two and the middle one would be there at a time, 5 GiB of them.
            offload_type="leaf_level",
            use_stream=cuda.runtime.on(device),
        )
        _call_once(unet, device, dtype)
    else:
        unet.to(device)


def _put(module: Any, device: torch.device, *, resident: bool) -> None:
    """Move a module to ``device``, or to pinned main memory, from which :func:`visiting` takes it."""
    module.to(device if resident else "cpu")
    if not resident:
        for tensor in _tensors(module):
            tensor.data = cuda.runtime.pinned(tensor.data, device)


def _call_once(unet: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Make a UNet call whose result is thrown away, and wait for it.

    In the first call of a streamed UNet, diffusers 0.42.1 does not wait for the copies of what belongs to no
    block (conv_in, embeddings, conv_out), and may compute with half-copied weights. Later calls are ordered.
    """
    config = unet.config
    ids = 6
    pooled = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
    side = 2 ** (len(config.block_out_channels) - 1)  # the smallest that every block can halve

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(1, *shape, device=device, dtype=dtype)

    with torch.inference_mode():
        added = {"text_embeds": zeros(pooled), "time_ids": zeros(ids)}
        hidden = zeros(1, config.cross_attention_dim)
        unet(zeros(config.in_channels, side, side), zeros()[0], hidden, added_cond_kwargs=added)
    cuda.runtime.synchronize(device)


@contextmanager
def tiled(vae: Any) -> Iterator[None]:
    """Decode in tiles inside the block: needs far less memory, and blends at the tiles' borders."""
    # Only for decoding: a picture that is encoded in tiles has other latents than the UNet was trained on.
    # diffusers tiles only above sample_size, which pictures of 1024² do not exceed, so it is set to half.
    vae.tile_sample_min_size = vae.config.sample_size // 2
    vae.tile_latent_min_size = vae.tile_sample_min_size // 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


def recast(part: torch.nn.Module, file: Path, dtype: torch.dtype) -> None:
    """Cast a module that was just loaded from ``file`` to ``dtype``, a few tensors at a time.

    A loaded module's tensors are pages of its memory-mapped file. A cast of the whole module keeps them all
    until the last one is done: a peak of 1.55 × SDXL's weights. Opening the file again for each slice of 100
    tensors has a peak of 1.27 ×.
    """
    parameters = dict(part.named_parameters())
    names = list(parameters)
    for start in range(0, len(names), _SLICE):
        with safe_open(file, framework="pt") as pages:
            for name in names[start : start + _SLICE]:
                parameters[name].data = pages.get_tensor(name).to(dtype)


@contextmanager
def visiting(module: Any, device: torch.device) -> Iterator[None]:
    """Copy an offloaded module to ``device`` inside the block.

    Nothing is copied back: afterwards it has the tensors that it had before, and what was written to those
    inside the block is lost.
    """
    if module.device == device:
        yield
        return
    resting = [(tensor, tensor.data) for tensor in _tensors(module)]
    try:
        for tensor, host in resting:
            tensor.data = cuda.runtime.upload(host, device)
        yield
    finally:
        for tensor, host in resting:
            tensor.data = host


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


@contextmanager
def computing_in(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """Cast a module to another dtype inside the block."""
    own = module.dtype
    if own == dtype:
        yield
        return
    module.to(dtype=dtype)
    try:
        yield
    finally:
        module.to(dtype=own)
