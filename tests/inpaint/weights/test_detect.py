"""Detection of downloaded ``.safetensors`` files: checkpoints that paint, and other kinds that are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inpaint import Engine, InpaintRequest
from inpaint.errors import ModelError
from inpaint.model.load import load_model
from inpaint.weights import import_model, resolve
from tests.support.checkpoint_files import safetensors, sdxl_tensors
from tests.support.single_file import original_tensors, with_leftovers

Make = Callable[..., InpaintRequest]
UNET = {name: shape for name, shape in sdxl_tensors(4).items() if name.startswith("model.")}
SD_UNET = {"model.diffusion_model.input_blocks.0.0.weight": [2, 4, 3, 3]}
COMFY = {name.removeprefix("model."): shape for name, shape in UNET.items()}
BARE = {name.removeprefix("model.diffusion_model."): shape for name, shape in UNET.items()}
FIRST = "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"
LORA = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight"

# Files that people take for checkpoints: some of their tensors, and the words of the error.
OTHERS: dict[str, tuple[dict[str, list[int]], str]] = {
    "kohya's LoRA": ({LORA: [4, 8], LORA.replace("down", "up"): [8, 4]}, "it is a LoRA, .* with --lora"),
    "diffusers' LoRA": ({"unet.down_blocks.1.attn1.to_q.lora_A.weight": [4, 8]}, "it is a LoRA"),
    "an old LoRA": ({"unet.lora.down.weight": [4]}, "it is a LoRA"),
    "a text encoder's LoRA": ({"lora_te1_text_model_encoder_layers_0.alpha": [1]}, "it is a LoRA"),
    "a LoHa": ({"x_blocks_1.hada_w1_a": [4, 4]}, "it is a LoRA"),
    "a LoKr": ({"x_blocks_1.lokr_w1": [4, 4]}, "it is a LoRA"),
    "SD 1.5": (
        {**SD_UNET, "cond_stage_model.transformer.text_model.final_layer_norm.bias": [4]},
        "it is a Stable Diffusion 1 checkpoint; only SDXL",
    ),
    "SD 1.5 inpainting's UNet": (SD_UNET, "it is the UNet of Stable Diffusion 1 or 2; only SDXL"),
    "SD 2": (
        {**SD_UNET, "cond_stage_model.model.ln_final.bias": [4]},
        "it is a Stable Diffusion 2 checkpoint; only SDXL",
    ),
    "SD 2 unCLIP": (
        {**UNET, "cond_stage_model.model.ln_final.bias": [4]},
        "it is a Stable Diffusion 2 checkpoint; only SDXL",
    ),
    "the refiner": (
        {**UNET, "conditioner.embedders.0.model.ln_final.bias": [4]},
        "it is SDXL's refiner, which cannot begin a picture",
    ),
    "SD 3": ({"model.diffusion_model.joint_blocks.0.x": [4]}, "it is a Stable Diffusion 3 model"),
    "Flux": ({"double_blocks.0.img_attn.qkv.weight": [4]}, "it is a Flux model"),
    "a ControlNet": ({"controlnet_cond_embedding.conv_in.weight": [4]}, "it is a ControlNet"),
    "an old ControlNet": ({"control_model.time_embed.0.weight": [4]}, "it is a ControlNet"),
    "an IP-Adapter": ({"image_proj.norm.weight": [4]}, "it is an IP-Adapter"),
    "an embedding": ({"clip_g": [8, 4], "clip_l": [8, 4]}, "it is a textual inversion"),
    "a VAE": ({"encoder.conv_in.weight": [4], "decoder.conv_in.weight": [4]}, "it is a VAE alone"),
    "a VAE cut out": ({"first_stage_model.decoder.conv_in.weight": [4]}, "it is a VAE alone"),
    "diffusers' UNet": (
        {"down_blocks.0.resnets.0.conv1.weight": [4]},
        r"it is the UNet of a diffusers folder; name that folder, the one with model_index\.json",
    ),
    "a text encoder": ({"text_model.final_layer_norm.weight": [4]}, "it is a text encoder alone"),
    "an upscaler": ({"model.0.weight": [4]}, "it is not an SDXL checkpoint, and of no kind"),
    "8 channels": (sdxl_tensors(8), "its UNet has 8 input channels; 9 .* or 4"),
    "a wrong first layer": (
        {**UNET, "model.diffusion_model.input_blocks.0.0.weight": [4]},
        r"it is damaged: it has no model\.diffusion_model\.input_blocks",
    ),
    "no first layer": ({"model.diffusion_model.label_emb.0.0.weight": [2, 2]}, "it is damaged: it has no"),
    "packed weights": (
        {**sdxl_tensors(4), "scaled_fp8": [2]},
        "its weights are packed .* bring the fp16 file",
    ),
    "EDM": ({**sdxl_tensors(4), "edm_mean": [4]}, "it is an EDM model, as Playground v2.5 and CosXL are"),
    "LCM": (
        {**sdxl_tensors(4), "model.diffusion_model.time_embed.cond_proj.weight": [2, 2]},
        "its UNet takes the guidance scale as an input, .* with --few-step-lora",
    ),
    "diffusers' parts in one file": (
        {"unet.conv_in.weight": [4], "vae.decoder.conv_in.weight": [4], "text_encoder.text_model.x": [4]},
        "it holds the parts of a diffusers folder in one file, .* bring that folder",
    ),
    "ComfyUI's UNet": (
        COMFY,
        "its UNet is named as ComfyUI names one without the rest; import it with --parts-from",
    ),
    "a bare UNet": (
        BARE,
        "its UNet is named as ComfyUI names one without .* with --parts-from sdxl-inpainting",
    ),
    "ComfyUI's UNet of SD 1.5": (
        {"diffusion_model.input_blocks.0.0.weight": [2, 4, 3, 3]},
        "it is the UNet of Stable",
    ),
    "a bare UNet of SD 1.5": (
        {"input_blocks.0.0.weight": [2, 4, 3, 3]},
        "it is the UNet of Stable Diffusion 1 or 2",
    ),
    "ComfyUI's UNet of SD 3": ({"diffusion_model.joint_blocks.0.x": [4]}, "it is a Stable Diffusion 3 model"),
    "ComfyUI's UNet of Flux": ({"diffusion_model.double_blocks.0.x": [4]}, "it is a Flux model"),
    "an SDXL ControlNet": (
        {**BARE, "input_hint_block.0.weight": [4]},
        "it is a ControlNet, which is not used here",
    ),
    "a UNet alone": (
        UNET,
        "there is no VAE and no first text encoder and no second text encoder in it; import it with "
        "--parts-from sdxl-inpainting",
    ),
    "no VAE": (
        {name: shape for name, shape in sdxl_tensors().items() if not name.startswith("first_stage")},
        "there is no VAE in it; import it with --parts-from",
    ),
    "no first text encoder": (
        {name: shape for name, shape in sdxl_tensors().items() if name != FIRST},
        "there is no first text encoder in it; import it with --parts-from",
    ),
}


@pytest.mark.parametrize(("tensors", "words"), OTHERS.values(), ids=OTHERS)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, tensors: dict[str, list[int]], words: str
) -> None:
    """A user who downloaded the wrong file learns which one to look for, before 7 GB are copied."""
    path = tmp_path / "downloaded.safetensors"
    path.write_bytes(safetensors(tensors))
    for attempt in (lambda: import_model(path, "mine", tmp_path / "models"), lambda: resolve(path, tmp_path)):
        with pytest.raises(ModelError, match=rf"downloaded\.safetensors: {words}") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()


GOOD: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "fp32": lambda tensors: tensors,
    "fp16": lambda tensors: {name: tensor.half() for name, tensor in tensors.items()},
    "bf16": lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()},
    "fp8": lambda tensors: {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()},
    "with EMA and buffers": with_leftovers,
    "its VAE called vae": lambda tensors: {
        name.replace("first_stage_model.", "vae."): tensor for name, tensor in tensors.items()
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("form", "in_channels"), [*((form, 4) for form in GOOD), ("fp16", 9)])
def test_the_forms_in_which_checkpoints_are_shared_paint(
    form: str, in_channels: int, checkpoint: Callable[[int], Path], tmp_path: Path, request_for: Make
) -> None:
    """In half or full precision, pruned or not, a model paints the same picture but for rounding."""
    save_file(GOOD[form](original_tensors(checkpoint(in_channels))), tmp_path / "x.safetensors")
    import_model(tmp_path / "x.safetensors", "mine", tmp_path / "models")
    found = resolve("mine", tmp_path / "models")
    model = load_model(found.path, "mine", torch.device("cpu"), torch.float32, configs=checkpoint(9))
    assert model.in_channels == in_channels
    request = request_for()
    pictures = []
    for source in (model, load_model(checkpoint(in_channels), "same", torch.device("cpu"), torch.float32)):
        with Engine(source) as engine:
            pictures.append(np.asarray(engine.paint(request).images[0], dtype=int))
    # Four bits of mantissa move a random model's colours more than they would a trained one's.
    assert np.abs(pictures[0] - pictures[1]).mean() < (20 if form == "fp8" else 2)
    assert np.abs(pictures[0] - np.asarray(request.image, dtype=int)).mean() > 10, "something was painted"
