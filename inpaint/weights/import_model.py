"""Import of a checkpoint from the user's disk into the models folder, for ``inpaint models import``.

Only the files that loading needs are copied.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from inpaint.errors import ModelError
from inpaint.weights.check_shapes import check_fits
from inpaint.weights.detect import check_single_file
from inpaint.weights.header import read_json, refuse
from inpaint.weights.install import Content, check_name, copy_of, install, text
from inpaint.weights.lock import CODE_SUFFIXES
from inpaint.weights.prediction import SCHEDULER_FILE, SINGLE_FILE, kept, settings_of_file, settings_of_folder
from inpaint.weights.safety import WEIGHT_STEMS, check_folder, check_index, find_weights, variant_of
from inpaint.weights.store import config_folder
from inpaint.weights.verify import Progress, walk

_TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


def import_model(
    path: Path,
    name: str,
    root: Path,
    progress: Progress | None = None,
    *,
    predicts: str | None = None,
) -> Path:
    """Copy a diffusers folder or a single ``.safetensors`` checkpoint to ``root/name``, whole or not at all.

    Args:
        path: the checkpoint; it is not changed. Links are followed only inside a Hugging Face cache.
        name: the new model's name: lower-case letters, digits and ``. _ -``.
        root: the models folder; made when missing.
        progress: called with the file's path, bytes copied and bytes in all.
        predicts: what its UNet predicts, ``epsilon``, ``v`` or ``v-zsnr`` (v with zero terminal SNR); kept
            with the model. None: as the checkpoint says.

    Returns:
        The new model's folder.

    Raises:
        ModelError: the checkpoint is refused (the message says why), or the name is taken.
        RequestError: there is no such prediction.
        FetchError: the disk could not be written.
    """
    check_name(name, root)
    contents = choose(path, predicts)
    if path.is_file() and (configs := _configs(root)) is not None:
        check_fits(path, configs)
    return install(contents, name, root, progress)


def _configs(root: Path) -> Path | None:
    """Return the folder of SDXL's configurations; None if it is not installed yet."""
    try:
        return config_folder(root)
    except ModelError:
        return None


def name_for(path: Path) -> str:
    """Return a model name made from the file name of ``path``; it may be taken already."""
    stem = path.stem if path.suffix.lower() == ".safetensors" else path.name
    if path.parent.name == "snapshots":  # of a Hugging Face cache: models--OWNER--NAME/snapshots/COMMIT
        stem = path.parent.parent.name.split("--")[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")[:64] or "imported"


def choose(path: Path, predicts: str | None = None) -> dict[str, Content]:
    """Check a checkpoint, and return the files to copy by their paths in the store.

    Args:
        path: a diffusers folder or a single file.
        predicts: what its UNet predicts, if the caller says so; written into a scheduler_config.json.

    Raises:
        ModelError: the checkpoint is refused.
    """
    if path.is_symlink():
        _check_link(path)
    if path.is_file():
        if path.suffix.lower() in CODE_SUFFIXES:
            refuse(path, "pickles and code run when opened; convert it to .safetensors first")
        check_single_file(path, predicts=predicts)
        contents = {SINGLE_FILE: copy_of(path)}
        if predicts is not None or path.with_name(SCHEDULER_FILE).is_file():
            contents |= written(SCHEDULER_FILE, kept(settings_of_file(path, told=predicts)))
        return contents
    if not path.is_dir():
        refuse(path, "there is no such file or folder")
    for name, _ in walk(path):
        if (path / name).is_symlink():
            _check_link(path / name)
    check_folder(path, allow_pickles=False, predicts=predicts)
    contents = {file.relative_to(path).as_posix(): copy_of(file) for file in needed(path)}
    if predicts is not None:
        contents |= written(f"scheduler/{SCHEDULER_FILE}", kept(settings_of_folder(path, predicts)))
    return contents


def written(place: str, settings: Mapping[str, object]) -> dict[str, Content]:
    """Return a JSON file of a new model by its path there; none without settings."""
    return {place: text(json.dumps(settings, indent=2) + "\n")} if settings else {}


def needed(folder: Path) -> Iterator[Path]:
    """Yield the files that diffusers opens, from a folder that was checked.

    Raises:
        ModelError: a shard is missing, or the list of them.
    """
    yield folder / "model_index.json"
    components = check_index(folder)
    weights = {name: find_weights(folder, name) for name in components if name in WEIGHT_STEMS}
    variants = {name: {variant_of(file) for file in files} for name, files in weights.items()}
    # Half the bytes for the same pictures on a GPU, but only if every component has them.
    half = all("fp16" in found for found in variants.values())
    for name in components:
        for small in ("config.json", "scheduler_config.json", *_TOKENIZER_FILES):
            if (folder / name / small).is_file():
                yield folder / name / small
        if name not in weights:
            continue
        order = ("fp16",) if half else ("", "fp16", "bf16")
        variant = next(variant for variant in order if variant in variants[name])
        chosen = [file for file in weights[name] if variant_of(file) == variant]
        yield from chosen
        if any("-of-" in file.name for file in chosen):
            yield _shard_index(folder / name, name, variant, {file.name for file in chosen})


def _shard_index(folder: Path, component: str, variant: str, shards: set[str]) -> Path:
    suffix = f".{variant}" if variant else ""
    index = folder / f"{WEIGHT_STEMS[component]}.safetensors.index{suffix}.json"
    if not index.is_file():
        refuse(index, "is missing, so its shards cannot be put together")
    places = read_json(index).get("weight_map", {})
    if isinstance(places, dict) and (missing := {str(place) for place in places.values()} - shards):
        refuse(index, f"it names {min(missing)}, which is not there")
    return index


def _check_link(link: Path) -> None:
    """Check that a link is one of a Hugging Face cache: relative, to a file in ``blobs`` of the same model.

    Raises:
        ModelError: it is any other link, which could name any file of this machine.
    """
    snapshots = next((folder for folder in link.absolute().parents if folder.name == "snapshots"), None)
    if snapshots is not None and not link.readlink().is_absolute():
        target = Path(os.path.realpath(link))
        if target.is_file() and target.parent == snapshots.parent.resolve() / "blobs":
            return
    refuse(link, "it is a link; import plain files, or a snapshot of a Hugging Face cache with its blobs")
