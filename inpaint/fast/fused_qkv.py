"""One matrix product instead of three for queries, keys and values that have the same input.

In self-attention these are all three, in cross-attention keys and values, whose input is the text. diffusers'
``fuse_qkv_projections`` keeps the separate matrices as well, 1.2 GB for SDXL in 16 bit; here they are
dropped. Anything that needs them, such as adding a LoRA or saving the UNet, must come before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, FusedAttnProcessor2_0
from torch import nn

from inpaint.model.load import Model


def attentions(unet: Any) -> list[Any]:
    """Return the UNet's attention layers, in the order of its modules."""
    return [module for module in unet.modules() if isinstance(module, Attention)]


def can(model: Model) -> str:
    """Return why ``model`` cannot use it; empty if it can."""
    for attn in attentions(model.unet):
        if attn.fused_projections:
            continue
        if type(attn.processor) is not AttnProcessor2_0:
            return f"an attention layer has a processor of its own ({type(attn.processor).__name__})"
        if attn.add_k_proj is not None or attn.inner_kv_dim != attn.inner_dim:
            return "an attention layer's queries, keys and values differ in width"
    return ""


def convert(unet: Any) -> None:
    """Join the projections of every attention layer, in place, one layer after the other."""
    for attn in attentions(unet):
        if attn.fused_projections:
            continue
        if attn.is_cross_attention:
            attn.to_kv = _joined([attn.to_k, attn.to_v])
            del attn.to_k, attn.to_v
        else:
            attn.to_qkv = _joined([attn.to_q, attn.to_k, attn.to_v])
            del attn.to_q, attn.to_k, attn.to_v
        attn.fused_projections = True
        attn.set_processor(FusedAttnProcessor2_0())


def _joined(parts: Sequence[nn.Linear]) -> nn.Linear:
    """Return one layer whose output is the concatenated output of ``parts``."""
    biases = [part.bias for part in parts if part.bias is not None]
    width = sum(part.out_features for part in parts)
    # Made on "meta": no memory is taken and no random numbers are drawn for weights that are replaced anyway.
    layer = nn.Linear(parts[0].in_features, width, bias=bool(biases), device="meta")
    layer.weight = _parameter([part.weight for part in parts])
    if biases:
        layer.bias = _parameter(biases)
    return layer


def _parameter(parts: Sequence[torch.Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat([part.detach() for part in parts]), requires_grad=False)
