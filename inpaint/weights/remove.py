"""Removal of a model from the models folder, in any state that a fetch or an import leaves it in."""

import shutil
from pathlib import Path

from inpaint.errors import ModelError
from inpaint.weights.download import disk_errors
from inpaint.weights.fetch import only_one
from inpaint.weights.install import BUILT_IN, STAGING, sweep
from inpaint.weights.lock import is_name
from inpaint.weights.store import find_entry, unknown
from inpaint.weights.verify import walk


def remove_model(name: str, root: Path) -> int:
    """Delete a fetched or imported model, complete or not, and return the number of bytes that it took.

    Raises:
        ModelError: there is nothing of that name in ``root``, or inpaint did not put it there.
        FetchError: the disk could not be written.
    """
    if name in BUILT_IN:
        raise ModelError(f"{name} comes with inpaint and cannot be removed")
    if root.is_dir():
        with disk_errors(root):
            sweep(root)
    entry = find_entry(name, root)
    if entry is None:
        if is_name(name) and (root / name).exists():
            raise ModelError(f"{root / name} was not put there by inpaint; delete it yourself")
        raise unknown(name, root)
    folders = _folders(root / entry.target)
    if (root / entry.target).is_symlink():
        raise ModelError(f"{folders[0]} is a link, not a folder of inpaint's; delete it yourself")
    if not any(folder.is_dir() for folder in folders):
        raise ModelError(f"{name} is not in {root}, so there is nothing to remove")
    with only_one(entry.target, root), disk_errors(root / entry.target):
        # Renamed first, so that no half model has its name; if this is killed, ``sweep`` deletes the rest.
        aside = root / f".{entry.target}{STAGING}"
        return sum(_delete(folder, aside) for folder in folders if folder.is_dir())


def _folders(target: Path) -> tuple[Path, ...]:
    """Return the folders of a model: its own, and those of an interrupted or repairing fetch."""
    return target, *(target.with_name(f".{target.name}.{kind}") for kind in ("partial", "damaged"))


def _delete(folder: Path, aside: Path) -> int:
    size = sum(status.st_size for _, status in walk(folder))
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)
    return size
