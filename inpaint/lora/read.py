"""Reading of LoRA files: the tensors of each layer that a file names, and the scales that it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from inpaint.errors import ModelError
from inpaint.lora.families import not_a_lora, other_model
from inpaint.lora.names import PARTS, Place, place_of
from inpaint.lora.peft import HEADER, Scales, scales_of_config, scales_of_header, sidecar

_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
_PEFT_KEY = "base_model.model."


@dataclass(slots=True, eq=False)
class LoraTensors:
    """The content of a LoRA file."""

    # part of the model → layer, as the file names it but without prefixes → role → tensor
    layers: dict[str, dict[str, dict[str, torch.Tensor]]]
    scales: dict[str, Scales]  # by part
    keys: Sequence[str]  # all of the file's
    unknown: Sequence[str]  # those that no format has
    warnings: list[str] = field(default_factory=list)


def read(file: Path) -> LoraTensors:
    """Read a LoRA file.

    Raises:
        ModelError: it is missing, damaged or no LoRA.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            metadata, keys = stored.metadata() or {}, sorted(stored.keys())
            places = _places(keys)
            if not places:
                raise ModelError(f"{file.name} {not_a_lora(keys)}")
            # A copy: safe_open may return a page of the file, which another program may write to.
            tensors = {key: stored.get_tensor(key).clone() for key in places}
    except (OSError, SafetensorError) as error:
        # It may repeat the header, line breaks included.
        reason = " ".join(str(error).replace(str(file), file.name).split())[:200]
        raise ModelError(f"{file.name} cannot be read as a .safetensors file ({reason})") from None
    found = LoraTensors({part: {} for part in PARTS}, {}, keys, [key for key in keys if key not in places])
    for key, (part, layer, role) in places.items():
        found.layers[part].setdefault(layer, {})[role] = _floating(file, key, role, tensors[key])
    found.scales = _scales(file, metadata, found)
    return found


def unfit(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return what a file is that no SDXL model can use, by its header alone; None if one may.

    Args:
        shapes: of the file's tensors, by key.
    """
    keys = sorted(shapes)
    places = _places(keys)
    if not places:
        return f"it {not_a_lora(keys)}"
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, (part, layer, role) in places.items():
        if part == "unet":
            layers.setdefault(layer, {})[role] = torch.empty(tuple(shapes[key]), device="meta")
    return other_model(keys, layers)


def _places(keys: Sequence[str]) -> dict[str, Place]:
    places = {key: place for key in keys if (place := place_of(key)) is not None}
    scaled = {place[:2] for place in places.values() if place.role == "on_input"}
    # Only IA3 has a "weight", next to "on_input"; elsewhere that is a checkpoint's.
    return {key: place for key, place in places.items() if place.role != "weight" or place[:2] in scaled}


def _floating(file: Path, key: str, role: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in a dtype that can be computed with."""
    if role in ("alpha", "scalar", "on_input"):
        if tensor.numel() != 1:
            raise ModelError(f"{file.name} is damaged: {key} holds {tensor.numel()} numbers instead of one")
        return tensor.reshape(()).float()
    if tensor.dtype in _FP8:
        return tensor.half()  # torch has no products and few checks of fp8; fp16 holds all of its values
    if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"{file.name} is stored in a packed form ({key} is {kind}); bring the fp16 file of it"
        )
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _scales(file: Path, metadata: Mapping[str, Any], found: LoraTensors) -> dict[str, Scales]:
    config = sidecar(file)
    if config is not None:
        scales = scales_of_config(config)
        return dict.fromkeys(PARTS, scales)
    if HEADER in metadata:
        try:
            return {part: scales_of_header(metadata[HEADER], part) for part in PARTS}
        except ValueError:
            found.warnings.append(f"the {HEADER} in its header cannot be read; alpha is taken to be the rank")
    elif any(key.startswith(_PEFT_KEY) for key in found.keys) and not any(
        key.endswith(".alpha") for key in found.keys
    ):
        found.warnings.append(
            "it names no alpha, and PEFT's adapter_config.json is not next to it; alpha is taken "
            "to be the rank"
        )
    return dict.fromkeys(PARTS, Scales())
