"""Memory plans: chosen by the free memory or by name; all paint the same picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inpaint import Engine, InpaintRequest
from inpaint.memory import GIB, PLANS, choose_plan

BY_FREE_GIB = {
    80: "resident",
    17.3: "resident",
    17.1: "resident-8",
    15.3: "resident-8",
    14: "offload-text",
    11.3: "offload-text",
    11: "tiled",
    7.3: "tiled",
    7.1: "fp8",
    5.5: "fp8",
    4: "streamed",
    0: "streamed",
}


@pytest.mark.parametrize(("free_gib", "name"), BY_FREE_GIB.items())
def test_the_plan_follows_the_free_memory(free_gib: float, name: str) -> None:
    """A user of an 8 GB card gets pictures slowly instead of an error."""
    assert choose_plan(int(free_gib * GIB)).name == name


def test_a_machine_of_one_memory_keeps_everything_resident() -> None:
    """On a CPU there is nowhere to offload to."""
    assert choose_plan(None).name == "resident"


@pytest.mark.parametrize("plan", ["resident-8", "offload-text", "tiled", "fp8", "streamed"])
def test_a_smaller_plan_paints_the_same_picture(
    plan: str, checkpoint: Callable[[int], Path], request_for: Callable[..., InpaintRequest]
) -> None:
    """Less memory may cost time, and with fp8 a little precision, but not the picture."""
    pictures = []
    for memory in ("resident", plan):
        with Engine.load(checkpoint(9), device="cpu", memory=memory) as engine:
            assert engine.model.plan.name == memory
            pictures.append(np.asarray(engine.paint(request_for()).images[0], dtype=int))
            if memory == "fp8":
                stored = {p.dtype for p in engine.model.unet.parameters()}
                assert torch.float8_e4m3fn in stored
    # A random VAE decoded in tiles of 64 pixels and a random UNet in 8 bit are the worst case of both.
    assert np.abs(pictures[0] - pictures[1]).mean() < (8 if plan in ("tiled", "fp8", "streamed") else 0.01)


def test_a_cast_unet_is_the_stored_one(checkpoint: Callable[[int], Path]) -> None:
    """It is cast slice by slice to save memory; every weight must arrive."""
    with Engine.load(checkpoint(9), device="cpu", dtype="bfloat16", without=["qkv", "text-kv"]) as engine:
        cast = engine.model.unet.state_dict()
    stored = load_file(checkpoint(9) / "unet" / "diffusion_pytorch_model.safetensors")
    assert cast.keys() == stored.keys()
    assert all(torch.equal(cast[name], tensor.bfloat16()) for name, tensor in stored.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("plan", [plan.name for plan in PLANS])
def test_every_plan_paints_on_a_gpu(
    plan: str, checkpoint: Callable[[int], Path], request_for: Callable[..., InpaintRequest]
) -> None:
    """Offloading moves modules between devices; each plan must end where it began."""
    with Engine.load(checkpoint(9), device="cuda", memory=plan) as engine:
        first, second = (np.asarray(engine.paint(request_for()).images[0], dtype=int) for _ in range(2))
    assert np.abs(first - second).max() <= 2
