"""Parsing of LoRA files: two matrices and an alpha for each layer that a file names.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; for convolutions as LyCORIS'
LoCon has it, ``down`` with the kernel, ``up`` 1×1.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from inpaint.errors import ModelError

_PAIR = re.compile(
    r"(?P<layer>.+?)[._](?:"
    r"(?P<down>lora_down|lora[._]down|lora_A|lora_linear_layer\.down)|"
    r"(?P<up>lora_up|lora[._]up|lora_B|lora_linear_layer\.up)"
    r")(?:\.default)?\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
# Prefix of a key → the part of the model that it is about; longer prefixes first.
_PARTS = {
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "unet.": "unet",
    "lora_unet_": "unet",
}
_ADAPTER = "base_model.model."
PARTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(slots=True, eq=False)
class Factors:
    """The two matrices and the alpha of one layer."""

    down: torch.Tensor | None = None  # (rank, in) or (rank, in, kh, kw)
    up: torch.Tensor | None = None  # (out, rank) or (out, rank, 1, 1)
    alpha: float | None = None  # None: the file does not say, and the rank is meant


@dataclass(slots=True, eq=False)
class LoraTensors:
    """The factors in a LoRA file, by part of the model and by the file's layer names without prefixes."""

    unet: dict[str, Factors] = field(default_factory=dict)
    text_encoder: dict[str, Factors] = field(default_factory=dict)
    text_encoder_2: dict[str, Factors] = field(default_factory=dict)

    def of(self, part: str) -> dict[str, Factors]:
        """Return the factors of one of ``PARTS``."""
        found: dict[str, Factors] = getattr(self, part)
        return found


def read(file: Path) -> LoraTensors:
    """Read a LoRA file.

    Raises:
        ModelError: it is missing, damaged or no LoRA, or of a kind that cannot be merged this way.
    """
    tensors = LoraTensors()
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            for key in stored.keys():  # noqa: SIM118 - safe_open is no mapping
                # A copy: safe_open may return a page of the file, which another program may write to.
                _take(file, tensors, key, stored.get_tensor(key).clone())
    except (OSError, SafetensorError) as error:
        reason = str(error).replace(str(file), file.name)
        raise ModelError(f"{file.name} cannot be read as a .safetensors file ({reason})") from None
    if not any(tensors.of(part) for part in PARTS):
        raise ModelError(f"{file.name} holds no LoRA")
    for part in PARTS:
        alphas = _alphas(metadata, part)
        for name, factors in tensors.of(part).items():
            factors.alpha = _alpha_of(name, alphas) if factors.alpha is None else factors.alpha
    return tensors


def _take(file: Path, tensors: LoraTensors, key: str, tensor: torch.Tensor) -> None:
    pair, alpha = _PAIR.fullmatch(key), _ALPHA.fullmatch(key)
    if pair is None and alpha is None:
        raise ModelError(
            f"{file.name} is not a plain LoRA: it has {key}; LoHa, LoKr, DoRA and the like cannot be merged"
        )
    part, name = bare((pair or alpha)["layer"])  # type: ignore[index]
    factors = tensors.of(part).setdefault(name, Factors())
    if pair is None:
        factors.alpha = float(tensor)
    elif pair["down"]:
        factors.down = tensor
    else:
        factors.up = tensor


def bare(layer: str) -> tuple[str, str]:
    """Return the part of the model and the layer's name, without the prefixes and infixes of some files."""
    layer = layer.removeprefix(_ADAPTER)
    prefix = next((prefix for prefix in _PARTS if layer.startswith(prefix)), "")
    part, layer = _PARTS.get(prefix, "unet"), layer.removeprefix(prefix).removeprefix(_ADAPTER)
    if part != "unet":
        return part, re.sub(r"\bself_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", layer)
    # diffusers' first LoRAs hung on the attention processors.
    return part, re.sub(r"\.processor\.(to_[qkv]|to_out)$", r".\1", layer).removesuffix(".processor")


def _alphas(metadata: Mapping[str, str], part: str) -> dict[str, float]:
    """Read the alphas from the header that diffusers writes since 0.34.

    Returns:
        Alpha by the ending of a layer's name; "" stands for all other layers.

    Raises:
        ModelError: the header says that the file must be merged in another way.
    """
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    if config.get(f"{part}.use_rslora") or config.get(f"{part}.use_dora"):
        raise ModelError("a LoRA with rank-stabilised scale (rsLoRA) or DoRA cannot be merged")
    found = {name: float(alpha) for name, alpha in (config.get(f"{part}.alpha_pattern") or {}).items()}
    return found | ({"": float(config[f"{part}.lora_alpha"])} if f"{part}.lora_alpha" in config else {})


def _alpha_of(name: str, alphas: Mapping[str, float]) -> float | None:
    endings = [ending for ending in alphas if f".{name}".endswith(f".{ending}")]
    return alphas[endings[0]] if endings else alphas.get("")
