"""Texts in pictures: A1111's, ours, and other programs' JSON, in PNG chunks and in EXIF."""

import json
import random
import struct
import zlib

from inpaint.images import infotext, metadata
from inpaint.request import check_settings
from tools.fuzz.mutations import bytes_changed, json_bytes, json_changed
from tools.fuzz.target import Target

_KEYS = (
    "parameters", "inpaint", "prompt", "workflow", "invokeai_metadata", "Comment", "Description", "Source",
    "sui_image_params", "fooocus_scheme", "generation_data",
)  # fmt: skip
_WORDS = (
    "Negative prompt: ", "\nSteps: 20, ", "Sampler: DPM++ 2M Karras, ", "Schedule type: SGM Uniform, ",
    "CFG scale: 7, ", "Seed: 18446744073709551615, ", "Size: 8x8, ", "Model: x, ",
    'Lora hashes: "a: 1, b: 2", ',
    "Denoising strength: 0.5, ", "Version: v1.6.0", '"', "\\", "\n", ",", ":", "NaN", "-1", "1e400",
    "Pace: near",
)  # fmt: skip
_OURS = {"software": "sdxl-inpaint", "format": 1, "version": "0.1.0", "model": "demo",
         "settings": {"prompt": "a red circle", "seed": 7, "num_inference_steps": 20, "strength": 0.9,
                      "guidance_interval": [0.2, 0.8], "loras": [["a", 0.8]]},
         "box": [0, 0, 64, 64], "settings_hash": "0" * 64, "warnings": ["x"]}  # fmt: skip
_COMFY = {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20, "cfg": 8.0,
"sampler_name": "euler",
          "scheduler": "karras", "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["7",
          0]}},
          "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
          "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red circle", "clip": ["4", 1]}},
          "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["4", 1]}}}  # fmt: skip
_OTHERS = (
    {"positive_prompt": "a", "negative_prompt": "b", "seed": 5, "steps": 20, "cfg_scale": 7.5,
    "scheduler": "euler",
     "strength": 0.7, "model": {"name": "x"}, "app_version": "5.0"},
    {"prompt": "a", "negative_prompt": "b", "seed": "5", "steps": 30, "guidance_scale": 4.0,
    "sampler": "dpmpp_2m_sde",
     "scheduler": "karras", "version": "Fooocus v2.5.0"},
    {"sui_image_params": {"prompt": "a", "negativeprompt": "b", "seed": 5, "steps": 20, "cfgscale": 7,
    "sampler": "euler"}},
    {"prompt": "a", "uc": "b", "seed": 5, "steps": 28, "scale": 5.0, "sampler": "k_euler_ancestral"},
)  # fmt: skip


def one(data: bytes) -> str:
    """Read a text as a picture's metadata; the first byte is the keyword under which it stands."""
    if not data:
        return "empty"
    key, text = _KEYS[data[0] % len(_KEYS)], data[1:]
    made = metadata.read(_png(key, text, international=bool(data[0] & 0x80)))
    infotext.read(text.decode("utf-8", "replace"))
    if made is None:
        return "nothing"
    for name, value in made.settings.items():  # what was read must be what a request takes
        check_settings({name: value})
    return "read"


def _png(key: str, text: bytes, *, international: bool) -> bytes:
    if international:
        chunk = b"iTXt", key.encode() + b"\0\0\0\0\0" + text
    else:
        chunk = b"tEXt", key.encode() + b"\0" + text
    rows = zlib.compress(b"".join(b"\0" + bytes(16) for _ in range(16)))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)),
        chunk,
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    made = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + made


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change JSON, or insert pieces of A1111's text."""
    head, rest = data[:1] or b"\0", data[1:]
    if chance.random() < 0.05:
        head = bytes([chance.randrange(256)])
    try:
        return head + json_bytes(json_changed(json.loads(rest), chance))
    except (ValueError, RecursionError, OverflowError):
        pass
    text = rest.decode("utf-8", "replace")
    at = chance.randrange(len(text) + 1)
    if chance.random() < 0.6:
        return head + (text[:at] + chance.choice(_WORDS) * chance.choice((1, 1, 3, 100)) + text[at:]).encode()
    return head + bytes_changed(rest, chance)


def target() -> Target:
    """Return this parser."""
    text = (
        b"a red circle\nNegative prompt: bad\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 8x8"
    )
    seeds = [b"\0" + text, b"\x80" + text, b"\x81" + json_bytes(_OURS), b"\x82" + json_bytes(_COMFY)]
    for number in range(len(_KEYS)):
        seeds += [bytes([0x80 - 0x80 % len(_KEYS) + number]) + json_bytes(value) for value in _OTHERS]
    return Target(seeds, one, mutate, slow_s=1.0)
