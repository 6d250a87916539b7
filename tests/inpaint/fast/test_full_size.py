"""SDXL's real shapes without its weights: meta tensors go through everything that rewrites the UNet."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from inpaint.fast import channels_last, cross_attention_cache, fp8, fused_qkv
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch, plain
from tools.full_size.make import UNET

PARAMETERS = 2_567_478_084  # with 9 input channels
META = torch.device("meta")


@pytest.fixture
def unet() -> Any:
    """The UNet of SDXL's inpainting checkpoint; no memory, no values."""
    from diffusers import UNet2DConditionModel

    with META:
        return UNet2DConditionModel(in_channels=9, **UNET).to(torch.float16).eval().requires_grad_(False)


def batch(slots: int = 4) -> UNetBatch:
    """Two guided rows at 1024²."""

    def made(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    return UNetBatch(
        sample=made(slots, 9, 128, 128),
        timesteps=made(slots, dtype=torch.float32),
        hidden=made(slots, 77, 2048),
        keep=None,
        pooled=made(slots, 1280),
        time_ids=made(slots, 6),
        prompts=tuple(object() for _ in range(slots)),
    )


@pytest.mark.slow
def test_the_optimizations_fit_the_real_unet(unet: Any, model: Model) -> None:
    """What was proven on a tiny UNet meets the real shapes here, not on a GPU."""
    real = replace(model, unet=unet, dtype=torch.float16)
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS
    assert (fused_qkv.can(real), cross_attention_cache.can(real)) == ("", "")
    with torch.inference_mode():
        expected = plain(unet)(batch()).shape
        fused_qkv.convert(unet)
        channels_last.convert(unet)
        forward = cross_attention_cache.wrap(unet, torch.float16, channels_last.wrap(plain(unet)), slots=4)
        assert forward(batch()).shape == expected == (4, 4, 128, 128)
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS, "no copies are kept"
    held = sum(buffer.nbytes for name, buffer in unet.named_buffers() if name.endswith((".k", ".v")))
    assert held == pytest.approx(4 * 26e6, rel=0.05), "26 MB a slot"


def test_eight_bit_halves_the_large_matrices_of_the_real_unet(
    unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The linear layers are 64 % of SDXL's work; in 8 bit their weights take half the memory."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)  # a meta tensor has no values to keep
    before = sum(parameter.nbytes for parameter in unet.parameters())
    fused_qkv.convert(unet)
    converted = fp8.convert(unet)
    assert converted > 400
    tensors = [*unet.parameters(), *unet.buffers()]
    assert sum(tensor.nbytes for tensor in tensors) < 0.65 * before
    with torch.inference_mode():
        layer = next(module for module in unet.modules() if isinstance(module, fp8.Fp8Linear))
        assert layer(torch.empty(2, 16, layer.in_features, dtype=torch.float16, device=META)).shape == (
            2,
            16,
            layer.out_features,
        )
