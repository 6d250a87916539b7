"""The files of painted pictures: their names, and writing each whole or not at all."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inpaint.cli.run.inputs import FORMATS, Found, is_folder
from inpaint.cli.run.template import fill_in, fixed_folder, placeholders, plain_path, read_template
from inpaint.errors import OutputError, RequestError
from inpaint.files import write_atomically

_ANY_SEED = "\ue000"  # stands for a seed's digits in a path that is turned into a pattern


@dataclass(frozen=True, slots=True)
class Output:
    """The value of ``--output``: a file, a folder or a template; None for a file next to the picture."""

    template: str | None
    several: bool  # it is for the results of more than one picture
    addition: str = "_inpainted"  # to the name of a file next to the picture

    def __post_init__(self) -> None:
        if self.template is None:
            return
        if not self.template:
            raise RequestError("output", "the path is empty; name a file or a folder, or leave --output out")
        template = read_template(self.template, "output", ("stem", "seed", "n", "parent"))
        object.__setattr__(self, "template", template)
        if self.several and self.folder is None and not placeholders(template):
            raise RequestError(
                "output",
                "several pictures would be written to one file; give a folder, or put {stem} into the name",
            )

    @property
    def folder(self) -> Path | None:
        """The folder that ``--output`` names; None if it names files."""
        if self.template is None or placeholders(self.template):
            return None
        path = plain_path(self.template)
        named = path.suffix == "" or self.template.endswith(("/", os.sep)) or is_folder(path)
        return path if named or (self.several and path.suffix.lower() not in FORMATS) else None

    @property
    def home(self) -> Path | None:
        """The folder that all results lie in; None if each lies next to its picture."""
        if self.template is None:
            return None
        return self.folder or fixed_folder(self.template)

    @property
    def names_formats(self) -> bool:
        """True if the user chose the format of the results; else it is the picture's, or PNG."""
        return self.template is not None and self.folder is None

    @property
    def holds_seed(self) -> bool:
        """True if the name of a result depends on its seed."""
        return self.template is not None and "seed" in placeholders(self.template)

    def paths(self, picture: Found, seeds: Sequence[int]) -> list[Path]:
        """Return one path per sample of ``picture``.

        Raises:
            RequestError: samples would replace one another, or the file's ending is unknown.
        """
        found = [self._path(picture, str(seed), n, len(seeds)) for n, seed in enumerate(seeds, 1)]
        if len(set(found)) < len(found):
            raise RequestError(
                "output", "several pictures would be written to one file; put {n} or {seed} into the name"
            )
        return found

    def seeds_there(self, picture: Found, samples: int) -> list[int]:
        """Return the seeds in the names of files that could be first samples of ``picture``, ascending."""
        assert self.holds_seed
        path = str(self._path(picture, _ANY_SEED, 1, samples))
        there = glob.glob(glob.escape(path).replace(_ANY_SEED, "*"))  # noqa: PTH207 - absolute or not
        pattern = re.escape(path).replace(_ANY_SEED, r"(\d{1,15})")
        seeds = [set(match.groups()) for name in there if (match := re.fullmatch(pattern, name))]
        return sorted(int(found.pop()) for found in seeds if len(found) == 1)

    def _path(self, picture: Found, seed: str, n: int, samples: int) -> Path:
        image = picture.path
        ending = image.suffix if FORMATS.get(image.suffix.lower(), "AVIF") != "AVIF" else ".png"
        number = f"_{n}" if samples > 1 else ""
        if self.template is None:
            return image.with_name(f"{image.stem}{self.addition}{number}{ending}")
        if self.folder is not None:
            return self.folder / picture.below / f"{image.stem}{number}{ending}"
        template = self.template
        if number and not placeholders(template) & {"n", "seed"}:
            named = Path(template)
            template = str(named.with_name(f"{named.stem}{number}{named.suffix}"))
        parent = image.absolute().parent.name
        values = {"stem": image.stem, "seed": seed, "n": str(n), "parent": parent}
        path = Path(fill_in(template, values, "output"))
        if path.suffix.lower() not in FORMATS:
            raise RequestError(
                "output", f"must end with {', '.join(FORMATS)}, or be a folder, not {path.name!r}"
            )
        return path


class Claims:
    """The files that a run may write: no input, no file twice, no existing file unless it may be replaced."""

    def __init__(self, inputs: Iterable[Path], *, overwrite: bool) -> None:
        self._inputs = _known(inputs)
        self._overwrite = overwrite
        self._taken: dict[Path, Path] = {}  # output → the picture that it comes from

    def claim(self, picture: Path, mask: Path | None, outputs: Sequence[Path], kept: Sequence[Path]) -> None:
        """Check before painting that the results of a picture can be written.

        Args:
            picture: the picture.
            mask: the file of its mask, if it has one.
            outputs: the files of its results.
            kept: results that exist already and stay.

        Raises:
            RequestError: a result exists, is one of the inputs, or is another picture's result.
            OutputError: a folder cannot be created or written.
        """
        self._inputs |= _known([mask] if mask else [])
        for output in outputs:
            other = self._taken.setdefault(output, picture)
            if other != picture:
                raise RequestError(
                    "output",
                    f"{output} is already the result of {other}; put {{stem}} or {{parent}} into the name",
                )
            if output not in kept:
                self._check(output)

    def claim_extra(self, path: Path, field: str) -> None:
        """Check that a file which is no picture's result can be written; errors name ``field``.

        Raises:
            RequestError: the file exists, or is one of the inputs.
            OutputError: its folder cannot be created or written.
        """
        self._check(path, field)

    def _check(self, path: Path, field: str = "output") -> None:
        try:
            there = _identity(path)
        except OSError as error:
            raise OutputError(f"{field}: {path} cannot be written: {error.strerror}") from error
        if there is not None and there in self._inputs:
            raise RequestError(field, f"{path} is an input of this run; choose another name")
        if path.is_dir():
            raise RequestError(field, f"{path} is a folder; name a file in it")
        if there is not None and not self._overwrite:
            raise RequestError(field, f"{path} exists already; add --overwrite to replace it")
        _check_folder(path.parent, field)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return (device, inode), the same for every name of a file; None if there is no such file.

    Raises:
        OSError: there can be no such file, such as one whose name is too long.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _known(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Return the identities of the files that exist."""
    found = set()
    for path in paths:
        with suppress(OSError, ValueError):  # reported when the file is read
            found.add(_identity(path))
    return {identity for identity in found if identity is not None}


def _check_folder(folder: Path, field: str) -> None:
    """Raise an ``OutputError`` if ``folder`` cannot be written or created; create nothing."""
    nearest = next(path for path in (folder, *folder.parents, Path()) if path.exists())
    if not nearest.is_dir():
        raise OutputError(f"{field}: the folder {folder} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{field}: the folder {nearest} is not writable")


def write_whole(path: Path, data: bytes) -> None:
    """Write a result so that its file is never seen half-written, and create its folder.

    Raises:
        OutputError: it could not be written; nothing was left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise OutputError(f"output: {path} could not be written: {error.strerror}") from error
