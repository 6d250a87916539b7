"""Jobs files of ``inpaint run --jobs FILE --dry-run``."""

import random

from tools.fuzz.command_line import called, place
from tools.fuzz.mutations import bytes_changed, json_bytes, json_mutated
from tools.fuzz.target import Target

_LINES = (
    {"image": "photo.png", "mask": "mask.png", "prompt": "a red circle"},
    {"image": "photo.png", "mask": "{stem}.png", "output": "out/{stem}_{seed}_{n}.png", "samples": 2,
    "seed": 7,
     "extend": [0, 0, 64, 0], "prompt": "x <lora:a:0.5>", "loras": [{"name": "b", "scale": 1}]},
    {"image": "photo.png", "mask": "alpha", "prompt": "x", "guidance_interval": [0.2, 0.8], "pace": "near",
     "scheduler": "Euler a", "num_inference_steps": 20, "strength": 0.5, "guidance_scale": 7.5,
     "area": "whole",
     "padding": 3, "grow": 1, "feather": 2, "fill": "blur", "color_match": False, "soft": True,
     "negative_prompt": "bad"},
)  # fmt: skip


def one(data: bytes) -> str:
    """Plan a jobs file."""
    path = place() / "jobs.jsonl"
    path.write_bytes(data)
    return called(["run", "--jobs", str(path), "--dry-run", "--json"])


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change one line's JSON, or the lines."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    changed = json_mutated(lines[at], chance) if chance.random() < 0.9 else bytes_changed(lines[at], chance)
    return b"\n".join([*lines[:at], changed, *lines[at + chance.randrange(2) :]][:50])


def target() -> Target:
    """Return this parser."""
    seeds = [json_bytes(line) for line in _LINES]
    return Target([*seeds, b"\n".join(seeds), b"\xef\xbb\xbf" + seeds[0], b""], one, mutate)
