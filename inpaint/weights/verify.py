"""Verification that a folder holds exactly the files of an entry, with a stamp that makes repeats cheap.

The stamp is a file next to the weights with the size and modification time that each file had when its digest
was last computed. It saves hashing 7 GB at every start. It is no proof: a process that changes a weight file
and sets its time back is found by ``deep`` only.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from inpaint.errors import LockError, ModelError
from inpaint.files import write_atomically
from inpaint.weights.lock import Entry, LockedFile, parse_file

STAMP_NAME = ".inpaint-stamp.json"
_CHUNK_BYTES = 1 << 20

Progress = Callable[[str, int, int], None]  # the file's path, bytes done and bytes in all, over every file


@dataclass(frozen=True, slots=True)
class Stamp:
    """The files that were hashed, and their modification times in nanoseconds at that moment."""

    imported: bool
    files: tuple[LockedFile, ...]
    mtimes_ns: Mapping[str, int]

    def vouches_for(self, file: LockedFile, found: os.stat_result) -> bool:
        """Return whether ``file`` had its digest when it had its present modification time."""
        return file in self.files and self.mtimes_ns[file.path] == found.st_mtime_ns


def verify(entry: Entry, folder: Path, *, deep: bool = False, progress: Progress | None = None) -> None:
    """Check that ``folder`` holds the files of ``entry``: their names, sizes and digests.

    If a file had to be hashed, the stamp is renewed, provided that the folder can be written.

    Args:
        entry: the model's entry.
        folder: its folder.
        deep: hash the files that the stamp vouches for, too.
        progress: called with the file's path, bytes checked and bytes in all.

    Raises:
        ModelError: a file is wrong; the message names the first and the command that repairs it.
    """
    found = find_files(entry, folder)
    stamp = read_stamp(folder)
    imported = stamp is not None and stamp.imported
    done = 0
    renew = False
    for file in entry.files:
        if deep or stamp is None or not stamp.vouches_for(file, found[file.path]):
            _check_digest(entry, file, folder)
            renew = True
        done += file.size
        if progress is not None:
            progress(file.path, done, entry.size)
    if renew:
        with suppress(OSError):  # in a read-only folder every start hashes again: slow, but correct
            write_stamp(entry, folder, found, imported=imported)


def verify_bundled(entry: Entry, folder: Path) -> None:
    """Check files that came with the package: they are hashed each time, and no stamp is written.

    16 MB take 20 ms, and an installed package's folder must not be written to.

    Raises:
        ModelError: a file is wrong; the message names the first.
    """
    find_files(entry, folder)
    for file in entry.files:
        _check_digest(entry, file, folder)


def _check_digest(entry: Entry, file: LockedFile, folder: Path) -> None:
    try:
        sha256 = sha256_of(folder / file.path)
    except OSError as error:
        raise damaged(entry, f"{file.path} cannot be read ({error.strerror})") from error
    if sha256 != file.sha256:
        raise damaged(entry, f"{file.path} differs from its recorded sha256")


def find_files(entry: Entry, folder: Path) -> dict[str, os.stat_result]:
    """Check the files of ``entry`` without hashing them, and return their status by path.

    Raises:
        ModelError: a file is missing, extra, a link, or of another size.
    """
    if not folder.is_dir():
        raise not_installed(entry)
    expected = {file.path: file.size for file in entry.files}
    found = dict(walk(folder))
    found.pop(STAMP_NAME, None)
    for path in expected:
        if path not in found:
            raise damaged(entry, f"{path} is missing")
    for path, status in found.items():
        if path not in expected:
            raise damaged(entry, f"{path} does not belong to it", remedy="delete that file, or run")
        if not stat.S_ISREG(status.st_mode):
            raise damaged(entry, f"{path} is a link or a special file, not a file")
        if status.st_size != expected[path]:
            raise damaged(entry, f"{path} has {status.st_size} bytes instead of {expected[path]}")
    return {path: found[path] for path in expected}


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below ``folder`` that is not a folder: relative path (forward slashes), own status."""
    for here, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if (Path(here) / name).is_symlink()]  # never followed, so listed
        for name in sorted(names + links):
            path = Path(here) / name
            yield path.relative_to(folder).as_posix(), path.lstat()


def sha256_of(path: Path) -> str:
    """Return a file's sha256, 64 hex digits; it is read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return digest_of(file).hexdigest()


def digest_of(file: BinaryIO) -> "hashlib._Hash":
    """Return the running SHA-256 of the rest of ``file``, which a resumed download continues."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest


def read_stamp(folder: Path) -> Stamp | None:
    """Read the folder's stamp; None if it is missing or cannot be parsed, which only costs hashing again."""
    try:
        document = json.loads((folder / STAMP_NAME).read_text("utf-8"))
        rows = [dict(row) for row in document["files"]]
        mtimes = {str(row["path"]): int(row.pop("mtime_ns")) for row in rows}
        files = tuple(parse_file(row, "the stamp") for row in rows)
        return Stamp(bool(document["imported"]), files, mtimes)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, LockError):
        return None


def write_stamp(entry: Entry, folder: Path, found: Mapping[str, os.stat_result], *, imported: bool) -> None:
    """Record that each file of ``entry`` was hashed to its digest, after its status ``found`` was taken."""
    rows = [
        {
            "path": file.path,
            "size": file.size,
            "mtime_ns": found[file.path].st_mtime_ns,
            "digest": file.digest,
        }
        for file in entry.files
    ]
    content = json.dumps({"version": 1, "imported": imported, "files": rows}, indent=1)
    # Drafted outside the folder: inside it, another process would take the draft for an extra file.
    write_atomically(folder / STAMP_NAME, content.encode(), draft_folder=folder.parent)


def damaged(entry: Entry, what: str, remedy: str = "run") -> ModelError:
    """Return the error for a folder with wrong content; it ends with the command that repairs it."""
    return ModelError(f"{entry.name} is damaged: {what}; {remedy}: {_command(entry)}")


def not_installed(entry: Entry) -> ModelError:
    """Return the error for a known model that is not installed."""
    return ModelError(f"{entry.name} is not installed; run: {_command(entry)}")


def _command(entry: Entry) -> str:
    if entry.source is None:
        return f"inpaint models remove {entry.name}, then import or merge it again"
    return f"inpaint models fetch {entry.name}"
