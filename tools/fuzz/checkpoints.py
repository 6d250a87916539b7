"""Single-file checkpoints: their headers, as import, list and run look at them."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.weights.store import resolve, unet_parameters
from tools.fuzz.safetensors_file import mutated, packed, repaired
from tools.fuzz.target import Target


@cache
def _path() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-checkpoints-")) / "x.safetensors"


def one(data: bytes) -> str:
    """Look at a file as a checkpoint."""
    path = _path()
    path.write_bytes(data)
    for whole in (True, False):
        try:
            found = resolve(path, path.parent, whole=whole)
            unet_parameters(found)
        except InpaintError:
            continue
        return "accepted" if whole else "accepted without its parts"
    try:
        weights.check_safetensors(path)
    except InpaintError:
        return "no safetensors"
    return "refused"


def seeds() -> Iterator[bytes]:
    """Yield headers of SDXL checkpoints and of others, with tensors of one small shape."""
    unet = {
        "model.diffusion_model.input_blocks.0.0.weight": [8, 9, 3, 3],
        "model.diffusion_model.input_blocks.0.0.bias": [8],
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": [8, 2048],
        "model.diffusion_model.label_emb.0.0.weight": [8, 2816],
        "model.diffusion_model.out.2.weight": [4, 8, 3, 3],
    }
    text = {
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": [8, 768],
        "conditioner.embedders.1.model.token_embedding.weight": [8, 1280],
        "conditioner.embedders.1.model.text_projection": [8, 8],
    }
    vae = {
        "first_stage_model.decoder.conv_in.weight": [8, 4, 3, 3],
        "first_stage_model.encoder.conv_in.weight": [8, 3],
    }
    yield packed({**unet, **text, **vae}, "F16")
    for metadata in (
        {"modelspec.prediction_type": "v"},
        {"ss_v_parameterization": "True"},
        {"prediction_type": "x"},
    ):
        yield packed({**unet, **text, **vae}, "F16", metadata)
    yield packed({**unet, **text, **vae, "v_pred": [0], "ztsnr": [0]}, "F16")
    yield packed(unet, "F8_E4M3")
    yield packed({name.removeprefix("model."): shape for name, shape in unet.items()})
    yield packed({"double_blocks.0.img_attn.qkv.weight": [8, 8], "lora_unet_x.lora_down.weight": [2, 2]})


def target() -> Target:
    """Return this parser."""
    return Target(list(seeds()), one, mutated, repaired, slow_s=5.0)
