"""Export of trained networks to the diffusers layout, with a lock of every file's digest."""

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from tools.checkpoint_layout import write_index, write_json

LOCK_NAME = "demo.lock"


def export(
    folder: Path, networks: Mapping[str, torch.nn.Module], vae: AutoencoderKL, tokenizers: Path
) -> None:
    """Replace ``folder`` by the model, in fp16, and write ``demo.lock`` next to it.

    Args:
        folder: of the model; its parent gets the lock.
        networks: the trained modules by the names of their parts.
        vae: the trained VAE.
        tokenizers: a folder that holds ``tokenizer`` and ``tokenizer_2``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
        ready = Path(staging) / "model"
        for name, module in {**networks, "vae": vae}.items():
            copy.deepcopy(module).half().save_pretrained(ready / name)
        for weights in ready.rglob("*.safetensors"):
            weights.chmod(0o644)  # else only the user who installed the package could read them
        for part in ("tokenizer", "tokenizer_2"):
            shutil.copytree(tokenizers / part, ready / part)
        write_index(ready)
        shutil.rmtree(folder, ignore_errors=True)
        ready.rename(folder)
    write_json(folder.parent / LOCK_NAME, lock_of(folder))


def lock_of(folder: Path) -> dict[str, object]:
    """Return a lock in the form of ``weights.lock``, without sources: the files come with the package."""
    files = [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "digest": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        }
        for path in folder.rglob("*")
        if path.is_file()
    ]
    entry = {
        "name": "demo",
        "target": "model",
        "sources": [],
        "license": "Apache-2.0",
        "licenseUrl": "https://www.apache.org/licenses/LICENSE-2.0",
        "size": sum(int(str(file["size"])) for file in files),
        "files": sorted(files, key=lambda file: str(file["path"])),
    }
    return {"version": 1, "weights": [entry]}
