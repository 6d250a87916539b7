"""Fetching of an entry of the lock: into a staging folder, every file verified, then one rename.

Layout below the models folder, for a target ``sdxl-inpainting``::

    sdxl-inpainting/            complete and verified, or missing
    .sdxl-inpainting.partial/   verified files and <file>.<12 hex of its digest>.part; the next fetch resumes
    .sdxl-inpainting.damaged/   a folder that failed its check, whose good files move to the one above
    .sdxl-inpainting.lock       held while one process fetches

huggingface_hub and filelock are imported inside functions: the command line lists models without them.
"""

import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inpaint.errors import FetchError, ModelError
from inpaint.weights.download import Remote, check_offer, disk_errors, download
from inpaint.weights.lock import Entry, LockedFile, Source
from inpaint.weights.verify import STAMP_NAME, Progress, find_files, sha256_of, verify, walk, write_stamp

_log = logging.getLogger(__name__)
_ATTEMPTS = 2  # a digest that is wrong once may be a fault of the connection; twice, it is the hub's file
_MARGIN_BYTES = 1 << 20  # for the stamp and the folders themselves


def free_bytes(folder: Path) -> int:
    """Return how many bytes this user may still write to the disk of ``folder``."""
    return shutil.disk_usage(folder).free


def fetch(
    entry: Entry,
    root: Path,
    progress: Progress | None = None,
    *,
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """Make ``root/entry.target`` hold exactly the entry's files, and return that folder.

    A folder that already verifies is left alone. Good files of a damaged one are kept. An interrupted fetch,
    even by SIGKILL, leaves a staging folder from which the next one resumes.

    Args:
        entry: the lock's entry; its ``source`` must be set.
        root: the models folder; made when missing.
        progress: called with the file's path, bytes there and bytes in all, over every file.
        free: returns the free bytes of a folder's disk; tests replace it.

    Raises:
        FetchError: the hub or the disk failed; calling it again resumes.
        ModelError: the hub serves something else than the lock names.
    """
    if entry.source is None:
        raise ModelError(f"{entry.name} was imported, so it cannot be fetched; import it again")
    target = root / entry.target
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with only_one(entry.target, root):
        if target.exists() and _is_good(entry, target):
            return target
        staging = root / f".{entry.target}.partial"
        with disk_errors(staging):
            _stage(entry, target, staging)
        _Fetch(entry, entry.source, staging, progress).run(free)
        with disk_errors(target):
            write_stamp(entry, staging, find_files(entry, staging), imported=False)
            staging.rename(target)
            sync_folder(root)
    return target


@contextmanager
def only_one(target: str, root: Path) -> Iterator[None]:
    """Hold the lock of ``root/target``; a process that dies releases it."""
    from filelock import FileLock, Timeout

    lock = FileLock(root / f".{target}.lock")
    with disk_errors(Path(lock.lock_file)):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.warning("another process is writing %s; waiting for it", target)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_good(entry: Entry, target: Path) -> bool:
    try:
        verify(entry, target)
    except ModelError as error:
        _log.warning("%s", error)
        return False
    return True


def _stage(entry: Entry, target: Path, staging: Path) -> None:
    """Make ``staging`` hold the files of earlier attempts and of a damaged target, and nothing else."""
    for file in entry.files:
        (staging / file.path).parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.damaged")
    _absorb(entry, aside, staging)  # left by a run that was killed right after the rename below
    if target.exists():
        target.rename(aside)  # in one step, so that no half folder has the final name
        _absorb(entry, aside, staging)
    wanted = {file.path for file in entry.files} | {part_name(file) for file in entry.files}
    for path, _ in list(walk(staging)):
        if path not in wanted or (staging / path).is_symlink():
            (staging / path).unlink()


def _absorb(entry: Entry, aside: Path, staging: Path) -> None:
    """Move the entry's files out of ``aside`` into ``staging`` and delete the rest."""
    if not aside.exists():
        return
    wanted = {file.path for file in entry.files}
    for path, status in list(walk(aside)):
        if path in wanted and stat.S_ISREG(status.st_mode):
            (aside / path).replace(staging / path)
        elif path != STAMP_NAME:
            _log.warning("deleting %s, which does not belong to %s", path, entry.name)
    shutil.rmtree(aside)


def part_name(file: LockedFile) -> str:
    """Return the name of a file's ``.part``; it has the digest, so that another version never resumes it."""
    return f"{file.path}.{file.sha256[:12]}.part"


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class _Fetch:
    """The fetching of one entry's files, with a count of the bytes that are there."""

    def __init__(self, entry: Entry, source: Source, staging: Path, progress: Progress | None) -> None:
        self._entry = entry
        self._source = source
        self._staging = staging
        self._progress = progress
        self._done_bytes = 0  # of the files that are finished

    def run(self, free: Callable[[Path], int]) -> None:
        """Complete every file in the staging folder; ``free`` returns the free bytes of its disk."""
        missing = [file for file in self._entry.files if not self._keep(file)]
        self._check_space(missing, free)
        remotes = [Remote(self._entry.name, self._source, file) for file in missing]
        for remote in remotes:  # all before the first download, so that a wrong row fails immediately
            check_offer(remote)
        for remote in remotes:
            self._complete(remote)

    def _keep(self, file: LockedFile) -> bool:
        """Return whether ``file`` is already there and good; delete one that is not good."""
        here = self._staging / file.path
        with disk_errors(here):
            if not here.exists():
                return False
            if here.stat().st_size != file.size or sha256_of(here) != file.sha256:
                here.unlink()
                return False
        self._finished(file)
        return True

    def _check_space(self, missing: list[LockedFile], free: Callable[[Path], int]) -> None:
        parts = [self._staging / part_name(file) for file in missing]
        there = sum(part.stat().st_size for part in parts if part.exists())
        needed = sum(file.size for file in missing) - there + _MARGIN_BYTES
        if (available := free(self._staging)) < needed:
            raise FetchError(
                f"{self._entry.name} needs {needed} more bytes ({needed / 1e9:.1f} GB) in "
                f"{self._staging.parent}, whose disk has {available} ({available / 1e9:.1f} GB) free; free "
                "some space, or set INPAINT_MODELS to a folder on another disk"
            )

    def _complete(self, remote: Remote) -> None:
        file = remote.file
        part = self._staging / part_name(file)
        for _ in range(_ATTEMPTS):
            sha256 = download(remote, part, lambda there: self._report(file, there))
            with disk_errors(part):
                if sha256 == file.sha256:
                    part.rename(self._staging / file.path)
                    self._finished(file)
                    return
                part.unlink()
        raise remote.wrong(f"arrived twice with sha256 {sha256} instead of {file.sha256}")

    def _finished(self, file: LockedFile) -> None:
        self._done_bytes += file.size
        self._report(file, 0)

    def _report(self, file: LockedFile, there: int) -> None:
        if self._progress is not None:
            self._progress(file.path, self._done_bytes + there, self._entry.size)
