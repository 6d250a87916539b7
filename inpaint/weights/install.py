"""Installation of files that are not in the lock into the models folder: hashed, stamped, all or none.

The stamp is written next to the files, and ``verify`` compares with it from then on. filelock is imported
inside functions.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from inpaint.errors import FetchError, ModelError
from inpaint.weights.detect import check_single_file
from inpaint.weights.download import disk_errors
from inpaint.weights.fetch import free_bytes, only_one, sync_folder
from inpaint.weights.lock import Entry, LockedFile, is_name, load_lock
from inpaint.weights.prediction import SINGLE_FILE
from inpaint.weights.safety import check_folder
from inpaint.weights.verify import Progress, find_files, read_stamp, write_stamp

BUILT_IN = ("demo",)  # names that need no file in the store
STAGING = ".import"  # .NAME.import next to NAME, so that the last step is a rename
_CHUNK_BYTES = 1 << 20
_MARGIN_BYTES = 1 << 20  # for the stamp and the folders themselves

Chunk = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a new file: its size in bytes, and the bytes, made while they are written."""

    size: int
    chunks: Callable[[], Iterator[Chunk]]


def copy_of(source: Path) -> Content:
    """Return the content of another file, read while it is written."""

    def chunks() -> Iterator[Chunk]:
        try:
            with source.open("rb") as reader:
                while chunk := reader.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:  # otherwise reported as a disk that cannot be written
            raise ModelError(f"{source}: cannot be read ({error.strerror})") from error

    return Content(source.stat().st_size, chunks)


def text(content: str) -> Content:
    """Return the content of a small text file, in UTF-8."""
    data = content.encode()
    return Content(len(data), lambda: iter((data,)))


def install(
    contents: Mapping[str, Content],
    name: str,
    root: Path,
    progress: Progress | None = None,
    *,
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """Write ``contents`` to ``root/name`` as an imported model, and return that folder.

    Args:
        contents: path inside the model's folder, with forward slashes → the file's content.
        name: the new model's name: lower-case letters, digits and ``. _ -``.
        root: the models folder; made when missing.
        progress: called with the file's path, bytes written and bytes in all.
        free: returns the free bytes of a folder's disk; tests replace it.

    Raises:
        ModelError: the name is invalid or taken, or the written files are not a checkpoint.
        FetchError: the disk could not be written.
    """
    check_name(name, root)
    staging = root / f".{name}{STAGING}"
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
    with only_one(name, root), disk_errors(staging):
        check_name(name, root)  # again, since another process may have taken it meanwhile
        try:
            shutil.rmtree(staging, ignore_errors=True)
            _check_space(contents, name, root, free)
            entry = _write_all(dict(sorted(contents.items())), name, staging, progress)
            _check_written(staging)
            write_stamp(entry, staging, find_files(entry, staging), imported=True)
            staging.rename(root / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sync_folder(root)
    return root / name


def check_name(name: str, root: Path) -> None:
    """Check that ``name`` can be given to a new model.

    Raises:
        ModelError: it is invalid or taken.
    """
    if not is_name(name):
        raise ModelError(f"{name!r} cannot name a model; use lower-case letters, digits and . _ -")
    if name in load_lock().names or name in BUILT_IN:
        raise ModelError(f"{name} is the name of a model that comes with inpaint; choose another --name")
    if (root / name).exists() or (root / name).is_symlink():
        raise ModelError(
            f"{name} is already in {root}; choose another --name, or run: inpaint models remove {name}"
        )


def imported_entry(folder: Path) -> Entry | None:
    """Return the entry that an imported folder's stamp describes; None for any other folder."""
    stamp = read_stamp(folder)
    if stamp is None or not stamp.imported:
        return None
    size = sum(file.size for file in stamp.files)
    return Entry(folder.name, folder.name, None, "unknown", "", size, stamp.files)


def sweep(root: Path) -> None:
    """Delete what killed imports left: gigabytes under a hidden name, where no user would look for them."""
    from filelock import FileLock, Timeout

    for left in root.glob(f".*{STAGING}"):
        name = left.name.removeprefix(".").removesuffix(STAGING)
        try:
            with FileLock(root / f".{name}.lock", timeout=0):  # held while its import is alive
                shutil.rmtree(left, ignore_errors=True)
        except Timeout:
            continue


def _check_space(contents: Mapping[str, Content], name: str, root: Path, free: Callable[[Path], int]) -> None:
    needed = sum(content.size for content in contents.values()) + _MARGIN_BYTES
    if (available := free(root)) < needed:
        raise FetchError(
            f"{name} needs {needed} bytes ({needed / 1e9:.1f} GB) in {root}, whose disk has {available} "
            f"({available / 1e9:.1f} GB) free; free some space (inpaint models remove NAME), or set "
            "INPAINT_MODELS to a folder on another disk"
        )


def _write_all(contents: Mapping[str, Content], name: str, folder: Path, progress: Progress | None) -> Entry:
    total = sum(content.size for content in contents.values())
    files: list[LockedFile] = []
    done = 0
    for path, content in contents.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("wb") as writer:
            for chunk in content.chunks():
                digest.update(chunk)
                writer.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(path, done, total)
            writer.flush()
            os.fsync(writer.fileno())
        files.append(LockedFile(path, target.stat().st_size, f"sha256:{digest.hexdigest()}"))
    return Entry(name, name, None, "unknown", "", done, tuple(files))


def _check_written(folder: Path) -> None:
    """Check the written files, since they will be loaded and the original may have changed meanwhile."""
    if (folder / SINGLE_FILE).is_file():
        check_single_file(folder / SINGLE_FILE)
    else:
        check_folder(folder)
