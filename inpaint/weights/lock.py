"""Parsing of ``weights.lock``, which lists the files of each model with their digests.

The format is a subset of Cog's file of the same name. This module reads and checks it; it opens no connection
and no weight file. A lock that breaks a rule is refused as a whole.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

from inpaint.errors import LockError

# Formats that run code when they are opened, and code itself: refused, even with the right digest.
CODE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".so"})

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_COMMIT = re.compile(r"commit:[0-9a-f]{40}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HUB_URI = re.compile(r"hf://[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A model's file: path inside its folder (forward slashes), size in bytes, ``sha256:<64 hex>``."""

    path: str
    size: int
    digest: str

    @property
    def sha256(self) -> str:
        """The digest's 64 hex digits."""
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a model's files: ``hf://owner/name`` at ``commit:<40 hex>``."""

    uri: str
    fingerprint: str

    @property
    def repo(self) -> str:
        """The hub repository, ``owner/name``."""
        return self.uri.removeprefix("hf://")

    @property
    def commit(self) -> str:
        """The commit's 40 hex digits."""
        return self.fingerprint.removeprefix("commit:")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the lock: the folder ``target`` below the models folder holds exactly ``files``."""

    name: str
    target: str
    source: Source | None  # None: imported, or part of the package; it cannot be fetched
    license: str
    license_url: str
    size: int  # bytes, all files together
    files: tuple[LockedFile, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """A parsed ``weights.lock``: the models that can be fetched by name."""

    entries: tuple[Entry, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the lock's order."""
        return tuple(entry.name for entry in self.entries)

    def get(self, name: str) -> Entry | None:
        """Return the entry of that name; None if there is none."""
        return next((entry for entry in self.entries if entry.name == name), None)


def load_lock() -> Lock:
    """Load the lock that came with this package.

    Raises:
        LockError: the file is missing or breaks a rule.
    """
    packaged = resources.files("inpaint") / "weights.lock"
    if packaged.is_file():
        return parse_lock(packaged.read_text("utf-8"))
    # An editable install has no force-included copy: the repository's own file lies next to the package.
    try:
        text = (Path(__file__).parents[2] / "weights.lock").read_text("utf-8")
    except FileNotFoundError as error:
        raise LockError(
            "weights.lock is missing from this installation; install sdxl-inpaint again"
        ) from error
    return parse_lock(text)


def parse_lock(text: str) -> Lock:
    """Parse a lock; refuse everything that the format does not name.

    Raises:
        LockError: a rule is broken; the message names the entry and the rule.
    """
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise LockError(f"weights.lock is not valid JSON: {error}") from error
    fields = _fields(document, {"version", "weights"}, "the file")
    if fields["version"] != 1 or isinstance(fields["version"], bool):
        _refuse("the file", f"version must be 1, not {fields['version']!r}")
    entries = tuple(
        _entry(item, f"entry {i}") for i, item in enumerate(_list(fields["weights"], "weights", "the file"))
    )
    _unique([entry.name for entry in entries], "the file", "name")
    _unique([entry.target for entry in entries], "the file", "target")
    return Lock(entries)


def sha256sums(entry: Entry) -> str:
    """Write an entry in the format of ``sha256sum``, for ``sha256sum -c`` inside the model's folder."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in entry.files)


def parse_file(item: object, where: str) -> LockedFile:
    """Parse one row of ``files``; ``where`` names the entry in an error.

    Raises:
        LockError: a key, the path, the size or the digest breaks a rule.
    """
    fields = _fields(item, {"path", "size", "digest"}, where)
    path = _text(fields["path"], "path", where)
    _check_path(path, where)
    digest = _text(fields["digest"], f"{path}: digest", where)
    if not _DIGEST.fullmatch(digest):
        _refuse(where, f"{path}: digest must be sha256: and 64 lower-case hex digits, not {digest!r}")
    return LockedFile(path, _size(fields["size"], f"{path}: size", where), digest)


def is_name(text: str) -> bool:
    """Return whether ``text`` can name a model: lower-case letters, digits and ``. _ -``, at most 64."""
    return _NAME.fullmatch(text) is not None


def _entry(item: object, where: str) -> Entry:
    if isinstance(item, Mapping) and isinstance(item.get("name"), str):
        where = f"{item['name']!r}"
    keys = {"name", "target", "sources", "license", "licenseUrl", "size", "files"}
    fields = _fields(item, keys, where)
    for key in ("name", "target"):
        if not is_name(_text(fields[key], key, where)):
            _refuse(where, f"{key} must be lower-case letters, digits and . _ -, not {fields[key]!r}")
    files = tuple(parse_file(row, where) for row in _list(fields["files"], "files", where))
    _check_paths(files, where)
    size = _size(fields["size"], "size", where)
    if size != sum(file.size for file in files):
        _refuse(where, f"size must be the sum of its files, {sum(f.size for f in files)}, not {size}")
    license_url = _text(fields["licenseUrl"], "licenseUrl", where)
    if not license_url.startswith("https://"):
        _refuse(where, f"licenseUrl must start with https://, not {license_url!r}")
    return Entry(
        name=fields["name"],
        target=fields["target"],
        source=_source(fields["sources"], where),
        license=_text(fields["license"], "license", where),
        license_url=license_url,
        size=size,
        files=files,
    )


def _source(items: object, where: str) -> Source | None:
    sources = _list(items, "sources", where)
    if not sources:
        return None
    if len(sources) > 1:
        _refuse(where, f"sources must hold at most one source, not {len(sources)}")
    fields = _fields(sources[0], {"uri", "fingerprint"}, where)
    uri = _text(fields["uri"], "uri", where)
    if not _HUB_URI.fullmatch(uri):
        _refuse(where, f"uri must be hf://owner/name, not {uri!r}")
    fingerprint = _text(fields["fingerprint"], "fingerprint", where)
    if not _COMMIT.fullmatch(fingerprint):  # a branch or a tag moves; only a commit pins
        _refuse(where, f"fingerprint must be commit: and 40 hex digits, not {fingerprint!r}")
    return Source(uri, fingerprint)


def _check_path(path: str, where: str) -> None:
    parts = path.split("/")
    if "\\" in path:
        _refuse(where, f"path {path!r} holds a backslash; use forward slashes")
    if path.startswith("/") or PureWindowsPath(path).drive:
        _refuse(where, f"path {path!r} is absolute; it must be relative to the model's folder")
    if any(not part or part.startswith(".") for part in parts):
        _refuse(where, f"path {path!r} has an empty part or one that starts with a dot, such as ..")
    if PurePosixPath(path).suffix.lower() in CODE_SUFFIXES:
        _refuse(where, f"path {path!r} is code or a pickle; only safetensors weights are loaded")


def _check_paths(files: Sequence[LockedFile], where: str) -> None:
    paths = [file.path for file in files]
    if not paths:
        _refuse(where, "files must not be empty")
    _unique(paths, where, "path")
    if paths != sorted(paths):
        _refuse(where, "files must be sorted by path")
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    if both := folders.intersection(paths):
        _refuse(where, f"path {min(both)!r} is both a file and a folder")


def _unique(values: Sequence[str], where: str, key: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value.casefold() in seen:  # macOS and Windows would write both to one file
            _refuse(where, f"{key} {value!r} appears twice")
        seen.add(value.casefold())


def _no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key {next(k for k in keys if keys.count(k) > 1)!r} appears twice in one object"
        )
    return fields


def _fields(item: object, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        _refuse(where, f"expected an object with the keys {', '.join(sorted(keys))}")
    if unknown := set(item) - keys:
        _refuse(where, f"unknown key {min(unknown)!r}")
    if missing := keys - set(item):
        _refuse(where, f"the key {min(missing)!r} is missing")
    return item


def _list(value: object, key: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse(where, f"{key} must be a list")
    return value


def _text(value: object, key: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        _refuse(where, f"{key} must be a string that is not empty")
    if not value.isprintable():
        _refuse(where, f"{key} {value!r} holds a control character")
    return value


def _size(value: object, key: str, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _refuse(where, f"{key} must be a whole number of bytes, not {value!r}")
    return value


def _refuse(where: str, rule: str) -> NoReturn:
    raise LockError(f"weights.lock, {where}: {rule}")
