"""Scales that PEFT and diffusers keep apart from the tensors: in the header, or in ``adapter_config.json``.

Source: PEFT's ``LoraConfig``, ``LoHaConfig`` and ``LoKrConfig``; rank-stabilised scales are Kalajdzievski, "A
Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inpaint.errors import ModelError

_WEIGHTS, _CONFIG = "adapter_model", "adapter_config.json"  # as PEFT's save_pretrained names them
_MAX_CONFIG_BYTES = 1024**2
HEADER = "lora_adapter_metadata"  # written by diffusers since 0.34


@dataclass(frozen=True, slots=True)
class Scales:
    """The alphas and ranks of layers, by the ending of the layer's name; "" stands for all other layers."""

    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False  # alpha / √rank instead of alpha / rank (rsLoRA)
    dora: bool = False  # each layer must have a magnitude

    def factor(self, layer: str, alpha: float | None, rank: int | None) -> float:
        """Return what multiplies a layer's ΔW.

        Args:
            layer: the layer's name.
            alpha: as the file's tensors say; None if they do not.
            rank: as the tensors' shapes say; None if they do not.
        """
        if (
            rank is None and alpha is not None
        ):  # LoKr with two full matrices: LyCORIS writes an alpha without use
            return 1.0
        alpha = _of(layer, self.alphas) if alpha is None else alpha
        known = rank or _of(layer, self.ranks)
        if alpha is None or not known:
            return 1.0
        return alpha / (math.sqrt(known) if self.by_root else known)


def sidecar(file: Path) -> Path | None:
    """Return the ``adapter_config.json`` that PEFT has written next to ``file``, if there is one."""
    path = file.with_name(_CONFIG)
    return path if file.stem == _WEIGHTS and path.is_file() else None


def scales_of_config(path: Path) -> Scales:
    """Read an ``adapter_config.json``.

    Raises:
        ModelError: it cannot be read, or is none.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            raise TypeError
        return _scales(config)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, RecursionError):
        raise ModelError(f"{path.name} is damaged: it is no configuration of PEFT") from None


def scales_of_header(text: str, part: str) -> Scales:
    """Read the scales of one part of the model from the text under :data:`HEADER`.

    Raises:
        ValueError: it is no object in JSON, or holds no numbers.
    """
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            raise TypeError
        prefix = f"{part}."
        return _scales({k.removeprefix(prefix): v for k, v in config.items() if k.startswith(prefix)})
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _scales(config: Mapping[str, Any]) -> Scales:
    alpha = config.get("lora_alpha", config.get("alpha"))  # LoHa and LoKr call it alpha
    return Scales(
        alphas=_numbers(config.get("alpha_pattern"), alpha),
        ranks=_numbers(config.get("rank_pattern"), config.get("r")),
        by_root=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
    )


def _numbers(pattern: Any, default: Any) -> dict[str, float]:
    """Return numbers by the endings that ``pattern`` has, and the default under ""."""
    rows = {**dict(pattern or {}), **({} if default is None else {"": default})}
    found = {_ending(str(name)): float(value) for name, value in rows.items()}
    if not all(map(math.isfinite, found.values())):
        raise ValueError("not a finite number")
    return found


def _ending(pattern: str) -> str:
    # PEFT reads them as regular expressions, but writes names. A stranger's expression is not run: some take
    # exponential time.
    return pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")


def _of(layer: str, numbers: Mapping[str, float]) -> float | None:
    endings = [ending for ending in numbers if ending and f".{layer}".endswith(f".{ending}")]
    return numbers[endings[0]] if endings else numbers.get("")
