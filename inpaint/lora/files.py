"""LoRA files by name: a folder's ``.safetensors`` files, and those of ``weights.lock`` that are installed.

Each is pinned: those of the lock by the lock, one in the folder by its sha256 when it is first used. The pin
is a file beside it; a file of another content under a pinned name is refused until somebody accepts it.
Knows files and headers; loads no weight.
"""

import json
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from inpaint import weights
from inpaint.errors import LockError, ModelError, OutputError, RequestError
from inpaint.files import write_atomically
from inpaint.lora.spec import LoraUse, is_name
from inpaint.weights.lock import LockedFile, parse_file
from inpaint.weights.verify import sha256_of

SUFFIX = ".safetensors"
State = Literal["new", "pinned", "changed"]


@dataclass(frozen=True, slots=True)
class LoraFile:
    """One LoRA that a request can name."""

    name: str
    path: Path
    size_bytes: int
    state: State  # "changed": of another size or time than when it was pinned; its content decides
    sha256: str = ""  # as pinned, 64 hex digits; "" while new
    entry: weights.Entry | None = None  # of the lock


@dataclass(frozen=True, slots=True)
class _Pin:
    """What a file was when it was pinned."""

    file: LockedFile
    mtime_ns: int

    def vouches_for(self, found: os.stat_result) -> bool:
        return (self.file.size, self.mtime_ns) == (found.st_size, found.st_mtime_ns)


def loras_dir() -> Path:
    """Where LoRA files lie: ``INPAINT_LORAS``, else ``loras`` in the models folder; not made here."""
    chosen = os.environ.get("INPAINT_LORAS")
    return Path(chosen).expanduser() if chosen else weights.models_dir() / "loras"


def available_loras(folder: Path | None = None) -> list[LoraFile]:
    """Every LoRA that a request can name, by name. Reads no file's content but the pins.

    Args:
        folder: with ``.safetensors`` files; ``loras_dir()`` if None. One that is not there holds none.
    """
    found = {name: _in_folder(path) for name, path in _paths(folder).items()}
    found |= {file.name: file for file in _from_lock()}
    return [found[name] for name in sorted(found)]


def find_lora(name: str, folder: Path | None = None) -> LoraFile:
    """The LoRA of that name, its content not looked at yet.

    Raises:
        RequestError: there is none; lists those that there are.
    """
    lock, paths = {file.name: file for file in _from_lock()}, _paths(folder)
    if name in lock:
        return lock[name]
    if name in paths:
        return _in_folder(paths[name])
    names = ", ".join(sorted({*lock, *paths}))
    # Not where they are: whoever sends a request over HTTP need not know the operator's disk.
    there = f"there are {names}" if names else "`inpaint loras list` says where their files go"
    raise RequestError("loras", f"there is no LoRA {name!r}; {there}")


def require(uses: Iterable[LoraUse], folder: Path | None = None) -> None:
    """Raises a ``RequestError`` where there is no LoRA of one of the names; looks at no content."""
    for use in uses:
        find_lora(use.name, folder)


def checked(file: LoraFile) -> LoraFile:
    """``file``, if it is what it was when it was pinned; pins one that is new.

    Hashes where size or time are not those of the pin. In a folder that cannot be written nothing is pinned,
    and a new file is hashed each time.

    Raises:
        ModelError: it has changed, or is no whole ``.safetensors`` file.
    """
    if file.entry is not None:
        weights.verify(file.entry, file.path.parent)
        return file
    if file.state == "pinned":
        return file
    pin = _hashed(file.path)
    if file.sha256 not in ("", pin.file.sha256):
        now, then = pin.file.sha256[:12], file.sha256[:12]
        raise ModelError(
            f"the LoRA {file.name} is another file than when it was first used (sha256 {now}… instead of "
            f"{then}…); if that is meant, accept it with: inpaint loras pin {shlex.quote(file.name)}"
        )
    with suppress(OSError):
        _write_pin(file.path, pin)
    return replace(file, state="pinned", sha256=pin.file.sha256)


def accept(file: LoraFile) -> LoraFile:
    """Pin what the file holds now, whatever it was before.

    Raises:
        ModelError: it is no whole ``.safetensors`` file.
        OutputError: the pin could not be written.
    """
    if file.entry is not None:
        return checked(file)
    pin = _hashed(file.path)
    try:
        _write_pin(file.path, pin)
    except OSError as error:
        raise OutputError(
            f"{file.path.parent} cannot be written ({error.strerror}), so nothing is pinned"
        ) from None
    return replace(file, state="pinned", sha256=pin.file.sha256)


def verify(file: LoraFile) -> None:
    """Hash a pinned file again, whatever its time says.

    Raises:
        ModelError: its content is not what was pinned.
    """
    if file.entry is not None:
        weights.verify(file.entry, file.path.parent, deep=True)
    else:
        checked(replace(file, state="changed"))


def _paths(folder: Path | None) -> dict[str, Path]:
    """The files of a folder by the name that requests use; files that no request could name are left out."""
    folder = loras_dir() if folder is None else folder.expanduser()
    if not folder.is_dir():
        return {}
    files = [path for path in folder.iterdir() if path.suffix.lower() == SUFFIX and is_name(path.stem)]
    return {path.stem: path for path in sorted(files) if path.is_file()}


def _in_folder(path: Path) -> LoraFile:
    found, pin = path.stat(), _read_pin(path)
    if pin is None:
        return LoraFile(path.stem, path, found.st_size, "new")
    state: State = "pinned" if pin.vouches_for(found) else "changed"
    return LoraFile(path.stem, path, found.st_size, state, pin.file.sha256)


def _from_lock() -> list[LoraFile]:
    """The lock's LoRAs that are installed: single files, and named for what they are."""
    root, found = weights.models_dir(), []
    for entry in weights.load_lock().entries:
        if "lora" in entry.name.split("-") and len(entry.files) == 1:
            path = root / entry.target / entry.files[0].path
            if path.is_file():
                found.append(LoraFile(entry.name, path, entry.size, "pinned", entry.files[0].sha256, entry))
    return found


def _hashed(path: Path) -> _Pin:
    try:
        weights.check_safetensors(path)  # first: a file that is still being copied is not pinned
        before = path.stat()
        digest = sha256_of(path)
    except ModelError as error:
        raise ModelError(str(error).replace(str(path), path.name)) from None
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read ({error.strerror})") from None
    return _Pin(LockedFile(path.name, before.st_size, f"sha256:{digest}"), before.st_mtime_ns)


def _pin_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.pin")


def _read_pin(path: Path) -> _Pin | None:
    """None also where it cannot be understood: whoever can spoil it could as well delete it."""
    try:
        document = dict(json.loads(_pin_path(path).read_text("utf-8")))
        mtime_ns = int(document.pop("mtime_ns"))
        return _Pin(parse_file(document, "the pin"), mtime_ns)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, LockError):
        return None


def _write_pin(path: Path, pin: _Pin) -> None:
    row = {"path": pin.file.path, "size": pin.file.size, "digest": pin.file.digest, "mtime_ns": pin.mtime_ns}
    write_atomically(_pin_path(path), json.dumps(row).encode())
