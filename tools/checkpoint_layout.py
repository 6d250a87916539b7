"""The files that every SDXL checkpoint written here has: tokenizers, model_index.json, scheduler config."""

import json
from collections.abc import Mapping
from pathlib import Path

from inpaint.schedulers import SDXL_SCHEDULE

SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def write_tokenizer(folder: Path, pad_token: str, merges: tuple[str, ...] = ()) -> None:
    """Write CLIP tokenizer files that accept any text, byte by byte except for ``merges``.

    The vocabulary has CLIP's order: 256 bytes, the same at a word's end, the merges, the two special tokens.
    """
    symbols = list(_byte_symbols().values())
    words = symbols + [s + "</w>" for s in symbols] + [m.replace(" ", "") for m in merges] + list(SPECIAL)
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "unk_token": SPECIAL[1],
        "pad_token": pad_token,
        "do_lower_case": True,
        "add_prefix_space": False,
    }
    write_json(folder / "tokenizer_config.json", settings)


def _byte_symbols() -> dict[int, str]:
    """Return byte → printable character, as GPT-2's and CLIP's vocabularies spell bytes.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` to ``path``, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_index(folder: Path) -> None:
    """Write ``model_index.json`` and the scheduler's config of a diffusers folder."""
    schedule = {"_class_name": "EulerDiscreteScheduler", **SDXL_SCHEDULE}
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    write_json(folder / "model_index.json", _MODEL_INDEX)


_MODEL_INDEX: Mapping[str, object] = {
    "_class_name": "StableDiffusionXLInpaintPipeline",
    "force_zeros_for_empty_prompt": True,
    "requires_aesthetics_score": False,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
