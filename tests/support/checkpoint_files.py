"""Checkpoints for tests of files and names: the real layout around tensors of a few bytes, without torch."""

import json
from collections.abc import Mapping
from pathlib import Path

INDEX: dict[str, object] = {
    "_class_name": "StableDiffusionXLInpaintPipeline",
    "_diffusers_version": "0.21.0",
    "force_zeros_for_empty_prompt": True,
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}


def safetensors(
    tensors: Mapping[str, list[int]] | None = None, metadata: Mapping[str, str] | None = None
) -> bytes:
    """A well-formed file of byte tensors with these shapes, and with this metadata in addition."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, shape in (tensors or {"w": [4]}).items():
        size = 1
        for side in shape:
            size *= side
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def single_file(in_channels: int = 9) -> bytes:
    """The tensors by which a single-file SDXL checkpoint is known."""
    return safetensors(sdxl_tensors(in_channels))


def sdxl_tensors(in_channels: int = 9) -> dict[str, list[int]]:
    """Name → shape of one tensor of each part, and those that tell SDXL's UNet from others."""
    return {
        "model.diffusion_model.input_blocks.0.0.weight": [2, in_channels, 3, 3],
        "model.diffusion_model.label_emb.0.0.weight": [2, 2],
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": [4],
        "conditioner.embedders.1.model.ln_final.weight": [4],
        "first_stage_model.decoder.conv_in.weight": [4],
    }


def write_folder(folder: Path, in_channels: int = 9, variant: str = "") -> Path:
    """A diffusers SDXL folder; ``variant`` is "" or ".fp16"."""
    files: dict[str, bytes] = {
        "model_index.json": json.dumps(INDEX).encode(),
        "scheduler/scheduler_config.json": b'{"_class_name": "EulerDiscreteScheduler"}',
        "unet/config.json": json.dumps({"in_channels": in_channels}).encode(),
    }
    for component, stem in WEIGHTS.items():
        files.setdefault(f"{component}/config.json", b"{}")
        files[f"{component}/{stem}{variant}.safetensors"] = safetensors()
    for tokenizer in ("tokenizer", "tokenizer_2"):
        files[f"{tokenizer}/vocab.json"] = b"{}"
        files[f"{tokenizer}/merges.txt"] = b"#version: 0.2\n"
        files[f"{tokenizer}/tokenizer_config.json"] = b"{}"
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder
