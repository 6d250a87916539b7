"""LoRA files: header, tensors and their fit into the demo model, as a request loads them."""

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError
from inpaint.lora.files import find_lora, header_problem, unusable_loras
from inpaint.lora.spec import LoraUse
from tools.fuzz.safetensors_file import mutated, packed, repaired
from tools.fuzz.target import Target

_LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
_KOHYA = "lora_unet_" + _LAYER.replace(".", "_")
_CONV = "lora_unet_mid_block_resnets_1_conv2"


@cache
def _model() -> Any:
    import torch

    from inpaint.demo import demo_checkpoint
    from inpaint.model.load import load_model, pick_device

    return load_model(demo_checkpoint().path, "demo", pick_device("cpu"), torch.float32)


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-loras-"))


def one(data: bytes) -> str:
    """Put a file into a LoRA folder, list it, and load it into the demo model."""
    from inpaint.lora.cache import LoraCache

    folder, model = _folder(), _model()
    path = folder / "x.safetensors"
    for old in folder.iterdir():
        old.unlink()
    path.write_bytes(data)
    listed = [one.reason for one in unusable_loras(folder)]
    assert len(listed) <= 1
    header_problem(path)
    assert find_lora("X", folder).name == "x"
    try:
        made = LoraCache(model.unet, model.text_encoders, model.device, folder).load([LoraUse("x", 0.5)])
    except InpaintError as error:
        said = str(error)
    else:
        return "loaded" if made.unet else "loaded, text only"
    assert "\n" not in said, said
    return "listed" if listed else "refused"


def seeds() -> Iterator[bytes]:
    """Yield small files of the formats that other tools write."""
    w, i = _shape(_LAYER)
    conv = _shape("mid_block.resnets.1.conv2")
    base = {f"{_KOHYA}.lora_down.weight": [2, i], f"{_KOHYA}.lora_up.weight": [w, 2], f"{_KOHYA}.alpha": []}
    for dtype in ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8"):
        yield packed(base, dtype)
    yield packed(
        {f"unet.{_LAYER}.lora_A.weight": [2, i], f"unet.{_LAYER}.lora_B.weight": [w, 2]}, metadata=_ADAPTER
    )
    yield packed({f"base_model.model.{_LAYER}.lora_A.default_0.weight": [2, i],
                  f"base_model.model.{_LAYER}.lora_B.default_0.weight": [w, 2]})  # fmt: skip
    yield packed({**base, f"{_KOHYA}.dora_scale": [1, i]})
    yield packed({f"{_KOHYA}.hada_w1_a": [w, 2], f"{_KOHYA}.hada_w1_b": [2, i], f"{_KOHYA}.hada_w2_a": [w, 2],
                  f"{_KOHYA}.hada_w2_b": [2, i], f"{_KOHYA}.alpha": []})  # fmt: skip
    yield packed({f"{_KOHYA}.lokr_w1": [2, 2], f"{_KOHYA}.lokr_w2": [w // 2, i // 2], f"{_KOHYA}.alpha": []})
    yield packed({f"{_CONV}.lora_down.weight": [2, conv[1], 1, 1], f"{_CONV}.lora_mid.weight": [2, 2, 3, 3],
                  f"{_CONV}.lora_up.weight": [conv[0], 2, 1, 1], f"{_CONV}.alpha": []})  # fmt: skip
    yield packed({f"{_CONV}.lora_down.weight": [2, *conv[1:]], f"{_CONV}.lora_up.weight": [conv[0], 2, 1, 1]})
    yield packed({f"{_KOHYA}.diff": [w, i], f"{_KOHYA}.diff_b": [w]})
    yield packed({f"{_KOHYA}.oft_blocks": [2, w // 2, w // 2], f"{_KOHYA}.alpha": []})
    yield packed({f"{_KOHYA}.a1.weight": [2, i], f"{_KOHYA}.b2.weight": [w, 2]})
    yield packed({f"{_KOHYA}.weight": [w], f"{_KOHYA}.on_input": []})
    yield packed({**base, "lora_unet_mid_block_resnets_1_norm1.w_norm": [8], "bundle_emb.t.clip_l": [2, 64]})
    text = "text_model.encoder.layers.0.self_attn.q_proj"
    yield packed({f"lora_te1_{text.replace('.', '_')}.lora_down.weight": [2, 64],
                  f"lora_te1_{text.replace('.', '_')}.lora_up.weight": [64, 2]})  # fmt: skip
    yield b""
    yield b"PK\x03\x04"


_ADAPTER = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.r": 2,
"unet.alpha_pattern": {"to_q": 1},
            "unet.use_rslora": False, "unet.use_dora": False})}  # fmt: skip


def _shape(layer: str) -> list[int]:
    return list(_model().unet.get_submodule(layer).weight.shape)


def target() -> Target:
    """Return this parser."""
    return Target(list(seeds()), one, mutated, repaired, slow_s=20.0)
