"""LoRA files by name: those below a folder, and those of ``weights.lock`` that are installed.

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
from inpaint.errors import LockError, ModelError, OutputError
from inpaint.files import folder_in, in_home, is_file, write_atomically
from inpaint.lora.lookup import Search, Unusable, choose, search
from inpaint.lora.spec import LoraUse, added_up
from inpaint.weights.lock import LockedFile, parse_file
from inpaint.weights.verify import sha256_of

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
    return folder_in("INPAINT_LORAS") or weights.models_dir() / "loras"


def available_loras(folder: Path | None = None) -> list[LoraFile]:
    """List every LoRA that a request can name, sorted by name; of the files' content only pins are read.

    Args:
        folder: the folder of ``.safetensors`` files; ``loras_dir()`` if None. It may be missing.

    Raises:
        ModelError: the folder cannot be read.
    """
    found = {name: _in_folder(name, path) for name, path in _search(folder).files.items()}
    found |= {file.name: file for file in _from_lock()}
    return [found[name] for name in sorted(found)]


def unusable_loras(folder: Path | None = None) -> list[Unusable]:
    """List the files that no request can use, sorted by name; of their content only headers are read.

    Raises:
        ModelError: the folder cannot be read.
    """
    there = _search(folder)
    read = ((name, path, header_problem(path)) for name, path in there.files.items())
    damaged = [Unusable(name, path, reason) for name, path, reason in read if reason]
    return sorted([*there.unusable, *damaged], key=lambda one: one.name)


def header_problem(path: Path) -> str | None:
    """Return why a file's header makes it unfit for every SDXL model; None if it may fit."""
    try:
        header = weights.check_safetensors(path)
    except ModelError as error:
        return str(error).replace(str(path), path.name)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    shapes = {key: value["shape"] for key, value in header.items() if key != "__metadata__"}
    if not shapes:
        return "it holds no tensors"
    from inpaint.lora.read import unfit  # it imports torch, which requests by name need not wait for

    return unfit(shapes)


def find_lora(name: str, folder: Path | None = None) -> LoraFile:
    """Find the LoRA of that name without reading its content.

    Raises:
        RequestError: there is none, or several; the message lists those that there are.
        ModelError: the folder cannot be read.
    """
    lock, there = {file.name: file for file in _from_lock()}, _search(folder)
    chosen = choose(name, lock.keys() | there.files.keys(), there.unusable)
    return lock[chosen] if chosen in lock else _in_folder(chosen, there.files[chosen])


def canonical(uses: Iterable[LoraUse], folder: Path | None = None) -> tuple[LoraUse, ...]:
    """Return the LoRAs by the names of their files, however a request spelled them; read no content.

    Raises:
        RequestError: there is no LoRA of one of the names, or there are several; or one that was spelled in
            two ways is too strong.
        ModelError: the folder cannot be read.
    """
    return added_up("loras", [LoraUse(find_lora(use.name, folder).name, use.scale) for use in uses])


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


def _search(folder: Path | None) -> Search:
    return search(loras_dir() if folder is None else in_home(folder, "--loras"))


def _in_folder(name: str, path: Path) -> LoraFile:
    try:
        found, pin = path.stat(), _read_pin(path)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read ({error.strerror})") from None
    if pin is None:
        return LoraFile(name, path, found.st_size, "new")
    state: State = "pinned" if pin.vouches_for(found) else "changed"
    return LoraFile(name, path, found.st_size, state, pin.file.sha256)


def _from_lock() -> list[LoraFile]:
    """List the lock's LoRAs that are installed: entries of a single file with ``lora`` in their name."""
    root, found = weights.models_dir(), []
    for entry in weights.load_lock().entries:
        if "lora" in entry.name.split("-") and len(entry.files) == 1:
            path = root / entry.target / entry.files[0].path
            if is_file(path):
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
