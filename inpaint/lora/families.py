"""Names for files that are no LoRA of SDXL: other kinds of file, and LoRAs of other models."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch

_ONLY_SDXL = "only LoRAs of SDXL, and of what was tuned from it, work here"

# Pattern of a tensor's name → what a file without any LoRA's tensor is; the first that matches is reported.
_OTHERS = tuple(
    (re.compile(pattern, re.IGNORECASE), what)
    for pattern, what in (
        (r"(control_model|controlnet_\w+|input_hint_block)\..*", "is a ControlNet, which is not used here"),
        (r"(ip_adapter|image_proj)\..*", "is an IP-Adapter, which is not used here"),
        (
            r".*\.(oft_r|boft_[rps]|ia3_l|vera_lambda_[bd]|hra_u|c3a_kernel|fourierft_spectrum)\b.*",
            "holds an adapter of PEFT in a format that is not read here, such as its own OFT or IA3",
        ),
        (
            r"(model\.diffusion_model|conditioner|cond_stage_model)\..*|(double|joint)_blocks\..*",
            "is a checkpoint, not a LoRA; `inpaint models import` takes those of SDXL",
        ),
        (
            r"clip_[lg]|emb_params|string_to_param.*|bundle_emb\..*",
            "is a textual inversion (an embedding), which is not used here",
        ),
        (
            r"(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|down|up|mid_block)\..*",
            "is a VAE, not a LoRA",
        ),
        (r"(unet\.|diffusion_model\.)?(down_blocks|up_blocks|input_blocks)\..*", "is a UNet, not a LoRA"),
        (r"(text_model|text_encoder(_2)?|encoder\.layers)\..*", "is a text encoder, not a LoRA"),
    )
)
# Pattern of a key → the model that its LoRA is for.
_MODELS = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r".*(double_blocks|single_blocks|single_transformer_blocks)[._].*", "Flux, or a model like it"),
        (r".*joint_blocks[._].*|lora_te3_.*", "Stable Diffusion 3"),
        (r".*(lora_)?transformer[._].*transformer_blocks[._]\d+[._]attn[._].*", "Stable Diffusion 3 or Flux"),
        (r"lora_prior_.*", "Stable Cascade"),
        (r".*\bblocks[._]\d+[._](self_attn|cross_attn|ffn)[._].*", "Wan, a model of videos"),
        (
            r"(transformer|diffusion_model|base_model\.model)[._](transformer_)?(blocks|layers)[._]\d+[._].*",
            "a diffusion transformer",
        ),
    )
)
_SD_LAYERS = re.compile(
    r"(down_blocks[._]0[._]attentions|up_blocks[._]3[._]|input_blocks[._][12][._]1[._]).*"
)
_CROSS = re.compile(r".*attn2[._]to_[kv]")
_BY_WIDTH = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "SDXL's refiner"}  # of the text


def not_a_lora(keys: Iterable[str]) -> str:
    """Return what a file without a LoRA's tensors is, as the rest of a sentence."""
    for pattern, what in _OTHERS:
        if any(pattern.fullmatch(key) for key in keys):
            return what
    return "holds no LoRA, and nothing else that is known here"


def other_model(keys: Sequence[str], layers: Mapping[str, Mapping[str, torch.Tensor]]) -> str | None:
    """Return the model that a LoRA which does not fit was made for, as a sentence; None if that is unknown.

    Args:
        keys: all keys of the file.
        layers: the tensors of the UNet's layers.
    """
    model = next((what for pattern, what in _MODELS if any(map(pattern.fullmatch, keys))), None)
    if model is None:
        widths = {_BY_WIDTH.get(_width(roles)) for name, roles in layers.items() if _CROSS.fullmatch(name)}
        model = next(iter(widths)) if len(widths) == 1 else None
    if model is None and any(map(_SD_LAYERS.fullmatch, layers)):
        model = "Stable Diffusion 1 or 2"
    return None if model is None else f"it was made for {model}; {_ONLY_SDXL}"


def _width(roles: Mapping[str, torch.Tensor]) -> int:
    down = roles.get("down", roles.get("hada_w1_b"))
    return 0 if down is None or down.ndim < 2 else down.shape[1]
