"""Cross-attention's keys and values, computed when the prompts change and not in every step.

They depend on the text alone, so a request's are the same in all its steps. :func:`wrap` computes them when a
batch's ``prompts`` are other objects than last time, into buffers that move only with the UNet, so that
compiled code and CUDA graphs may keep their addresses. It then passes on a batch whose ``hidden`` has no
width, (n, T, 0): by that the attention layers know to read the buffers. A call with the text in it is
computed as usual.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from torch import nn

from inpaint.fast.fused_qkv import attentions
from inpaint.model.load import Model
from inpaint.model.prompt import CHUNK_TOKENS
from inpaint.model.unet import Forward, UNetBatch

SLOT_TOKENS = CHUNK_TOKENS + 2  # tokens of a prompt of one chunk, as nearly all are


class TextKV(nn.Module):
    """An attention processor with buffers for the keys and values of (slots × T) tokens."""

    k: torch.Tensor  # (tokens, width); a batch uses the first n × T
    v: torch.Tensor
    store: "_Store"  # shared by the layers of the UNet

    def __init__(self, width: int, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        for name in ("k", "v"):
            # Zeros: a batch padded up to a compiled size reads past the filled part, and must not read NaN.
            room = torch.zeros(tokens, width, device=device, dtype=dtype)
            self.register_buffer(name, room, persistent=False)

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute diffusers' ``AttnProcessor2_0`` for (n, S, C), with text (n, T, width) or the buffers."""
        n, tokens, text_width = encoder_hidden_states.shape
        if text_width == 0:
            key, value = (held[: n * tokens].view(n, tokens, -1) for held in (self.k, self.v))
        else:
            key, value = keys_values(attn, encoder_hidden_states)
        if attention_mask is not None:
            bias = attn.prepare_attention_mask(attention_mask, tokens, n)
            attention_mask = bias.view(n, attn.heads, -1, bias.shape[-1])
        query, key, value = (
            t.view(n, -1, attn.heads, t.shape[-1] // attn.heads).transpose(1, 2)
            for t in (attn.to_q(hidden_states), key, value)
        )
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        projected: torch.Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return projected

    def fill(self, attn: Any, hidden: torch.Tensor, first: int) -> None:
        """Write the keys and values of ``hidden`` (n, T, width) into the slots from ``first`` on."""
        n, tokens, _ = hidden.shape
        for held, new in zip((self.k, self.v), keys_values(attn, hidden), strict=True):
            held[first * tokens : (first + n) * tokens].copy_(new.flatten(0, 1))


def keys_values(attn: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's keys and values (n, T, width) of the text; ``qkv`` may have joined the matrices."""
    if attn.fused_projections:
        key, value = attn.to_kv(hidden).chunk(2, dim=-1)
        return key, value
    return attn.to_k(hidden), attn.to_v(hidden)


@dataclass(slots=True, eq=False)
class _Store:
    """The processors of a UNet and the prompts that their buffers hold; one for each UNet."""

    layers: Sequence[tuple[Any, TextKV]]
    prompts: tuple[
        object, ...
    ] = ()  # references, so that no other object can take the address of one of them
    tokens: int = 0  # T

    def has_room(self, slots: int, tokens: int, dtype: torch.dtype) -> bool:
        """Return whether ``slots`` slots of T tokens fit; precise rows have another dtype and do not."""
        held = self.layers[0][1].k
        return slots * tokens <= held.shape[0] and dtype == held.dtype

    def hold(self, batch: UNetBatch) -> None:
        """Compute the keys and values of a batch that the buffers do not hold yet."""
        stale = self._stale(batch)
        if not stale:
            return
        first, end = stale[0], stale[-1] + 1
        self.prompts = ()  # if this fails half-way, nothing counts as held
        for attn, processor in self.layers:
            processor.fill(attn, batch.hidden[first:end], first)
        self.prompts, self.tokens = batch.prompts, batch.hidden.shape[1]

    def _stale(self, batch: UNetBatch) -> list[int]:
        """Return the slots whose keys and values are not in the buffers."""
        slots, tokens, _ = batch.hidden.shape
        if len(batch.prompts) != slots or len(self.prompts) == 0 or tokens != self.tokens:
            return list(range(slots))
        held = self.prompts
        return [i for i in range(slots) if i >= len(held) or held[i] is not batch.prompts[i]]


def can(model: Model) -> str:
    """Return why ``model`` cannot use it; empty if it can."""
    layers = _cross_attentions(model.unet)
    if not layers:
        return "the UNet has no cross-attention"
    for attn in layers:
        if type(attn.processor) not in (AttnProcessor2_0, FusedAttnProcessor2_0, TextKV):
            return f"a cross-attention layer has a processor of its own ({type(attn.processor).__name__})"
        norms = (attn.norm_cross, attn.norm_q, attn.norm_k, attn.group_norm, attn.spatial_norm)
        if any(norm is not None for norm in norms) or attn.residual_connection:
            return "a cross-attention layer normalises its inputs, which SDXL's do not"
        if attn.rescale_output_factor != 1.0 or attn.add_k_proj is not None:
            return "a cross-attention layer is not built like SDXL's"
    return ""


def wrap(
    unet: Any, dtype: torch.dtype, forward: Forward, *, slots: int, sizes: Sequence[int] = ()
) -> Forward:
    """Return ``forward`` with the text's keys and values cached, and give ``unet`` the processors for it.

    Args:
        unet: its cross-attention layers get :class:`TextKV` processors, once.
        dtype: what it computes in; batches of another dtype are passed on with their text.
        forward: calls that UNet, or a copy that shares its parameters and buffers.
        slots: the number of slots, of one chunk of text each, that the buffers hold: 26 MB a slot for SDXL in
            16 bit. Larger batches, or longer text in many slots, are passed on with their text.
        sizes: the numbers of slots that ``forward`` pads smaller batches to.
    """
    store = _store(unet, slots * SLOT_TOKENS, dtype)

    def through(batch: UNetBatch) -> torch.Tensor:
        n, tokens, _ = batch.hidden.shape
        padded = min((size for size in sizes if size >= n), default=n)
        if not store.has_room(padded, tokens, batch.hidden.dtype):
            return forward(batch)
        store.hold(batch)
        return forward(replace(batch, hidden=batch.hidden.new_empty(n, tokens, 0)))

    return through


def isolate(*unets: Any) -> None:
    """Give copies of a converted UNet buffers of their own, the same for all of them, with fixed numbers.

    A comparison of two forward passes while the step loop runs must not read what the loop is writing.
    """
    for layers in zip(*(_cross_attentions(unet) for unet in unets), strict=True):
        for name in ("k", "v"):
            held = getattr(layers[0].processor, name)
            with torch.inference_mode(False):  # compiled code checks for it
                own = torch.empty_like(held)
            own.copy_(torch.linspace(-1, 1, held.numel(), device=held.device).view_as(held))
            for attn in layers:
                setattr(attn.processor, name, own)


def _store(unet: Any, tokens: int, dtype: torch.dtype) -> _Store:
    """Return the UNet's store, made if there is none yet."""
    layers = _cross_attentions(unet)
    if isinstance(layers[0].processor, TextKV):
        kept: _Store = layers[0].processor.store
        return kept
    with torch.inference_mode(False):  # a buffer made in inference mode cannot be written outside it
        made = [(attn, TextKV(attn.inner_kv_dim, tokens, unet.device, dtype)) for attn in layers]
    store = _Store(made)
    for attn, processor in made:
        processor.store = store
        attn.set_processor(processor)
    return store


def _cross_attentions(unet: Any) -> list[Any]:
    return [attn for attn in attentions(unet) if attn.is_cross_attention]
