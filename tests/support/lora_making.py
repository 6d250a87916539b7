"""LoRA files with random matrices for the tests, and the weights that they make, merged by hand."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inpaint.lora.fuse import fuse
from inpaint.model.load import Model

RANK, ALPHA = 4, 2.0
LAYERS = {  # a layer of every kind, in each part of a model
    "unet": (
        "conv_in",
        "time_embedding.linear_2",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_k",
        "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_v",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "mid_block.attentions.0.proj_in",
        "mid_block.resnets.1.conv2",
        "up_blocks.1.resnets.1.time_emb_proj",
        "up_blocks.0.upsamplers.0.conv",
        "up_blocks.1.resnets.0.conv_shortcut",
        "down_blocks.0.downsamplers.0.conv",
    ),
    "text_encoder": ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1"),
    "text_encoder_2": (
        "text_model.encoder.layers.0.self_attn.out_proj",
        "text_model.encoder.layers.1.mlp.fc2",
    ),
}
# More of each of these than one LoRA at a scale of 1 must be seen.
STRENGTH = {"unet": 1.0, "text_encoder": 4.0, "text_encoder_2": 4.0}


def modules(model: Model) -> dict[str, Any]:
    """The parts of a model that a LoRA can change."""
    first, second = model.text_encoders
    return {"unet": model.unet, "text_encoder": first, "text_encoder_2": second}


def write_lora(
    folder: Path,
    name: str,
    model: Model,
    parts: Sequence[str] = tuple(LAYERS),
    *,
    seed: int = 0,
    strength: float = 1.0,
) -> Path:
    """``folder/name.safetensors``, for these parts of ``model``."""
    tensors = {}
    for part in parts:
        for layer, (down, up) in matrices(model, part, seed).items():
            # As files have it: with the ``text_model`` that transformers' first encoder has lost.
            spelt = layer if part == "unet" else f"text_model.{layer.removeprefix('text_model.')}"
            tensors[f"{part}.{spelt}.lora_A.weight"] = down
            tensors[f"{part}.{spelt}.lora_B.weight"] = up * strength
            tensors[f"{part}.{spelt}.alpha"] = torch.tensor(ALPHA)
    path = folder / f"{name}.safetensors"
    save_file(tensors, path)
    return path


def matrices(model: Model, part: str, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer → (down, up) of random numbers."""
    made = {}
    for i, layer in enumerate(LAYERS[part]):
        weight = modules(model)[part].get_submodule(layer).weight
        random = torch.Generator().manual_seed(1000 * seed + i)
        down = torch.randn(RANK, *weight.shape[1:], generator=random) / weight[0].numel() ** 0.5
        up = torch.randn(len(weight), RANK, *[1] * (weight.ndim - 2), generator=random) / RANK**0.5
        made[layer] = down, up * STRENGTH[part]
    return made


def merged_by_hand(
    model: Model, loras: Sequence[tuple[int, float]], parts: Sequence[str] = tuple(LAYERS)
) -> Model:
    """A copy of ``model`` with the LoRAs of these seeds at these scales in its weights."""
    changed = replace(model, unet=copy.deepcopy(model.unet), text_encoders=copy.deepcopy(model.text_encoders))
    for seed, scale in loras:
        for part in parts:
            for layer, (down, up) in matrices(model, part, seed).items():
                weight = modules(changed)[part].get_submodule(layer).weight
                change = torch.einsum("or,r...->o...", up.flatten(1), down)
                weight += scale * ALPHA / RANK * change
    return changed


def write_formats(folder: Path, name: str, model: Model, *, seed: int = 0) -> Path:
    """``folder/name.safetensors``: layers of the UNet and of both text encoders, each in another format."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * scale

    def loha(out: int, wide: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
        rows, columns = scale / RANK**0.5, 1 / wide**0.5
        return {
            "hada_w1_a": normal(out, RANK, scale=rows),
            "hada_w1_b": normal(RANK, wide, scale=columns),
            "hada_w2_a": normal(out, RANK, scale=rows),
            "hada_w2_b": normal(RANK, wide),
        }

    def dora(out: int, wide: int) -> dict[str, torch.Tensor]:
        down = normal(RANK, wide, scale=1 / wide**0.5)
        return {
            "lora_A.weight": down,
            "lora_B.weight": normal(out, RANK),
            "dora_scale": normal(out, 1).abs() + 1,
        }

    made = {
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": loha,
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v": dora,
        "unet.mid_block.attentions.0.proj_in": lambda out, wide: {
            "oft_blocks": normal(out // 8, 8, 8, scale=0.3)
        },
        "unet.up_blocks.0.upsamplers.0.conv": lambda out, wide: {
            "diff": normal(out, wide // 9, 3, 3, scale=1 / wide**0.5),
            "diff_b": normal(out),
        },
        "unet.conv_norm_out": lambda out, wide: {"w_norm": normal(out), "b_norm": normal(out)},
        "unet.down_blocks.2.attentions.0.transformer_blocks.1.norm2": lambda out, wide: {
            "w_norm": normal(out)
        },
        "unet.mid_block.resnets.1.time_emb_proj": lambda out, wide: {
            "weight": normal(out),
            "on_input": torch.tensor(0),
        },
        "text_encoder.encoder.layers.0.self_attn.q_proj": lambda out, wide: loha(out, wide, 2.0),
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc2": dora,
        "text_encoder_2.text_model.encoder.layers.1.layer_norm1": lambda out, wide: {"w_norm": normal(out)},
    }
    tensors = {}
    for layer, make in made.items():
        part, _, path = layer.partition(".")
        weight = modules(model)[part].get_submodule(path).weight
        shape = len(weight), weight.numel() // len(weight)
        tensors |= {f"{layer}.{role}": tensor for role, tensor in make(*shape).items()}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path)
    return path


def fused(model: Model, file: Path, scale: float = 1.0) -> Model:
    """A copy of ``model`` with a LoRA file in its weights for good."""
    changed = replace(model, unet=copy.deepcopy(model.unet), text_encoders=copy.deepcopy(model.text_encoders))
    fuse(changed.unet, changed.text_encoders, file, scale)
    return changed
