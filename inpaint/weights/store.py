"""The models folder: its content, and the checkpoints that names and paths stand for."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from inpaint.errors import ModelError
from inpaint.files import folder_in, in_home
from inpaint.weights.detect import check_single_file
from inpaint.weights.header import check_safetensors
from inpaint.weights.install import BUILT_IN, imported_entry
from inpaint.weights.key_names import PREFIXES, UNET
from inpaint.weights.lock import Entry, load_lock
from inpaint.weights.prediction import SINGLE_FILE
from inpaint.weights.safety import check_folder, find_weights, pick_variant, variant_of
from inpaint.weights.verify import find_files, not_installed, read_stamp, verify, walk

_SELECTS = "sam2-"  # how the lock's names of models begin that select objects
_WHOLE_BYTES = 2_000_000_000  # SDXL in one file is larger, its VAE or a LoRA smaller
State = Literal["installed", "unverified", "partial", "not installed"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that passed its checks: a diffusers folder, or a single ``.safetensors`` file."""

    name: str
    path: Path
    kind: Literal["folder", "file"]


@dataclass(frozen=True, slots=True)
class Listing:
    """A model in ``inpaint models list``."""

    entry: Entry
    state: State
    path: Path  # of the folder, which may be missing
    present_bytes: int


def models_dir() -> Path:
    """Return the models folder: ``INPAINT_MODELS``, else ``models`` in the user's data folder."""
    if chosen := folder_in("INPAINT_MODELS"):
        return chosen
    import platformdirs

    return Path(platformdirs.user_data_dir("inpaint", appauthor=False)) / "models"


def resolve(
    name_or_path: str | Path, root: Path | None = None, *, whole: bool = True, predicts: str | None = None
) -> Checkpoint:
    """Find the checkpoint of a name or path, and check it as cheaply as is safe.

    A name wins over a file of the same name in the working folder; write ``./name`` for the file. The name
    ``demo`` is not handled here; see :func:`inpaint.demo.demo_checkpoint`.

    Args:
        name_or_path: a name of the lock, an imported name, a diffusers folder or a ``.safetensors`` file.
        root: the models folder; ``models_dir()`` if None.
        whole: whether a single file must hold the text encoders and the VAE too, and not only the UNet.
        predicts: what the caller says that its UNet predicts, one of ``PREDICTIONS``; None: as it says
            itself.

    Raises:
        ModelError: it is not installed, damaged, unsafe or unknown; the message says what to run instead.
    """
    root = models_dir() if root is None else root
    if isinstance(name_or_path, str):
        check_name(name_or_path, root)
        entry = find_entry(name_or_path, root)
        if entry is not None:
            folder = root / entry.target
            verify(entry, folder)
            return _in_store(entry, folder, predicts)
    path = in_home(Path(name_or_path), "model")
    if path.is_dir():
        check_folder(path, predicts=predicts)
        return Checkpoint(path.resolve().name, path, "folder")
    if path.is_file():
        check_single_file(path, whole=whole, predicts=predicts)
        return Checkpoint(path.stem, path, "file")
    raise ModelError(f"{path}: there is no such file or folder")


def unet_parameters(checkpoint: Checkpoint) -> int:
    """Count the parameters of a checkpoint's UNet, by the headers of its files.

    Raises:
        ModelError: a file is truncated, or no safetensors file.
    """
    if checkpoint.kind == "file":
        return _counted(checkpoint.path, PREFIXES[UNET])
    files = find_weights(checkpoint.path, "unet")
    variant = pick_variant(files)
    return sum(_counted(file, ("",)) for file in files if variant_of(file) == variant)


def _counted(path: Path, prefixes: tuple[str, ...]) -> int:
    header = check_safetensors(path)
    names = [name for name in header if name != "__metadata__" and name.startswith(prefixes)]
    return sum(math.prod(header[name]["shape"]) for name in names)


def _looks_like_path(text: str) -> bool:
    separated = any(separator in text for separator in (os.sep, os.altsep, "~") if separator)
    return bool(text) and (separated or text.endswith(".safetensors") or Path(text).exists())


def find_entry(name: str, root: Path) -> Entry | None:
    """Return the entry of that name, from the lock or imported into ``root``; None if there is none."""
    entry = load_lock().get(name)
    if entry is None and not name.startswith(".") and Path(name).name == name:
        entry = imported_entry(root / name)
    return entry


def check_name(name: str, root: Path | None = None) -> None:
    """Refuse a name of no model, and one of files that cannot paint alone; a path is not looked at.

    Raises:
        ModelError: it lists the models that can paint.
    """
    root = models_dir() if root is None else root
    entry = find_entry(name, root)
    if entry is None and not _looks_like_path(name):
        raise unknown(name, root, painting=True)
    if entry is not None and not _paints(entry):
        known = ", ".join(_names(root, painting=True))
        if name.startswith(_SELECTS):
            raise ModelError(f"{name} selects objects, and does not paint; these paint: {known}")
        raise ModelError(f"{name} is no model that can paint, but a part of one; these can: {known}")


def unknown(name: str, root: Path, *, painting: bool = False) -> ModelError:
    """Return the error for an unknown name; it lists the known ones, or only those of ``painting`` models."""
    known = _names(root, painting=painting)
    near = [each for each in known if name and each.startswith(name)][:2] or get_close_matches(name, known, 1)
    meant = f"did you mean {' or '.join(near)}? Known" if near else "known"
    paths = ", or give the path of a diffusers folder or a .safetensors file" if painting else ""
    return ModelError(f"there is no model {name!r}; {meant} are {', '.join(known)}{paths}")


def _names(root: Path, *, painting: bool) -> list[str]:
    entries = [listing.entry for listing in listings(root)]
    return [*BUILT_IN, *(entry.name for entry in entries if not painting or _paints(entry))]


def _paints(entry: Entry) -> bool:
    """Return whether an entry holds a UNet: a VAE, a LoRA or configurations alone paint nothing."""
    if entry.source is not None and entry.name.startswith(_SELECTS):
        return False  # although it is one file
    weights = [file for file in entry.files if file.path.endswith(".safetensors")]
    return any(
        file.path.startswith("unet/") or file.path == SINGLE_FILE or file.size >= _WHOLE_BYTES
        for file in weights
    )


def config_folder(root: Path | None = None) -> Path:
    """Return a verified folder with SDXL's configurations and tokenizers, for loading single files offline.

    Raises:
        ModelError: none is installed, or the installed one is damaged.
    """
    root = models_dir() if root is None else root
    lock = load_lock()
    entries = [entry for name in ("sdxl-configs", "sdxl-inpainting") if (entry := lock.get(name)) is not None]
    for entry in entries:
        if (root / entry.target).is_dir():
            verify(entry, root / entry.target)
            return root / entry.target
    raise not_installed(entries[0])


def listings(root: Path) -> list[Listing]:
    """List every model that has a name, the lock's first; hash nothing.

    Raises:
        ModelError: the models folder cannot be read.
    """
    try:
        entries = [*load_lock().entries, *_imported(root)]
        return [_listing(entry, root) for entry in entries]
    except OSError as error:
        raise ModelError(
            f"the models folder {root} cannot be read ({error.strerror}); set INPAINT_MODELS to a folder of "
            "yours"
        ) from error


def _imported(root: Path) -> Iterator[Entry]:
    if not root.is_dir():
        return
    names = load_lock().names
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or folder.name in names or not folder.is_dir():
            continue
        if (entry := imported_entry(folder)) is not None:
            yield entry


def _listing(entry: Entry, root: Path) -> Listing:
    folder = root / entry.target
    staging = root / f".{entry.target}.partial"
    if folder.is_dir():
        return Listing(entry, "installed" if _is_stamped(entry, folder) else "unverified", folder, entry.size)
    if staging.is_dir():
        return Listing(entry, "partial", folder, sum(status.st_size for _, status in walk(staging)))
    return Listing(entry, "not installed", folder, 0)


def _is_stamped(entry: Entry, folder: Path) -> bool:
    stamp = read_stamp(folder)
    try:
        found = find_files(entry, folder)
    except ModelError:
        return False
    return stamp is not None and all(stamp.vouches_for(file, found[file.path]) for file in entry.files)


def _in_store(entry: Entry, folder: Path, predicts: str | None) -> Checkpoint:
    """Return a verified folder as a checkpoint; refuse one that holds no model, such as a LoRA or a VAE."""
    paths = [file.path for file in entry.files]
    weights = [path for path in paths if path.endswith(".safetensors")]
    if not weights:
        raise ModelError(f"{entry.name} holds no weights, so it cannot paint; try sdxl-inpainting")
    if "model_index.json" in paths:
        return Checkpoint(entry.name, folder, "folder")
    check_single_file(folder / weights[0], predicts=predicts)
    return Checkpoint(entry.name, folder / weights[0], "file")
