"""The LoRA files below a folder, and the names by which requests find them; no file's content is read.

A name is the file's path below the folder without its ending, such as ``style`` or ``people/style``. A
request may leave the folders out; letter case and the ending do not matter. A request's text is compared
with the names that a search has found, and never becomes a path.
"""

import difflib
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from inpaint.errors import ModelError, RequestError, shown
from inpaint.lora.spec import MAX_NAME, NOT_IN_NAMES, is_name

SUFFIX = ".safetensors"
_OTHERS = {
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".bin"), "it is a pickle, which may run a program; bring it as .safetensors"
    ),
    ".sft": "it must be renamed: its name must end with .safetensors",
}
_ENDINGS = (SUFFIX, *_OTHERS)
_DEPTH = 4  # folders inside folders; a request waits for the search
_LISTED = 20  # names in an error


@dataclass(frozen=True, slots=True)
class Unusable:
    """A file in the folder that no request can use, and why."""

    name: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Search:
    """The files below a folder: those that requests can name, and those that they cannot."""

    files: dict[str, Path]  # by name, sorted
    unusable: tuple[Unusable, ...] = ()


def search(folder: Path) -> Search:
    """Look for LoRA files in a folder, which may be missing, and in the folders below it.

    Raises:
        ModelError: the folder cannot be read.
    """
    files: dict[str, Path] = {}
    unusable: list[Unusable] = []

    def failed(place: Path, error: OSError) -> None:
        if place == folder:
            # Without its path: a client over HTTP must not learn the operator's.
            raise ModelError(
                f"the folder of LoRA files cannot be read ({error.strerror}); choose another with --loras or "
                "INPAINT_LORAS"
            ) from None
        name = place.relative_to(folder).as_posix()
        unusable.append(Unusable(name, place, f"it cannot be read ({error.strerror})"))

    for below, entry in _walk(folder, failed):
        name = below.removesuffix(below[-len(SUFFIX) :]) if entry.name.lower().endswith(SUFFIX) else below
        reason = _reason(entry, name) or ("another file has its name" if name in files else "")
        if reason:
            unusable.append(Unusable(name, Path(entry.path), reason))
        else:
            files[name] = Path(entry.path)
    return Search(dict(sorted(files.items())), tuple(sorted(unusable, key=lambda one: one.name)))


def choose(wanted: str, names: Collection[str], unusable: Collection[Unusable] = ()) -> str:
    """Return the one of ``names`` that a request means by ``wanted``.

    The whole name comes before its last part, and the exact spelling before other letter cases.

    Raises:
        RequestError: there is no such name, or there are several.
    """
    if wanted in names:
        return wanted
    found = next(filter(None, (_alike(wanted, names, same) for same in _SAME)), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError("loras", f"{shown(wanted)} may be {' or '.join(sorted(found))}; name one of these")
    raise _missing(wanted, names, unusable)


def _folded(name: str) -> str:
    """Return a name without the differences that are forgiven; file systems disagree on accents, too."""
    return unicodedata.normalize("NFC", name).casefold().removesuffix(SUFFIX)


_SAME: tuple[Callable[[str, str], bool], ...] = (
    lambda wanted, name: _folded(name) == _folded(wanted),
    lambda wanted, name: name.endswith(f"/{wanted}"),
    lambda wanted, name: _folded(name).endswith(f"/{_folded(wanted)}"),
)


def _alike(wanted: str, names: Collection[str], same: Callable[[str, str], bool]) -> list[str]:
    return [name for name in names if same(wanted, name)]


def _missing(wanted: str, names: Collection[str], unusable: Collection[Unusable]) -> RequestError:
    refused = [
        one for one in unusable if any(same(wanted, name) for same in _SAME for name in _without_ending(one))
    ]
    if refused:
        return RequestError("loras", f"the LoRA {shown(wanted)} cannot be used: {refused[0].reason}")
    cut = [name for name in names if "," in name and _folded(name.split(",")[0]) == _folded(wanted)]
    if cut:  # from text such as ``a, b:0.8,c``
        return RequestError(
            "loras",
            f"there is no LoRA {shown(wanted)}; a name with a comma, such as {cut[0]!r}, must be in a list, "
            f"or in the prompt as <lora:{cut[0]}:1>",
        )
    there = (
        f"there are {_listed(wanted, names)}" if names else "`inpaint loras list` says where their files go"
    )
    return RequestError("loras", f"there is no LoRA {shown(wanted)}; {there}")


def _without_ending(one: Unusable) -> tuple[str, ...]:
    """Return the names of a file with its ending and without: ``style`` may mean ``style.pt``."""
    return one.name, one.name.removesuffix(one.path.suffix)


def _listed(wanted: str, names: Collection[str]) -> str:
    if len(names) <= _LISTED:
        return ", ".join(sorted(names))
    near = difflib.get_close_matches(wanted, names, _LISTED, 0.0)
    return f"{', '.join(near)} and {len(names) - len(near)} more"


def _walk(folder: Path, failed: Callable[[Path, OSError], None]) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield the files that may be LoRAs, with their paths below ``folder``; those of outer folders first.

    Hidden folders are a program's. Links are followed, each folder once: they may lead in a circle.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, "", 0)]
    while waiting:
        place, below, depth = waiting.pop(0)
        try:
            found = place.stat()
            with os.scandir(place) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed(place, error)
            continue
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        for entry in entries:
            name = entry.name
            if _is_folder(entry):
                if depth < _DEPTH and not name.startswith("."):
                    waiting.append((place / name, f"{below}{name}/", depth + 1))
            # macOS puts a ``._name`` next to each file on a foreign disk.
            elif name.lower().endswith(_ENDINGS) and not name.startswith("._"):
                yield below + name, entry


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _reason(entry: "os.DirEntry[str]", name: str) -> str | None:
    """Return why no request can name a file, from its path alone."""
    if entry.name.startswith("."):
        return "it is hidden: its name begins with a dot"
    if not entry.name.lower().endswith(SUFFIX):
        return _OTHERS[Path(entry.name).suffix.lower()]
    if not entry.is_file():
        return "it is no file, or a link to a file that is gone"
    if is_name(name):
        return None
    if len(name) > MAX_NAME:
        return f"its name has more than {MAX_NAME} characters; rename it"
    if wrong := NOT_IN_NAMES.search(name):
        return f"its name holds {wrong[0]}, which no request can name; rename it"
    return "its name holds blanks at its ends, or characters that are no text; rename it"
