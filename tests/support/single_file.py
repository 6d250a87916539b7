"""Write a diffusers SDXL folder as one file in the original layout: what users download as a "checkpoint".

The names are those of Stability AI's generative-models, as diffusers' loader reads them.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = {
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    r"down_blocks\.(\d)\.resnets\.(\d)": r"down.\1.block.\2",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
}
_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
}


def write_single_file(folder: Path, path: Path, layers_per_block: int = 1) -> Path:
    """Write the checkpoint of a diffusers folder to ``path``."""
    save_file(original_tensors(folder, layers_per_block), path)
    return path


def original_tensors(folder: Path, layers_per_block: int = 1) -> Tensors:
    """The tensors of a diffusers folder under their original names."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    first, second = (
        load_file(folder / part / "model.safetensors") for part in ("text_encoder", "text_encoder_2")
    )
    return as_original(unet, vae, first, second, layers_per_block)


def as_original(
    unet: Tensors, vae: Tensors, first: Tensors, second: Tensors, layers_per_block: int
) -> Tensors:
    """The four components' tensors as one file has them."""
    first, second = _text(first), _text(second)
    tensors: Tensors = {}
    tensors |= {f"model.diffusion_model.{_unet_name(k, unet, layers_per_block)}": v for k, v in unet.items()}
    tensors |= {f"first_stage_model.{_vae_name(k)}": _vae_value(k, v) for k, v in vae.items()}
    tensors |= {f"conditioner.embedders.0.transformer.text_model.{k}": v for k, v in first.items()}
    tensors |= {f"conditioner.embedders.1.model.{k}": v for k, v in _open_clip(second)}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def with_leftovers(tensors: Tensors) -> Tensors:
    """Add what training scripts leave next to the weights: an EMA copy of the UNet, buffers, schedules."""
    ema = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith("model.diffusion_model.")
    }
    return {
        **tensors,
        **ema,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7),
        "denoiser.sigmas": torch.linspace(0.03, 14.6, 1000),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6052),
    }


def _text(encoder: Tensors) -> Tensors:
    return {name.removeprefix("text_model."): tensor for name, tensor in encoder.items()}


def _unet_name(name: str, unet: Mapping[str, torch.Tensor], layers: int) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    side, block, kind, layer, rest = re.match(
        r"(down_blocks|up_blocks|mid_block)\.(?:(\d)\.)?(\w+)\.(\d)\.(.*)", name
    ).groups()
    place = int(layer) + int(block or 0) * (layers + 1)
    if kind == "resnets":
        part, _, tail = rest.partition(".")
        rest = f"{_RESNET[part]}.{tail}"
    if side == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{place + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        after = 2 if any(k.startswith(f"up_blocks.{block}.attentions") for k in unet) else 1
        return f"output_blocks.{place + layers}.{after}.{rest}"
    column = 1 if kind == "attentions" else 0
    return (
        f"input_blocks.{place + 1}.{column}.{rest}"
        if side == "down_blocks"
        else f"output_blocks.{place}.{column}.{rest}"
    )


def _vae_name(name: str) -> str:
    for ours, theirs in _VAE.items():
        name = re.sub(ours, theirs, name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


def _vae_value(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:, :, None, None] if re.search(r"attentions\.0\.to_.*weight", name) else tensor


def _open_clip(encoder: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in encoder.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [encoder[name.replace("q_proj", f"{which}_proj")] for which in "qkv"]
            yield f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}", torch.cat(parts)
        elif name == "text_projection.weight":
            yield "text_projection", tensor.T
        elif not re.search(r"self_attn\.[kv]_proj", name):
            for ours, theirs in _OPEN_CLIP.items():
                name = name.replace(ours, theirs)
            yield name, tensor
