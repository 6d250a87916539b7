"""Safetensors files as the fuzzer makes and changes them: a length, a JSON header, the tensors."""

import json
import math
import random
import struct
from collections.abc import Mapping
from typing import Any

from tools.fuzz.mutations import bytes_changed, json_bytes, json_changed

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1,
         "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
_MAX_TENSORS_BYTES = 4_000_000


def packed(
    shapes: Mapping[str, list[int]], dtype: str = "F32", metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write a file of tensors of one number."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    header |= {name: {"dtype": dtype, "shape": shape} for name, shape in shapes.items()}
    return _laid_out(header, b"")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change the header's names, kinds, shapes or metadata, and lay the tensors out anew most of the time."""
    header, rest = _split(data)
    if header is None or chance.random() < 0.2:
        return repaired(bytes_changed(data, chance))
    changed = json_changed(header, chance)
    if chance.random() < 0.3:
        changed = _named_otherwise(changed, chance)
    if isinstance(changed, dict) and chance.random() < 0.85:
        return _laid_out(changed, bytes_changed(rest, chance) if chance.random() < 0.5 else rest)
    return _joined(json_bytes(changed), rest)


def repaired(data: bytes) -> bytes:
    """Correct the length of the header, where it ends with its last closing bracket."""
    end = data.rfind(b"}")
    return data if end < 8 else _joined(data[8 : end + 1], data[end + 1 :])


def _named_otherwise(header: Any, chance: random.Random) -> Any:
    """Exchange a part of a tensor's name for another that files have."""
    names = [name for name in header if name != "__metadata__"] if isinstance(header, dict) else []
    if not names:
        return header
    name = chance.choice(names)
    parts = (
        "lora_down", "lora_up", "lora_A", "lora_B", "lora_mid", "alpha", "dora_scale", "hada_w1_a", "lokr_w1",
        "lokr_t2", "diff", "diff_b", "w_norm", "scalar", "oft_blocks", "weight", "lora_unet_", "unet.",
        "bundle_emb",
        "default_0", "lora_te1_", "text_encoder_2.", "base_model.model.", "lycoris_", "a1", "b2", "on_input",
    )  # fmt: skip
    found = [part for part in parts if part in name] or [name.rpartition(".")[2]]
    return {**header, name.replace(chance.choice(found), chance.choice(parts)): header[name]}


def _split(data: bytes) -> tuple[dict[str, Any] | None, bytes]:
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return None, b""
    return (header if isinstance(header, dict) else None), data[8 + length :]


def _laid_out(header: dict[str, Any], rest: bytes) -> bytes:
    """Give each tensor the bytes that its kind and shape need; those that say nonsense keep what they say."""
    at, placed = 0, {}
    for name, value in header.items():
        placed[name] = value
        if name == "__metadata__" or not isinstance(value, dict):
            continue
        shape, size = value.get("shape"), BYTES.get(str(value.get("dtype")), 4)
        if isinstance(shape, list) and all(isinstance(side, int) and 0 <= side < 10**6 for side in shape):
            size *= math.prod(shape)
            if at + size <= _MAX_TENSORS_BYTES:
                placed[name] = {**value, "data_offsets": [at, at + size]}
                at += size
    filled = (rest or struct.pack("<f", 0.1)) * (at // max(len(rest), 4) + 1)
    return _joined(json_bytes(placed), filled[:at])


def _joined(header: bytes, rest: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + rest
