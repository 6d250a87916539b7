"""LoRA files by name: a folder's ``.safetensors`` files, and those of ``weights.lock`` that are installed.

Each is pinned: those of the lock by the lock, one in the folder by its sha256 when it is first used. The pin
is a file next to it; a file of other content under a pinned name is refused until ``inpaint loras pin``
accepts it. This module reads files and their headers, and loads no weights.
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
    """A LoRA file that requests can name."""

    name: str
    path: Path
    size_bytes: int
    state: State  # "changed": size or time differ from when it was pinned; its hash decides
    sha256: str = ""  # as pinned, 64 hex digits; "" while new
    entry: weights.Entry | None = None  # the lock's entry, if the file is from there


@dataclass(frozen=True, slots=True)
class _Pin:
    """A file's size, digest and modification time when it was pinned."""

    file: LockedFile
    mtime_ns: int

    def vouches_for(self, found: os.stat_result) -> bool:
        return (self.file.size, self.mtime_ns) == (found.st_size, found.st_mtime_ns)


def loras_dir() -> Path:
    """Return the folder of LoRA files: ``INPAINT_LORAS``, else ``loras`` in the models folder."""
    chosen = os.environ.get("INPAINT_LORAS")
    return Path(chosen).expanduser() if chosen else weights.models_dir() / "loras"


def available_loras(folder: Path | None = None) -> list[LoraFile]:
    """List every LoRA that a request can name, sorted by name; of the files' content only pins are read.

    Args:
        folder: the folder of ``.safetensors`` files; ``loras_dir()`` if None. It may be missing.
    """
    found = {name: _in_folder(path) for name, path in _paths(folder).items()}
    found |= {file.name: file for file in _from_lock()}
    return [found[name] for name in sorted(found)]


def find_lora(name: str, folder: Path | None = None) -> LoraFile:
    """Find the LoRA of that name without reading its content.

    Raises:
        RequestError: there is none; the message lists those that there are.
    """
    lock, paths = {file.name: file for file in _from_lock()}, _paths(folder)
    if name in lock:
        return lock[name]
    if name in paths:
        return _in_folder(paths[name])
    names = ", ".join(sorted({*lock, *paths}))
    # The folder is left out: a client over HTTP must not learn the paths of the operator's disk.
    there = f"there are {names}" if names else "`inpaint loras list` says where their files go"
    raise RequestError("loras", f"there is no LoRA {name!r}; {there}")


def require(uses: Iterable[LoraUse], folder: Path | None = None) -> None:
    """Raise a ``RequestError`` if there is no LoRA of one of the names; read no content."""
    for use in uses:
        find_lora(use.name, folder)


def checked(file: LoraFile) -> LoraFile:
    """Return ``file`` if its content is what was pinned; pin one that is new.

    A file is hashed if its size or time differ from the pin's. In a folder that cannot be written nothing is
    pinned, and a new file is hashed each time.

    Raises:
        ModelError: it has changed, or is not a complete ``.safetensors`` file.
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
            f"the LoRA {file.name} has changed since it was first used (sha256 {now}… instead of {then}…); "
            f"if you replaced it on purpose, run: inpaint loras pin {shlex.quote(file.name)}"
        )
    with suppress(OSError):
        _write_pin(file.path, pin)
    return replace(file, state="pinned", sha256=pin.file.sha256)


def accept(file: LoraFile) -> LoraFile:
    """Pin the file's present content, in place of any earlier pin.

    Raises:
        ModelError: it is not a complete ``.safetensors`` file.
        OutputError: the pin could not be written.
    """
    if file.entry is not None:
        return checked(file)
    pin = _hashed(file.path)
    try:
        _write_pin(file.path, pin)
    except OSError as error:
        raise OutputError(
            f"{file.name} is not pinned: the folder {file.path.parent} cannot be written ({error.strerror})"
        ) from None
    return replace(file, state="pinned", sha256=pin.file.sha256)


def verify(file: LoraFile) -> None:
    """Hash a pinned file again, even if its size and time are those of the pin.

    Raises:
        ModelError: its content is not what was pinned.
    """
    if file.entry is not None:
        weights.verify(file.entry, file.path.parent, deep=True)
    else:
        checked(replace(file, state="changed"))


def _paths(folder: Path | None) -> dict[str, Path]:
    """Return a folder's files by the names that requests use, without those that no request could name."""
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
    """List the lock's LoRAs that are installed: entries of a single file with ``lora`` in their name."""
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
    """Read a file's pin; None if it is missing or cannot be parsed.

    Ignoring a damaged pin costs no safety: a process that could damage it could as well delete it.
    """
    try:
        document = dict(json.loads(_pin_path(path).read_text("utf-8")))
        mtime_ns = int(document.pop("mtime_ns"))
        return _Pin(parse_file(document, "the pin"), mtime_ns)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, LockError):
        return None


def _write_pin(path: Path, pin: _Pin) -> None:
    row = {"path": pin.file.path, "size": pin.file.size, "digest": pin.file.digest, "mtime_ns": pin.mtime_ns}
    write_atomically(_pin_path(path), json.dumps(row).encode())
