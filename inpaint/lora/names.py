"""Names in LoRA files: which tensor of which layer of which part of the model a key is about."""

import re
from typing import NamedTuple

PARTS = ("unet", "text_encoder", "text_encoder_2")

# Prefix of a key → the part of the model; a prefix stands before all that begin with a part of it.
_PREFIXES = {
    "text_encoders.clip_l.transformer.": "text_encoder",  # ComfyUI, OneTrainer's COMFY export
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoder_2.": "text_encoder_2",  # diffusers
    "text_encoder.": "text_encoder",
    "lora_te2_": "text_encoder_2",  # kohya
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "clip_l.": "text_encoder",  # OMI
    "clip_g.": "text_encoder_2",
    "unet.": "unet",
    "lora_unet_": "unet",
    "lycoris_": "unet",  # LyCORIS' wrapper, SimpleTuner
    "model.diffusion_model.": "unet",  # as checkpoints have it
    "diffusion_model.": "unet",  # ComfyUI
}
_PEFT = "base_model.model."
_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"  # PEFT's name of an adapter, such as ".default_0"

_PAIR = re.compile(
    r"(?P<layer>.+?)[._](?:"
    r"(?P<down>lora_down|lora[._]down|lora_A|lora_linear_layer\.down)|"
    r"(?:lora_up|lora[._]up|lora_B|lora_linear_layer\.up)"
    rf"){_ADAPTER}\.(?P<kind>weight|bias)"
)
_MAGNITUDE = re.compile(r"(?P<layer>.+?)\.lora_magnitude_vector(?:\.[^.]+){0,2}")
_LYCORIS = re.compile(
    rf"(?P<layer>.+?)\.(?P<role>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)){_ADAPTER}"
)
_OTHER = re.compile(
    r"(?P<layer>.+?)\.(?P<role>lora_mid\.weight|(?:a1|a2|b1|b2|bm)\.weight|oft_blocks|rescale|on_input|weight|"
    r"diff_b|diff|w_norm|b_norm|dora_scale|alpha|scalar)"
)
# LyCORIS' differences of norm layers are differences like any other.
_RENAMED = {"w_norm": "diff", "b_norm": "diff_b", "lora_mid": "mid"}


class Place(NamedTuple):
    """The tensor that a key of a LoRA file names."""

    part: str  # one of PARTS
    layer: str  # without the prefixes of some files
    role: str  # such as "down" or "hada_w1_a"


def place_of(key: str) -> Place | None:
    """Return what a key names; None if it is none of a LoRA's."""
    if found := _PAIR.fullmatch(key):
        role = "down" if found["down"] else "up"
        if found["kind"] == "bias":
            if role == "down":  # no tool writes it
                return None
            role = "up_bias"
    elif found := _MAGNITUDE.fullmatch(key):
        role = "magnitude"
    elif found := _LYCORIS.fullmatch(key) or _OTHER.fullmatch(key):
        role = found["role"].removesuffix(".weight")
    else:
        return None
    return Place(*bare(found["layer"]), _RENAMED.get(role, role))


def bare(layer: str) -> tuple[str, str]:
    """Return the part of the model and the layer's name, without the prefixes and infixes of some files."""
    layer = layer.removeprefix(_PEFT)
    prefix = next((prefix for prefix in _PREFIXES if layer.startswith(prefix)), "")
    part, layer = _PREFIXES.get(prefix, "unet"), layer.removeprefix(prefix).removeprefix(_PEFT)
    if part != "unet":
        return part, re.sub(r"\bself_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", layer)
    # diffusers' first LoRAs hung on the attention processors.
    return part, re.sub(r"\.processor\.(to_[qkv]|to_out)$", r".\1", layer).removesuffix(".processor")
