"""``inpaint models import``: take a checkpoint from the user's disk into the models folder.

Only what loading needs is copied, each file hashed on its way; the stamp written beside them is from then on
what ``verify`` compares with, since no lock knows these files.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from inpaint.errors import FetchError, ModelError
from inpaint.weights.download import disk_errors
from inpaint.weights.fetch import free_bytes, only_one, sync_folder
from inpaint.weights.lock import CODE_SUFFIXES, Entry, LockedFile, is_name, load_lock
from inpaint.weights.safety import (
    WEIGHT_STEMS,
    check_folder,
    check_index,
    check_single_file,
    find_weights,
    refuse,
)
from inpaint.weights.verify import Progress, find_files, read_stamp, walk, write_stamp

SINGLE_FILE = "model.safetensors"  # what an imported single-file checkpoint is called
BUILT_IN = ("demo",)  # names that need no file in the store
_CHUNK_BYTES = 1 << 20
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
        path: what to import; it is not changed.
        name: to call it by, lower-case letters, digits and ``. _ -``.
        root: the models folder; made when missing.
        progress: called with the file's path, bytes copied and bytes in all.

    Raises:
        ModelError: the checkpoint is refused (says why), or the name is taken.
        FetchError: the disk did not take the copy.
    """
    _check_name(name, root)
    chosen = _choose(path)
    staging = root / f".{name}.import"  # beside the target, so that the last step is a rename
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with only_one(name, root), disk_errors(staging):
        _check_name(name, root)  # again: another process may just have taken it
        try:
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
            entry = _copy_all(chosen, name, staging, progress)
            _check_copy(staging)
            write_stamp(entry, staging, find_files(entry, staging), imported=True)
            staging.rename(root / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sync_folder(root)
    return root / name


def imported_entry(folder: Path) -> Entry | None:
    """The entry that an imported folder's stamp describes; None for any other folder."""
    stamp = read_stamp(folder)
    if stamp is None or not stamp.imported:
        return None
    size = sum(file.size for file in stamp.files)
    return Entry(folder.name, folder.name, None, "unknown", "", size, stamp.files)


def _check_name(name: str, root: Path) -> None:
    if not is_name(name):
        raise ModelError(f"{name!r} cannot name a model; use lower-case letters, digits and . _ -")
    if name in load_lock().names or name in BUILT_IN:
        raise ModelError(f"{name} is the name of a model that comes with inpaint; choose another --name")
    if (root / name).exists() or (root / name).is_symlink():
        raise ModelError(f"{name} is already in {root}; choose another --name, or delete {root / name}")


def _choose(path: Path) -> dict[str, Path]:
    """What to copy: path in the store → path on disk, sorted; having checked all of it."""
    if path.is_symlink():
        refuse(path, "it is a link; name the file or folder that it points to")
    if path.is_file():
        if path.suffix.lower() in CODE_SUFFIXES:
            refuse(path, "pickles and code run when opened; convert it to .safetensors first")
        check_single_file(path)
        return {SINGLE_FILE: path}
    if not path.is_dir():
        refuse(path, "there is no such file or folder")
    for name, _ in walk(path):
        if (path / name).is_symlink():
            refuse(path / name, "it is a link; import a folder of plain files")
    check_folder(path, pickles_beside=False)
    return dict(sorted((file.relative_to(path).as_posix(), file) for file in _needed(path)))


def _needed(folder: Path) -> Iterator[Path]:
    """The files that diffusers opens, of a folder that was checked."""
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


def _copy_all(chosen: dict[str, Path], name: str, ready: Path, progress: Progress | None) -> Entry:
    total = sum(path.stat().st_size for path in chosen.values())
    if (free := free_bytes(ready.parent)) < total:
        raise FetchError(f"{name} needs {total} bytes in {ready.parent}, whose disk has {free} free")
    files: list[LockedFile] = []
    done = 0
    for path, source in chosen.items():
        target = ready / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(path, done, total)
            writer.flush()
            os.fsync(writer.fileno())
        files.append(LockedFile(path, target.stat().st_size, f"sha256:{digest.hexdigest()}"))
    return Entry(name, name, None, "unknown", "", done, tuple(files))


def _check_copy(ready: Path) -> None:
    """The copy, not the original, is what will be loaded, and the original may have changed meanwhile."""
    if (ready / SINGLE_FILE).is_file():
        check_single_file(ready / SINGLE_FILE)
    else:
        check_folder(ready)
