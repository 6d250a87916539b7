"""Files that are no LoRA of SDXL are called what they are."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inpaint.errors import ModelError
from inpaint.lora.match import LayerIndex
from tools.files.small_unet import small_unet

Shapes = dict[str, tuple[int, ...]]


def pair(layer: str, width: int = 8) -> Shapes:
    return {f"{layer}.lora_down.weight": (4, width), f"{layer}.lora_up.weight": (8, 4)}


def peft_pair(layer: str) -> Shapes:
    return {f"{layer}.lora_A.weight": (4, 8), f"{layer}.lora_B.weight": (8, 4)}


SD1 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
MODELS: dict[str, tuple[Shapes, str]] = {
    "SD 1.5": (pair(f"{SD1}_attn2_to_k", 768), "Stable Diffusion 1;"),
    "SD 1.5, LoHa": (
        {
            f"{SD1}_attn2_to_v.hada_{w}_{x}": s
            for w in ("w1", "w2")
            for x, s in (("a", (8, 4)), ("b", (4, 768)))
        },
        "Stable Diffusion 1;",
    ),
    "SD 1.5 without cross-attention": (pair(f"{SD1}_attn1_to_q"), "Stable Diffusion 1 or 2;"),
    "SD 1.5, ComfyUI": (
        pair("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"),
        "Stable Diffusion 1 or 2;",
    ),
    "SD 2": (pair(f"{SD1}_attn2_to_k", 1024), "Stable Diffusion 2;"),
    "the refiner": (
        pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 1280),
        "SDXL's refiner;",
    ),
    "SD 3": (peft_pair("diffusion_model.joint_blocks.0.x_block.attn.qkv"), "Stable Diffusion 3;"),
    "SD 3, kohya": (pair("lora_unet_joint_blocks_0_context_block_attn_qkv"), "Stable Diffusion 3;"),
    "SD 3, diffusers": (
        peft_pair("transformer.transformer_blocks.0.attn.to_q"),
        "Stable Diffusion 3 or Flux;",
    ),
    "Flux, kohya": (pair("lora_unet_double_blocks_0_img_attn_proj"), "Flux, or a model like it;"),
    "Flux, diffusers": (
        peft_pair("transformer.single_transformer_blocks.0.attn.to_q"),
        "Flux, or a model like it;",
    ),
    "Flux, ComfyUI": (pair("diffusion_model.single_blocks.0.linear1"), "Flux, or a model like it;"),
    "Stable Cascade": (pair("lora_prior_unet_down_blocks_0_2_attention_attn_to_q"), "Stable Cascade;"),
    "Wan": (peft_pair("diffusion_model.blocks.0.self_attn.q"), "Wan, a model of videos;"),
    "another transformer": (peft_pair("diffusion_model.layers.0.attention.qkv"), "a diffusion transformer;"),
    "nothing known": (pair("lora_unet_stem_0"), "the model has no layer stem_0"),
}
OTHERS: dict[str, tuple[Shapes, str]] = {
    "an SDXL checkpoint": (
        {
            "model.diffusion_model.label_emb.0.0.weight": (4,),
            "first_stage_model.decoder.conv_in.weight": (4,),
        },
        "is a checkpoint, not a LoRA; `inpaint models import`",
    ),
    "an SD 1.5 checkpoint": ({"cond_stage_model.transformer.x.weight": (4,)}, "is a checkpoint, not a LoRA"),
    "a Flux checkpoint": ({"double_blocks.0.img_attn.qkv.weight": (4,)}, "is a checkpoint, not a LoRA"),
    "an SDXL embedding": ({"clip_l": (2, 8), "clip_g": (2, 8)}, "is a textual inversion"),
    "an SD 1.5 embedding": ({"emb_params": (2, 8)}, "is a textual inversion"),
    "an old embedding": ({"string_to_param.*": (2, 8)}, "is a textual inversion"),
    "a ControlNet": ({"control_model.time_embed.0.weight": (4,)}, "is a ControlNet"),
    "a ControlNet of diffusers": ({"controlnet_cond_embedding.conv_in.weight": (4,)}, "is a ControlNet"),
    "an IP-Adapter": ({"image_proj.norm.weight": (4,)}, "is an IP-Adapter"),
    "a VAE": ({"encoder.conv_in.weight": (4,), "decoder.conv_in.weight": (4,)}, "is a VAE"),
    "a UNet": ({"down_blocks.0.resnets.0.conv1.weight": (4,)}, "is a UNet"),
    "a text encoder": ({"text_model.final_layer_norm.weight": (4,)}, "is a text encoder"),
    "PEFT's OFT": ({"base_model.model.x.oft_R.weight": (4, 6)}, "holds an adapter of PEFT in a format"),
    "PEFT's IA3": ({"base_model.model.x.ia3_l": (8, 1)}, "holds an adapter of PEFT in a format"),
    "PEFT's VeRA": ({"base_model.model.x.vera_lambda_b": (8,)}, "holds an adapter of PEFT in a format"),
    "an upscaler": ({"model.0.weight": (4,)}, "holds no LoRA, and nothing else that is known here"),
    "nothing": ({}, "holds no LoRA"),
}


def refused(folder: Path, shapes: Shapes) -> str:
    path = folder / "style.safetensors"
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, path)
    with pytest.raises(ModelError) as caught:
        LayerIndex.of(small_unet(), (nn.Module(), nn.Module())).fit(path)
    return str(caught.value)


@pytest.mark.parametrize("what", MODELS)
def test_a_lora_of_another_model_is_called_by_its_model(what: str, tmp_path: Path) -> None:
    """A name such as down_blocks_0_attentions_0 tells a painter nothing."""
    shapes, says = MODELS[what]
    message = refused(tmp_path, shapes)
    assert message.startswith("style.safetensors is not a LoRA for this model: ")
    assert says in message


@pytest.mark.parametrize("what", OTHERS)
def test_another_file_in_the_folder_is_called_what_it_is(what: str, tmp_path: Path) -> None:
    """People download files by the dozen, and put them into the wrong folder."""
    shapes, says = OTHERS[what]
    assert refused(tmp_path, shapes).startswith(f"style.safetensors {says}")
