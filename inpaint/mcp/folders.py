"""The folders whose files agents may use: nothing outside them is read, and no file in them replaced."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

from inpaint.errors import OutputError, RequestError, shown
from inpaint.files import in_home, write_atomically
from inpaint.images.formats import ENDINGS

_RESULT = re.compile(r"(?P<stem>.+)_inpainted(_\d+)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders, as absolute paths without links. A relative path is one below the first of them."""

    roots: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Self:
        """Return these folders.

        Raises:
            RequestError: one of them is no folder.
        """
        return cls(tuple(_folder(path) for path in paths))

    def path(self, text: str, field: str) -> Path:
        """Return the file that a path leads to in the end, once its links and ``..`` are followed.

        Raises:
            RequestError: it is in none of the folders; whether there is such a file is not said.
        """
        try:
            path = (self.roots[0] / in_home(Path(text), field)).resolve()
        except (OSError, RuntimeError, ValueError):  # a circle of links, or a zero byte
            raise RequestError(field, f"{shown(text)} is no path of a file") from None
        if not any(path.is_relative_to(root) for root in self.roots):
            where = " or ".join(map(str, self.roots))
            raise RequestError(field, f"{shown(text)} is not in {where}; only files there can be used")
        return path


def _folder(path: Path) -> Path:
    try:
        real = in_home(path, "folder").resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # a circle of links, or the current folder was deleted
        real = None
    if real is None or not real.is_dir():
        raise RequestError("folder", f"there is no folder {path}")
    return real


def ending_for(picture: Path) -> str:
    """Return the ending of a picture's results: its own, or PNG's where that is no format that we keep."""
    return picture.suffix if ENDINGS.get(picture.suffix.lower(), "AVIF") != "AVIF" else ".png"


def check_writable(folder: Path) -> None:
    """Raise an OutputError before painting if no file can be made in ``folder``."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"output: the folder {folder} is not writable")


def write_new(picture: Path, data: bytes, kind: str = "inpainted", ending: str | None = None) -> Path:
    """Write a result next to its picture, under a name that no file has, and return its path.

    Args:
        picture: the picture's file.
        data: the result's.
        kind: what the result's name says.
        ending: the result's; None: the picture's, where we write that format.

    Raises:
        OutputError: it could not be written; nothing was left behind.
    """
    stem = found["stem"] if (found := _RESULT.fullmatch(picture.stem)) else picture.stem
    path = picture
    try:
        for n in count(1):
            number = f"_{n}" if n > 1 else ""
            path = picture.with_name(f"{stem}_{kind}{number}{ending or ending_for(picture)}")
            try:
                path.open("xb").close()  # the name is ours from now on, even if others look for one as well
                break
            except FileExistsError:
                continue
        try:
            write_atomically(path, data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"output: {path} could not be written: {error.strerror}") from error
    return path
