"""Import of a checkpoint from the user's disk into the models folder, for ``inpaint models import``.

Only the files that loading needs are copied.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from inpaint.errors import ModelError
from inpaint.weights.check_shapes import check_fits
from inpaint.weights.detect import check_single_file
from inpaint.weights.install import SINGLE_FILE, Content, check_name, copy_of, install
from inpaint.weights.lock import CODE_SUFFIXES
from inpaint.weights.safety import WEIGHT_STEMS, check_folder, check_index, find_weights, refuse
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


def import_model(path: Path, name: str, root: Path, progress: Progress | None = None) -> Path:
    """Copy a diffusers folder or a single ``.safetensors`` checkpoint to ``root/name``, whole or not at all.

    Args:
        path: the checkpoint; it is not changed.
        name: the new model's name: lower-case letters, digits and ``. _ -``.
        root: the models folder; made when missing.
        progress: called with the file's path, bytes copied and bytes in all.

    Returns:
        The new model's folder.

    Raises:
        ModelError: the checkpoint is refused (the message says why), or the name is taken.
        FetchError: the disk could not be written.
    """
    check_name(name, root)
    contents = choose(path)
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
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")[:64] or "imported"


def choose(path: Path) -> dict[str, Content]:
    """Check a checkpoint, and return the files to copy by their paths in the store.

    Raises:
        ModelError: the checkpoint is refused.
    """
    if path.is_symlink():
        refuse(path, "it is a link; name the file or folder that it points to")
    if path.is_file():
        if path.suffix.lower() in CODE_SUFFIXES:
            refuse(path, "pickles and code run when opened; convert it to .safetensors first")
        check_single_file(path)
        return {SINGLE_FILE: copy_of(path)}
    if not path.is_dir():
        refuse(path, "there is no such file or folder")
    for name, _ in walk(path):
        if (path / name).is_symlink():
            refuse(path / name, "it is a link; import a folder of plain files")
    check_folder(path, allow_pickles=False)
    return {file.relative_to(path).as_posix(): copy_of(file) for file in needed(path)}


def needed(folder: Path) -> Iterator[Path]:
    """Yield the files that diffusers opens, from a folder that was checked.

    Raises:
        ModelError: the weights of its components do not go together.
    """
    yield folder / "model_index.json"
    components = check_index(folder)
    weights = {name: find_weights(folder, name) for name in components if name in WEIGHT_STEMS}
    # Half the bytes for the same pictures on a GPU, but only if every component has them.
    fp16 = all(any(".fp16" in file.name for file in files) for files in weights.values())
    for name in components:
        for kept in ("config.json", "scheduler_config.json", *_TOKENIZER_FILES):
            if (folder / name / kept).is_file():
                yield folder / name / kept
        chosen = [file for file in weights.get(name, ()) if (".fp16" in file.name) == fp16]
        if not chosen and name in weights:
            refuse(folder / name, "its weights are fp16 only, where another component's are not")
        yield from chosen
        if any("-of-" in file.name for file in chosen):
            yield _shard_index(folder / name, name, fp16=fp16)


def _shard_index(folder: Path, component: str, *, fp16: bool) -> Path:
    index = folder / f"{WEIGHT_STEMS[component]}.safetensors.index{'.fp16' if fp16 else ''}.json"
    if not index.is_file():
        refuse(index, "is missing, so its shards cannot be put together")
    return index
