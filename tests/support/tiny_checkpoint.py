"""A tiny SDXL inpainting checkpoint with random weights, in the genuine diffusers folder layout.

It proves plumbing, not pictures: it paints coloured noise. Everything about it is real but its size:
SDXL's text-time conditioning, two CLIP text encoders, byte-level BPE tokenizer files, a VAE of factor 8.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.checkpoint_layout import SPECIAL, write_index, write_tokenizer

NATIVE_SIZE = 128  # pixels; the UNet's sample_size × 8


def write_tiny_checkpoint(folder: Path, in_channels: int = 9, seed: int = 0) -> Path:
    """Write the checkpoint into ``folder``, whole or not at all; an existing folder is kept as it is.

    Args:
        folder: where to; its parent is made.
        in_channels: of the UNet, 9 (inpainting) or 4 (SDXL base).
        seed: of the random weights.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tiny-") as staging:
        ready = Path(staging) / "model"
        _write(ready, in_channels, seed)
        try:
            ready.rename(folder)
        except OSError:  # another process was faster and its folder is just as good
            if not folder.exists():
                raise
    return folder


def _write(folder: Path, in_channels: int, seed: int) -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = {
            "unet": UNet2DConditionModel(in_channels=in_channels, **_UNET),
            "vae": AutoencoderKL(**_VAE),
            "text_encoder": CLIPTextModel(_text_config(projection=False)),
            "text_encoder_2": CLIPTextModelWithProjection(_text_config(projection=True)),
        }
    with _quiet():  # else the output of a test's command begins with it, if that test is the first to ask
        for name, module in modules.items():
            module.save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer", pad_token=SPECIAL[1])
    write_tokenizer(folder / "tokenizer_2", pad_token="!")
    write_index(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _text_config(*, projection: bool) -> Any:
    from transformers import CLIPTextConfig

    vocab_size = 2 * 256 + len(SPECIAL)
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=48 if projection else 32,  # unlike, as SDXL's 768 and 1280: loaders go by it
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=48,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=0 if projection else vocab_size - 1,
    )


_UNET: dict[str, Any] = {
    "sample_size": NATIVE_SIZE // 8,
    "out_channels": 4,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 2, 4),
    "norm_num_groups": 16,
    "cross_attention_dim": 32 + 48,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 48,
}
_VAE: dict[str, Any] = {
    "sample_size": NATIVE_SIZE,
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.13025,
    "force_upcast": False,
}
