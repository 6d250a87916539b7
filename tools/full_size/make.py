"""Write a full-size SDXL inpainting checkpoint with random weights: the real shapes, about 7 GB in fp16.

It serves to measure load time, memory and speed where the real one cannot be downloaded; it paints noise.
Files are written tensor by tensor, so that this tool needs little memory.

    python tools/full_size/make.py FOLDER [--in-channels 9|4] [--seed 0]
"""

import argparse
import itertools
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from inpaint.errors import InpaintError, OutputError
from tools.checkpoint_layout import write_index, write_tokenizer

# The configs of diffusers/stable-diffusion-xl-1.0-inpainting-0.1; keys not named are the classes' defaults.
UNET: Mapping[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: Mapping[str, Any] = {
    "sample_size": 1024,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
    "force_upcast": False,
}
_TEXT: Mapping[str, Any] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 0,  # the real files' ids, from before transformers' #24773; eos 2 pools at the highest id
    "eos_token_id": 2,
    "pad_token_id": 1,
}
TEXT: Mapping[str, Any] = {
    **_TEXT,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
TEXT_2: Mapping[str, Any] = {
    **_TEXT,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
# Published counts. A wrong config would load and paint, too, and every measurement on it would be wrong.
PARAMETERS: Mapping[str, int] = {
    "unet": 2_567_478_084,  # with 9 input channels
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
}
_FIVE_MORE_CHANNELS = 5 * 320 * 3 * 3  # in the UNet's first convolution
_BYTES_FP16 = 2
_HEADROOM_BYTES = 50_000_000  # configs, tokenizers, the filesystem's own need


def build(in_channels: int) -> dict[str, Any]:
    """Build the four components by folder name, on the meta device: shapes without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(in_channels=in_channels, **UNET),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2)),
        }


def expected_parameters(component: str, in_channels: int) -> int:
    """Return the number of parameters of the real component."""
    fewer = _FIVE_MORE_CHANNELS if component == "unet" and in_channels == 4 else 0
    return PARAMETERS[component] - fewer


def write_checkpoint(
    folder: Path, in_channels: int = 9, seed: int = 0, free_bytes: int | None = None
) -> None:
    """Write the checkpoint into ``folder``, whole or not at all.

    Args:
        folder: of the checkpoint; must not exist, its parent is made.
        in_channels: of the UNet, 9 (inpainting) or 4 (SDXL base).
        seed: of the random weights.
        free_bytes: the disk's free space, measured unless given; tests give it.

    Raises:
        OutputError: the folder exists, or the disk is too small.
    """
    if folder.exists():
        raise OutputError(f"{folder} exists already; name a folder that does not, or delete it first")
    components = build(in_channels)
    for name, module in components.items():
        count = sum(p.numel() for p in module.parameters())
        assert count == expected_parameters(name, in_channels), (name, count)
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = _BYTES_FP16 * sum(PARAMETERS.values()) + _HEADROOM_BYTES
    free = shutil.disk_usage(folder.parent).free if free_bytes is None else free_bytes
    if free < needed:
        raise OutputError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, but the checkpoint needs {needed / 1e9:.1f} GB"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".full-size-") as staging:
        ready = Path(staging) / "model"
        write_components(ready, components, torch.Generator().manual_seed(seed))
        ready.rename(folder)


def write_components(folder: Path, components: Mapping[str, Any], generator: torch.Generator) -> None:
    """Write configs, random weights of the components' shapes, tokenizers with CLIP's ids, and the index."""
    for name, module in components.items():
        text = name.startswith("text")
        stem = "model" if text else "diffusion_pytorch_model"
        (module.config.save_pretrained if text else module.save_config)(folder / name)
        _write_tensors(
            folder / name / f"{stem}.fp16.safetensors", _named_as_published(name, module), generator
        )
    merges = merges_of(TEXT["vocab_size"])
    write_tokenizer(folder / "tokenizer", pad_token="<|endoftext|>", merges=merges)
    write_tokenizer(folder / "tokenizer_2", pad_token="!", merges=merges)
    write_index(folder)


def _named_as_published(component: str, module: Any) -> dict[str, torch.Tensor]:
    """Return name → parameter; the published first text encoder has a prefix that transformers 5 dropped."""
    prefix = "text_model." if component == "text_encoder" else ""
    return {prefix + name: parameter for name, parameter in sorted(module.named_parameters())}


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], generator: torch.Generator) -> None:
    """Write a safetensors file of random fp16 values, one tensor in memory at a time.

    ``save_file`` would need all of them in memory.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + _BYTES_FP16 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for done, (name, tensor) in enumerate(tensors.items(), 1):
            file.write(_values(name, tensor.shape, generator).numpy().data)
            if done % 50 == 0 or done == len(tensors):
                print(f"\r{path.parent.name}: {done} of {len(tensors)} tensors", end="", file=sys.stderr)
    print(f", {path.stat().st_size / 1e9:.2f} GB", file=sys.stderr)


def _values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Draw values as the modules' own initialisation does, so that activations stay finite in fp16."""
    if len(shape) == 1:  # a bias, or a norm's gain
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    # torch's default for Linear and Conv2d is uniform with this deviation; CLIP's for embeddings is 0.02.
    std = 0.02 if "embeddings." in name else 1 / math.sqrt(3 * math.prod(shape[1:]))
    return torch.empty(shape).normal_(0, std, generator=generator).half()


def merges_of(vocab_size: int) -> tuple[str, ...]:
    """Return merges that bring :func:`write_tokenizer`'s vocabulary to ``vocab_size``, with CLIP's ids."""
    printable = [chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    pairs: Iterator[str] = (f"{a} {b}{end}" for end in ("</w>", "") for a in printable for b in printable)
    return tuple(itertools.islice(pairs, vocab_size - 2 * 256 - 2))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to write to; must not exist")
    parser.add_argument("--in-channels", type=int, choices=(9, 4), default=9, help="of the UNet (default 9)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    chosen = parser.parse_args(arguments)
    try:
        write_checkpoint(chosen.folder, chosen.in_channels, chosen.seed)
    except InpaintError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
