"""Model folders: the demo model with one of its JSON files changed, checked, imported and loaded."""

import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

from inpaint import weights
from inpaint.demo import demo_checkpoint
from inpaint.errors import InpaintError
from inpaint.model.load import load_model, pick_device
from inpaint.weights.store import resolve, unet_parameters
from tools.fuzz.mutations import bytes_changed, json_bytes, json_changed
from tools.fuzz.target import Target


@cache
def _place() -> tuple[Path, list[Path]]:
    """Return a copy of the demo model, and its JSON files."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-folders-")) / "model"
    shutil.copytree(demo_checkpoint().path, folder)
    return folder, sorted(path.relative_to(folder) for path in folder.rglob("*.json"))


def one(data: bytes) -> str:
    """Replace a JSON file, named by the first byte, and use the folder as a model."""
    folder, names = _place()
    if not data:
        return "empty"
    path = folder / names[data[0] % len(names)]
    before = path.read_bytes()
    path.write_bytes(data[1:])
    try:
        return _used(folder)
    finally:
        path.write_bytes(before)


def _used(folder: Path) -> str:
    root = folder.parent / "root"
    shutil.rmtree(root, ignore_errors=True)
    try:
        unet_parameters(resolve(folder, root))
    except InpaintError:
        return "refused"
    try:
        weights.import_model(folder, "copy", root)
    except InpaintError:
        return "not imported"
    try:
        load_model(folder, "x", pick_device("cpu"), torch.float32)
    except InpaintError:
        return "not loaded"
    return "loaded"


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a value of the JSON file."""
    try:
        return data[:1] + json_bytes(json_changed(json.loads(data[1:]), chance))
    except (ValueError, RecursionError, OverflowError):
        return data[:1] + bytes_changed(data[1:], chance)


def target() -> Target:
    """Return this parser."""
    folder, names = _place()
    small = [(n, (folder / name).read_bytes()) for n, name in enumerate(names)]
    seeds = [bytes([n]) + data for n, data in small if len(data) < 20_000]
    return Target(seeds, one, mutate, slow_s=30.0)
