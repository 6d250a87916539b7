"""The layers that a LoRA can change, under every name that LoRA files use for them.

Three spellings of a layer's name are understood: diffusers' and peft's with dots, kohya's with underscores,
and kohya's for SDXL, which follows the names of Stability AI's original code (``input_blocks_4_1_…``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

Layers = Mapping[str, "Layer"]  # by name, with underscores for dots: see ``plain``

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# diffusers' names for projections that were joined into one matrix (``Attention.fuse_projections``).
_JOINED = {"to_qkv": ("to_q", "to_k", "to_v"), "to_kv": ("to_k", "to_v")}

_KINDS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)


@runtime_checkable
class Rewritable(Protocol):
    """A layer whose weight is kept in another form, and can be rewritten from a plain one."""

    @property
    def original(self) -> torch.Tensor:
        """The plain weight (out, in) that it was made from, perhaps on another device."""

    def rewrite(self, weight: torch.Tensor) -> None:
        """Take over ``weight`` (out, in), at the same addresses as before."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A tensor of a layer of the model, or some rows of one that several layers were joined into."""

    module: Any  # nn.Linear, nn.Conv2d, a norm layer or a Rewritable
    rows: slice  # of the tensor
    shape: tuple[int, ...]  # of these rows: (out, in), (out, in, kh, kw), or (out,) of a bias or a norm layer
    tensor: str = "weight"  # or "bias"

    @property
    def bias(self) -> "Layer | None":
        """The same layer's bias; None if it has none."""
        if getattr(self.module, "bias", None) is None:
            return None
        return Layer(self.module, self.rows, self.shape[:1], "bias")


def unet_layers(unet: Any) -> Layers:
    """Return a UNet's layers, each under all of its names; ``inpaint.fast`` may have joined some."""
    layers: dict[str, Layer] = {}
    for name, layer in _layers(unet):
        for spelling in (name, name.removesuffix(".0"), original_name(unet, name)):
            layers.setdefault(plain(spelling), layer)
    return layers


def text_layers(encoder: Any) -> Layers:
    """Return the layers of one text encoder by name."""
    return {plain_text(name): layer for name, layer in _layers(encoder)}


def plain(name: str) -> str:
    """Write a layer's name with underscores for dots; no two layers of a UNet differ by these alone."""
    return name.replace(".", "_")


def plain_text(name: str) -> str:
    """Write a text encoder layer's name like :func:`plain`, without the ``text_model`` of some classes."""
    return plain(name).removeprefix("text_model_")


def _layers(root: Any) -> Iterator[tuple[str, Layer]]:
    for name, module in root.named_modules():
        if isinstance(module, Rewritable):
            shape = tuple(module.original.shape)
        elif isinstance(module, _KINDS) and getattr(module, "weight", None) is not None:
            shape = tuple(module.weight.shape)
        else:
            continue
        parent, dot, last = name.rpartition(".")
        parts = _JOINED.get(last, (last,))
        rows = shape[0] // len(parts)
        for i, part in enumerate(parts):
            yield f"{parent}{dot}{part}", Layer(module, slice(i * rows, (i + 1) * rows), (rows, *shape[1:]))


def original_name(unet: Any, name: str) -> str:
    """Translate a diffusers name into Stability AI's original one, which kohya's files for SDXL use.

    In the original code a block is a list of stages, each a list of a resnet, an attention if there is one,
    and a resampling.
    """
    if name in _ENDS:
        return _ENDS[name]
    side, _, rest = name.partition(".")
    if side not in ("down_blocks", "mid_block", "up_blocks"):
        return name
    if side == "mid_block":
        kind, index, tail = rest.split(".", 2)
        stage = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{stage}.{_inner(kind, tail)}"
    block, kind, index, tail = rest.split(".", 3)
    # Resnets, and a resampling on the way down or one more resnet on the way up.
    per_block = int(unet.config.layers_per_block) + 1
    first = int(block) * per_block
    if kind == "downsamplers":
        return f"input_blocks.{first + per_block}.0.op"
    if kind == "upsamplers":
        has_attention = hasattr(unet.up_blocks[int(block)], "attentions")
        return f"output_blocks.{first + per_block - 1}.{1 + has_attention}.{tail}"
    column = int(kind == "attentions")
    if side == "down_blocks":
        return f"input_blocks.{first + int(index) + 1}.{column}.{_inner(kind, tail)}"
    return f"output_blocks.{first + int(index)}.{column}.{_inner(kind, tail)}"


def _inner(kind: str, tail: str) -> str:
    return _RESNET.get(tail, tail) if kind == "resnets" else tail
