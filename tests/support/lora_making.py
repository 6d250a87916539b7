"""LoRA files with random matrices for the tests, and the weights that they make, merged by hand."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

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
