"""LoRA files into a UNet's weights, once and for good: W becomes W + scale · (alpha / rank) · up · down.

Merged, a LoRA costs nothing in a step and needs no peft. Source: Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models", 2021; for convolutions as LyCORIS' LoCon has it, ``down`` with the kernel, ``up`` 1×1.

Three spellings of a layer's name are understood: diffusers' and peft's with dots, kohya's with underscores,
and kohya's for SDXL, which follows the names of Stability AI's original code (``input_blocks_4_1_…``).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from inpaint.errors import ModelError, RequestError

_PAIR = re.compile(
    r"(?P<layer>.+?)[._](?:(?P<down>lora_down|lora[._]down|lora_A)|(?P<up>lora_up|lora[._]up|lora_B))"
    r"(?:\.default)?\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
_PREFIXES = ("base_model.model.", "unet.", "lora_unet_")
_TEXT = ("text_encoder", "lora_te")  # the text encoders' part of a file
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


@dataclass(frozen=True, slots=True)
class Fused:
    """What a file changed."""

    layers: int  # of the UNet, whose weights it changed
    text_layers: int  # in the file for the text encoders, which were left as they are


@dataclass(slots=True, eq=False)
class _Part:
    """One layer's two matrices, while a file is read."""

    down: torch.Tensor | None = None  # (rank, in) or (rank, in, kh, kw)
    up: torch.Tensor | None = None  # (out, rank) or (out, rank, 1, 1)
    alpha: float | None = None  # rank where the file does not say


def fuse(unet: Any, file: Path, scale: float = 1.0) -> Fused:
    """Merge a LoRA into the weights of ``unet``; where any of it does not fit, nothing is changed.

    Args:
        unet: a UNet2DConditionModel before anything changed its modules: no memory plan's hooks, no levers.
        file: a ``.safetensors`` file.
        scale: how strongly; 1 is as it was trained.

    Raises:
        ModelError: the file is missing or damaged, is no LoRA for this UNet, or is of a kind that cannot be
            merged this way.
        RequestError: the scale is not a number.
    """
    if not math.isfinite(scale):
        raise RequestError("lora_scale", f"must be a number such as 1 or 0.7, not {scale!r}")
    parts, text_layers = _read(file)
    layers = _named_layers(unet)
    changes = []
    for name, part in parts.items():
        layer = layers.get(_plain(name))
        if layer is None:
            raise ModelError(f"{file.name} is not a LoRA for this model: the model has no layer {name}")
        changes.append((layer, _checked(file, name, part, layer)))
    for layer, part in changes:
        _merge(file, layer, part, scale)
    return Fused(len(changes), text_layers)


def _read(file: Path) -> tuple[dict[str, _Part], int]:
    """The UNet's parts by the file's names for the layers, and the number of layers of text encoders."""
    parts: dict[str, _Part] = {}
    text: set[str] = set()
    try:
        with safe_open(file, framework="pt") as tensors:
            alphas = _alphas(tensors.metadata() or {})
            for key in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                if key.startswith(_TEXT):
                    text.add(_layer_of(key) or key)
                else:
                    _take(file, parts, key, tensors.get_tensor(key))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read as a .safetensors file ({error})") from None
    if not parts:
        raise ModelError(f"{file.name} holds no LoRA for a UNet")
    for name, part in parts.items():
        part.alpha = _alpha_of(name, alphas) if part.alpha is None else part.alpha
    return parts, len(text)


def _take(file: Path, parts: dict[str, _Part], key: str, tensor: torch.Tensor) -> None:
    layer, pair = _layer_of(key), _PAIR.fullmatch(key)
    if layer is None:
        raise ModelError(
            f"{file.name} is not a plain LoRA: it has {key}; LoHa, LoKr, DoRA and the like cannot be merged"
        )
    part = parts.setdefault(_bare(layer), _Part())
    if pair is None:
        part.alpha = float(tensor)
    elif pair["down"]:
        part.down = tensor
    else:
        part.up = tensor


def _layer_of(key: str) -> str | None:
    match = _PAIR.fullmatch(key) or _ALPHA.fullmatch(key)
    return match["layer"] if match else None


def _bare(layer: str) -> str:
    """A layer's name without what is before or inside it in some files."""
    for prefix in _PREFIXES:
        layer = layer.removeprefix(prefix)
    # diffusers' first LoRAs hung on the attention processors.
    return re.sub(r"\.processor\.(to_[qkv]|to_out)$", r".\1", layer).removesuffix(".processor")


def _alphas(metadata: Mapping[str, str]) -> dict[str, float]:
    """Alpha by ending of a layer's name, "" for all others: from the header that diffusers writes since 0.34.

    Raises:
        ModelError: it says that the file is to be merged in another way.
    """
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    if config.get("unet.use_rslora") or config.get("unet.use_dora"):
        raise ModelError("a LoRA with rank-stabilised scale (rsLoRA) or DoRA cannot be merged")
    found = {name: float(alpha) for name, alpha in (config.get("unet.alpha_pattern") or {}).items()}
    return found | ({"": float(config["unet.lora_alpha"])} if "unet.lora_alpha" in config else {})


def _alpha_of(name: str, alphas: Mapping[str, float]) -> float | None:
    endings = [ending for ending in alphas if f".{name}".endswith(f".{ending}")]
    return alphas[endings[0]] if endings else alphas.get("")


def _checked(file: Path, name: str, part: _Part, layer: nn.Module) -> _Part:
    """``part``, if it fits its layer."""
    if part.down is None or part.up is None:
        raise ModelError(f"{file.name} is damaged: it lacks one of the two matrices of {name}")
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    rank, width = part.down.flatten(1).shape if part.down.ndim in (2, 4) else (0, 0)
    fits = part.up.ndim in (2, 4) and part.up.flatten(1).shape == (weight.shape[0], rank)
    # A 1×1 kernel and a matrix are the same thing; a 3×3 one must have its own shape.
    same_kernel = part.down.ndim == 2 or part.down.shape[2:] == (weight.shape[2:] or (1, 1))
    if not fits or not rank or width != weight.flatten(1).shape[1] or not same_kernel:
        raise ModelError(
            f"{file.name} is not a LoRA for this model: {name} has the shape {tuple(weight.shape)} here, and "
            f"the file has {tuple(part.up.shape)} times {tuple(part.down.shape)}"
        )
    if not (part.down.isfinite().all() and part.up.isfinite().all()):
        raise ModelError(f"{file.name} is damaged: {name} holds values that are no numbers")
    return part


def _merge(file: Path, layer: nn.Module, part: _Part, scale: float) -> None:
    assert part.down is not None
    assert part.up is not None
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    factor = scale * (1.0 if part.alpha is None else part.alpha / part.down.shape[0])
    # In fp32 on the weight's device: in 16 bit, a small change to a large weight would be rounded away twice.
    up, down = (matrix.flatten(1).to(weight.device, torch.float32) for matrix in (part.up, part.down))
    merged = weight.detach().float() + factor * (up @ down).reshape(weight.shape)
    if not merged.to(weight.dtype).isfinite().all():
        raise ModelError(f"{file.name} is too strong: a weight leaves the range of {weight.dtype}")
    # Put in its place, not written into it: a loaded weight may be a page of its file.
    layer.weight = nn.Parameter(merged.to(weight.dtype), requires_grad=False)


def _named_layers(unet: Any) -> dict[str, nn.Module]:
    """Every layer that a LoRA can change, under each of its spellings."""
    layers: dict[str, nn.Module] = {}
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for spelling in (name, name.removesuffix(".0"), _original_name(unet, name)):
                layers.setdefault(_plain(spelling), module)
    return layers


def _plain(name: str) -> str:
    """Dots and underscores alike: no two layers of a UNet differ by these alone."""
    return name.replace(".", "_")


def _original_name(unet: Any, name: str) -> str:
    """A diffusers name in Stability AI's original code, as kohya's files for SDXL have it.

    There, a block is a list of stages, each a list of a resnet, an attention if any, and a resampling.
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
    per_block = int(unet.config.layers_per_block) + 1  # going down: and a resampling; going up: one more
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
