"""Queries, keys and values in one matrix: the same numbers, no more memory, nothing left over."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor

from inpaint.fast import fused_qkv
from inpaint.model.unet import plain
from tests.support.fast_rows import apart, own_model, random_batch

Checkpoint = Callable[[int], Path]


def parameter_bytes(unet: torch.nn.Module) -> int:
    return sum(p.nbytes for p in unet.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_joining_takes_no_memory(dtype: torch.dtype, checkpoint: Checkpoint) -> None:
    """Diffusers' own way keeps both copies, 1.2 GB more for SDXL: a picture's worth on a 16 GB card."""
    unet = own_model("tiny", checkpoint, dtype).unet
    before, count = parameter_bytes(unet), len(list(unet.parameters()))
    fused_qkv.convert(unet)
    assert parameter_bytes(unet) == before
    layers = fused_qkv.attentions(unet)
    crossed = sum(attn.is_cross_attention for attn in layers)
    assert len(list(unet.parameters())) == count - 2 * (len(layers) - crossed) - crossed
    assert {p.dtype for p in unet.parameters()} == {dtype}
    assert not any(p.requires_grad for p in unet.parameters())


def test_the_joined_layers_predict_the_same(checkpoint: Checkpoint) -> None:
    """In self-attention and cross-attention alike, and again after a second conversion."""
    model = own_model("tiny", checkpoint)
    batch = random_batch(model, "abc")
    before = plain(model.unet)(batch)
    fused_qkv.convert(model.unet)
    assert apart(plain(model.unet)(batch), before) < 1e-6
    names = {name for name, _ in model.unet.named_parameters()}
    assert any("attn1.to_qkv" in name for name in names)
    assert any("attn2.to_kv" in name for name in names)
    assert not any(part in name for name in names for part in (".to_k.", ".to_v.", "attn1.to_q."))
    assert fused_qkv.can(model) == ""
    fused_qkv.convert(model.unet)
    assert {name for name, _ in model.unet.named_parameters()} == names


@pytest.mark.parametrize("cross", [None, 12])
def test_biases_are_joined_too(cross: int | None) -> None:
    """SDXL's projections have none; another checkpoint's may, and must not lose them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attn = Attention(
            query_dim=16, cross_attention_dim=cross, heads=2, dim_head=8, bias=True
        ).requires_grad_(False)
    x, text = (
        torch.linspace(-1, 1, 2 * 5 * 16).view(2, 5, 16),
        torch.linspace(1, -1, 2 * 7 * 12).view(2, 7, 12),
    )
    before = attn(x, text if cross else None)
    fused_qkv.convert(torch.nn.ModuleList([attn]))
    assert (attn.to_kv if cross else attn.to_qkv).bias is not None
    assert apart(attn(x, text if cross else None), before) < 1e-6


def test_converting_draws_no_random_number(checkpoint: Checkpoint) -> None:
    """A notebook that seeded torch gets its own numbers, with optimizations or without."""
    unet = own_model("tiny", checkpoint).unet
    state = torch.get_rng_state()
    fused_qkv.convert(unet)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_processor_of_another_library_is_left_alone(checkpoint: Checkpoint) -> None:
    """An IP adapter or another patched model goes without, instead of losing its patch."""
    model = own_model("tiny", checkpoint)
    assert fused_qkv.can(model) == ""
    fused_qkv.attentions(model.unet)[-1].set_processor(AttnProcessor())
    assert "a processor of its own (AttnProcessor)" in fused_qkv.can(model)
