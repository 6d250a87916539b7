"""The pictures that a command line names: files, folders, globs, and a list on stdin."""

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePath

from inpaint.errors import RequestError
from inpaint.images.formats import ENDINGS, HEIC_ENDINGS, INSTALL_HEIC, OTHER_ENDINGS, READ, reads_heic

FORMATS = ENDINGS  # of pictures, masks and results; HEIC is only read
STDIN = "-"
_NO_INPUT = re.compile(r"(?P<stem>.+)(_mask|_erased|_inpainted(_\d+)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A picture's path, and its folder below the searched one (``.`` for a file that was named itself)."""

    path: Path
    below: PurePath = field(default_factory=PurePath)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The pictures found, in the order of the command line.

    ``left_out`` counts masks and earlier results; ``others`` are the endings, in lower case, of pictures of
    formats that are not read, one for each file in a folder or a glob.
    """

    found: tuple[Found, ...]
    left_out: int
    others: tuple[str, ...] = ()

    @classmethod
    def named_by(
        cls, arguments: Sequence[str], *, recursive: bool, by_null: bool, excluded: Iterable[Path]
    ) -> "Inputs":
        """Return the pictures that ``arguments`` stand for, each once.

        From a folder or a glob only files with a picture's ending are taken, and no masks (``*_mask``) or
        results (``*_inpainted``, ``*_erased``). A file that is named itself is left out only if the picture
        that it belongs to is named as well: the shell's own ``*`` names both.

        Args:
            arguments: of the command line.
            recursive: look into folders inside folders.
            by_null: paths on stdin end with a zero byte instead of a newline.
            excluded: folders of masks or results, which may lie among the pictures.

        Raises:
            RequestError: an argument stands for no picture at all.
        """
        search = _Search(recursive, [path.resolve() for path in excluded])
        found: dict[Path, Found] = {}
        for argument in _with_stdin(arguments, by_null):
            for one in search.below(argument):
                found.setdefault(one.path, one)
        stems = {(one.path.parent, one.path.stem) for one in found.values()}
        kept = tuple(one for one in found.values() if not _belongs_to(one.path, stems))
        return cls(kept, search.left_out + len(found) - len(kept), tuple(search.others))

    def others_line(self) -> str:
        """Return a line on the pictures of formats that are not read; the empty text if there are none."""
        return f"left out {_counted(self.others)}" if self.others else ""


def _counted(endings: Sequence[str]) -> str:
    """Return how many pictures have which ending: 3 pictures of other formats (1 .bmp, 2 .gif)."""
    counts = Counter(endings)
    kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
    noun = "picture of another format" if len(endings) == 1 else "pictures of other formats"
    hint = f"; HEIC is read after: {INSTALL_HEIC}" if any(each in counts for each in HEIC_ENDINGS) else ""
    return f"{len(endings)} {noun} ({kinds}){hint}"


def names_one(arguments: Sequence[str]) -> bool:
    """Return whether ``arguments`` are the path of a single file, existing or not."""
    if len(arguments) != 1 or arguments[0] == STDIN:
        return False
    return not _is_pattern(arguments[0]) and not is_folder(Path(arguments[0]))


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not exists(Path(text))


def _belongs_to(path: Path, stems: set[tuple[Path, str]]) -> bool:
    match = _NO_INPUT.fullmatch(path.stem)
    return match is not None and (path.parent, match["stem"]) in stems


@dataclass(frozen=True, slots=True)
class _Argument:
    text: str
    is_pattern: bool  # never for a path from stdin: a program wrote it, and brackets are part of it


def _with_stdin(arguments: Sequence[str], by_null: bool) -> Iterator[_Argument]:
    for text in arguments:
        if not text:  # an unset shell variable; as a path it would be the working folder
            raise RequestError("image", "the path is empty; name a picture or a folder")
        refuse_url("image", text)
        if text != STDIN:
            yield _Argument(text, _is_pattern(text))
            continue
        lines = sys.stdin.buffer.read().split(b"\0" if by_null else b"\n")
        paths = [os.fsdecode(line if by_null else line.removesuffix(b"\r")) for line in lines]
        if not any(paths):
            raise RequestError("image", "stdin holds no path; write one per line")
        for path in filter(None, paths):
            refuse_url("image", path)
            yield _Argument(path, False)


@dataclass(slots=True)
class _Search:
    recursive: bool
    excluded: Sequence[Path]
    left_out: int = 0
    others: list[str] = field(default_factory=list)

    def below(self, argument: _Argument) -> list[Found]:
        if argument.is_pattern:
            root = fixed_part(argument.text, glob.has_magic)
            # Unlike pathlib's glob it takes absolute patterns and leaves hidden files out.
            paths = sorted(map(Path, glob.iglob(argument.text, recursive=True)))  # noqa: PTH207
            found = list(self._pictures(root, paths))
            nothing = f"no picture matches {argument.text!r}"
        elif is_folder(root := Path(argument.text)):
            found = list(self._pictures(root, self._listed(root)))
            nothing = f"the folder {root} holds no {READ} picture"
        else:
            return [Found(root)]
        if not found:
            others = " but masks and earlier results" if self.left_out else ""
            if self.others:
                others += f"; it has {_counted(self.others)}"
            raise RequestError("image", nothing + others)
        return found

    def _listed(self, folder: Path) -> Iterator[Path]:
        """Yield the files of a folder by name, without hidden files: those are a program's, not pictures."""
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            raise RequestError("image", f"the folder {folder} cannot be read: {error.strerror}") from error
        for path in paths:
            if path.name.startswith("."):
                continue
            if not path.is_dir():
                yield path
            elif self.recursive and not path.is_symlink():  # a link may lead back up
                yield from self._listed(path)

    def _pictures(self, root: Path, paths: Iterable[Path]) -> Iterator[Found]:
        inside = root.resolve().parts
        endings = (*ENDINGS, *(HEIC_ENDINGS if reads_heic() else ()))
        excluded = [
            f for f in self.excluded if f.parts[: len(inside)] == inside and len(f.parts) > len(inside)
        ]
        for path in paths:
            ending = path.suffix.lower()
            if ending not in endings:
                self.others += (
                    [ending] if ending in (*OTHER_ENDINGS, *HEIC_ENDINGS) and path.is_file() else []
                )
                continue
            if path.is_dir():
                continue
            folder = path.parent.resolve()
            if _NO_INPUT.fullmatch(path.stem) or any(folder.is_relative_to(other) for other in excluded):
                self.left_out += 1
            else:
                yield Found(path, path.parent.relative_to(root))


def fixed_part(pattern: str, varies: Callable[[str], bool]) -> Path:
    """Return the folder that all paths of a pattern lie in: its parts before the first that ``varies``."""
    return Path(*takewhile(lambda part: not varies(part), Path(pattern).parent.parts))


def exists(path: Path) -> bool:
    """Return whether the file or folder exists; False for a name that cannot exist, such as one too long."""
    try:
        return path.exists()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether ``path`` is an existing folder."""
    return exists(path) and path.is_dir()


def refuse_url(field: str, text: str) -> None:
    """Refuse a URL in place of a file; as a path it would lose a slash.

    Raises:
        RequestError: it is a URL.
    """
    scheme, colon, _ = text.partition("://")
    if colon and scheme.isalnum() and len(scheme) > 1:
        raise RequestError(
            field,
            f"{text} is a URL, and the command line reads files; download it first, or send it to a server "
            "(inpaint serve), which fetches URLs",
        )
