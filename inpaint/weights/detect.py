"""Detection of single ``.safetensors`` files by their header: SDXL checkpoints, and the kinds that are not.

People download files by the dozen, and a LoRA looks like a checkpoint until it is opened.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inpaint.weights.header import check_safetensors, refuse
from inpaint.weights.key_names import FIRST, PREFIXES, SECOND, UNET, UNET_PREFIXES, VAE
from inpaint.weights.prediction import settings_of_file
from inpaint.weights.safety import check_in_channels

_UNET_INPUT = "input_blocks.0.0.weight"
_SDXL_ONLY = "label_emb.0.0.weight"  # sizes and crops, which SD 1 and 2 do not know
_REFINER = "conditioner.embedders.0.model."
# Text encoders of others, one of which has label_emb as well; and a ControlNet, which has half a UNet.
_NOT_SDXL = (_REFINER, "cond_stage_model.", "input_hint_block.")
_WORDS: Mapping[str, str] = {
    UNET: "UNet",
    VAE: "VAE",
    FIRST: "first text encoder",
    SECOND: "second text encoder",
}
_ONLY_SDXL = "only SDXL and what was tuned from it works here"
# Pattern of tensor names → the kind of the file; the first that matches is reported.
_OTHERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (
            r".*(lora_(up|down|unet|te\d?)|lora[._](up|down|A|B)\b|hada_w\d|lokr_w\d|dora_scale).*",
            "it is a LoRA, which changes a checkpoint instead of being one; name a checkpoint, and the LoRA "
            "with --lora",
        ),
        (
            r"(control_model|controlnet_\w+|input_hint_block)\..*",
            "it is a ControlNet, which is not used here",
        ),
        (rf"{re.escape(_REFINER)}.*", f"it is SDXL's refiner, which cannot begin a picture; {_ONLY_SDXL}"),
        (r"cond_stage_model\.model\..*", f"it is a Stable Diffusion 2 checkpoint; {_ONLY_SDXL}"),
        (r"cond_stage_model\..*", f"it is a Stable Diffusion 1 checkpoint; {_ONLY_SDXL}"),
        (
            r"((model\.)?diffusion_model\.)?joint_blocks\..*",
            f"it is a Stable Diffusion 3 model; {_ONLY_SDXL}",
        ),
        (r"((model\.)?diffusion_model\.)?double_blocks\..*", f"it is a Flux model; {_ONLY_SDXL}"),
        (
            r"unet\.(down_blocks|conv_in)\..*",
            "it holds the parts of a diffusers folder in one file, which no program reads; bring that "
            "folder, or the model's single file in the original layout",
        ),
        (r"(ip_adapter|image_proj)\..*", "it is an IP-Adapter, which is not used here"),
        (r"clip_[lg]|emb_params", "it is a textual inversion (an embedding), which is not used here"),
        (
            r"(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid)\..*",
            "it is a VAE alone; name the checkpoint that it belongs to",
        ),
        (
            r"(down_blocks|up_blocks)\..*",
            "it is the UNet of a diffusers folder; name that folder, the one with model_index.json",
        ),
        (r"(text_model|transformer|encoder\.layers)\..*", "it is a text encoder alone; name a checkpoint"),
    )
)
_QUANTISED = re.compile(
    r".*(scaled_fp8|\.scale_weight|\.weight_scale|\.absmax|\.quant_state\..*|\.comfy_quant)"
)
_EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max")  # tensors that only mark the file
_GUIDANCE_INPUT = "time_embed.cond_proj.weight"


def check_single_file(path: Path, *, whole: bool = True, predicts: str | None = None) -> None:
    """Check that a file is an SDXL checkpoint in a single file, with 4 or 9 input channels.

    Args:
        path: the file.
        whole: whether the file must hold the text encoders and the VAE too, and not only the UNet.
        predicts: what the caller says that its UNet predicts, see ``prediction``.

    Raises:
        ModelError: it is unsafe, or of another kind, which the message names.
    """
    header = check_safetensors(path)
    prefix = _unet_prefix(header)
    if prefix is None or any(name.startswith(_NOT_SDXL) for name in header):
        refuse(path, _what_else(header))
    shape = header.get(prefix + _UNET_INPUT, {}).get("shape")
    if not isinstance(shape, list) or len(shape) != 4:
        refuse(path, f"it is damaged: it has no {prefix}{_UNET_INPUT} of a convolution's shape")
    check_in_channels(path, shape[1])
    _check_served(path, header, prefix)
    settings_of_file(path, header, predicts)
    missing = [_WORDS[component] for component in PREFIXES if not _has(header, component)]
    if whole and prefix != UNET_PREFIXES[0]:
        refuse(
            path,
            "its UNet is named as ComfyUI names one without the rest; import it with --parts-from "
            "sdxl-inpainting, which takes what is missing from that model",
        )
    if whole and missing:
        refuse(
            path,
            f"there is no {' and no '.join(missing)} in it; import it with --parts-from sdxl-inpainting, "
            "which takes what is missing from that model",
        )


def _check_served(path: Path, header: Mapping[str, Any], prefix: str) -> None:
    """Check that nothing in the file needs a sampler or an input that does not exist here."""
    if any(_QUANTISED.fullmatch(name) for name in header):
        refuse(path, "its weights are packed (quantised with scales); bring the fp16 file of the same model")
    if any(name in header for name in _EDM):
        refuse(path, "it is an EDM model, as Playground v2.5 and CosXL are, which no sampler here can paint")
    if prefix + _GUIDANCE_INPUT in header:
        refuse(
            path,
            "its UNet takes the guidance scale as an input, as distilled LCM models do, and nothing here "
            "gives it; use the model that it was distilled from, with --few-step-lora",
        )


def _unet_prefix(header: Mapping[str, Any]) -> str | None:
    return next((prefix for prefix in UNET_PREFIXES if prefix + _SDXL_ONLY in header), None)


def _has(header: Mapping[str, Any], component: str) -> bool:
    return any(name.startswith(PREFIXES[component]) for name in header)


def _what_else(header: Mapping[str, Any]) -> str:
    for pattern, what in _OTHERS:
        if any(pattern.fullmatch(name) for name in header):
            return what
    if any(prefix + _UNET_INPUT in header for prefix in UNET_PREFIXES):
        return f"it is the UNet of Stable Diffusion 1 or 2; {_ONLY_SDXL}"
    return "it is not an SDXL checkpoint, and of no kind that is known here"
