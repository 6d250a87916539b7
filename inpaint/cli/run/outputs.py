"""Where painted pictures go: naming them, and writing each whole or not at all."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inpaint.cli.run.inputs import FORMATS, Found, fixed_part, is_folder
from inpaint.errors import OutputError, RequestError

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ANY_SEED = "\ue000"  # stands for a seed's digits while a pattern is made


def fill_in(template: str, values: dict[str, str], field: str) -> str:
    """``template`` with its ``{name}`` replaced, each once: a picture may be called ``{seed}.png``.

    Raises:
        RequestError: names ``field``: it holds a name that is not in ``values``.
    """
    for name in _PLACEHOLDER.findall(template):
        if name not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise RequestError(field, f"may hold {known}, not {{{name}}}")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


@dataclass(frozen=True, slots=True)
class Output:
    """What ``--output`` means: a file, a folder or a template; None for a name beside the picture."""

    template: str | None
    several: bool  # it names the results of more than one picture

    def __post_init__(self) -> None:
        if self.template is None:
            return
        if not self.template:
            raise RequestError("output", "the path is empty; name a file or a folder, or leave --output out")
        fill_in(self.template, dict.fromkeys(("stem", "seed", "n", "parent"), ""), "output")
        if self.several and self.folder is None and "{" not in self.template:
            raise RequestError(
                "output",
                "several pictures would be written to one file; give a folder, or put {stem} into the name",
            )

    @property
    def folder(self) -> Path | None:
        """The folder that it names, if it does not name files."""
        if self.template is None or "{" in self.template:
            return None
        path = Path(self.template)
        named = path.suffix == "" or self.template.endswith(("/", os.sep)) or is_folder(path)
        return path if named or (self.several and path.suffix.lower() not in FORMATS) else None

    @property
    def home(self) -> Path | None:
        """The folder that all results lie in, if that is not each picture's own."""
        if self.template is None:
            return None
        return self.folder or fixed_part(self.template, lambda part: "{" in part)

    @property
    def holds_seed(self) -> bool:
        """Whether a result's name depends on its seed."""
        return self.template is not None and "{seed}" in self.template

    def paths(self, picture: Found, seeds: Sequence[int]) -> list[Path]:
        """One path a sample of ``picture``.

        Raises:
            RequestError: samples would replace one another, or an unknown ending was asked for.
        """
        found = [self._path(picture, str(seed), n, len(seeds)) for n, seed in enumerate(seeds, 1)]
        if len(set(found)) < len(found):
            raise RequestError(
                "output", "several pictures would be written to one file; put {n} or {seed} into the name"
            )
        return found

    def seeds_there(self, picture: Found, samples: int) -> list[int]:
        """The seeds in the names of files that could be first samples of ``picture``; rising."""
        assert self.holds_seed
        path = str(self._path(picture, _ANY_SEED, 1, samples))
        there = glob.glob(glob.escape(path).replace(_ANY_SEED, "*"))  # noqa: PTH207 - absolute or not
        pattern = re.escape(path).replace(_ANY_SEED, r"(\d{1,15})")
        seeds = [set(match.groups()) for name in there if (match := re.fullmatch(pattern, name))]
        return sorted(int(found.pop()) for found in seeds if len(found) == 1)

    def _path(self, picture: Found, seed: str, n: int, samples: int) -> Path:
        image = picture.path
        ending = image.suffix if image.suffix.lower() in FORMATS else ".png"
        number = f"_{n}" if samples > 1 else ""
        if self.template is None:
            return image.with_name(f"{image.stem}_inpainted{number}{ending}")
        if self.folder is not None:
            return self.folder / picture.below / f"{image.stem}{number}{ending}"
        template = self.template
        if number and "{n}" not in template and "{seed}" not in template:
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
    """Which files a run may write: none that it reads, none twice, and none that exists unless told to."""

    def __init__(self, inputs: Iterable[Path], *, overwrite: bool) -> None:
        self._inputs = _known(inputs)
        self._overwrite = overwrite
        self._taken: dict[Path, Path] = {}  # output → the picture that it comes from

    def claim(self, picture: Path, mask: Path | None, outputs: Sequence[Path], kept: Sequence[Path]) -> None:
        """Find out before painting that a result could not be written.

        Args:
            picture: whose results they are.
            mask: its mask's file, if it has one.
            outputs: its results.
            kept: those that are there already and stay.

        Raises:
            RequestError: one exists, or is one of the inputs, or another picture's result.
            OutputError: its folder cannot be made or written.
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

    def _check(self, path: Path) -> None:
        try:
            there = _identity(path)
        except OSError as error:
            raise OutputError(f"output: {path} cannot be written: {error.strerror}") from error
        if there is not None and there in self._inputs:
            raise RequestError("output", f"{path} is an input of this run; choose another name")
        if path.is_dir():
            raise RequestError("output", f"{path} is a folder; name a file in it")
        if there is not None and not self._overwrite:
            raise RequestError("output", f"{path} exists already; add --overwrite to replace it")
        _check_folder(path.parent)


def _identity(path: Path) -> tuple[int, int] | None:
    """Of a file, whatever it is called; None if there is none.

    Raises:
        OSError: none can be there, such as under a name that is too long.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _known(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """The identities of those that are there."""
    found = set()
    for path in paths:
        with suppress(OSError, ValueError):  # it is said when the file is read
            found.add(_identity(path))
    return {identity for identity in found if identity is not None}


def _check_folder(folder: Path) -> None:
    """Whether ``folder`` can be written, or made where it is not there yet; makes nothing."""
    nearest = next(path for path in (folder, *folder.parents, Path()) if path.exists())
    if not nearest.is_dir():
        raise OutputError(f"output: the folder {folder} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"output: the folder {nearest} is not writable")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen half-written: aside, then renamed into place.

    Raises:
        OutputError: it could not be written; nothing was left behind.
    """
    aside = path.with_name(f".inpaint-{os.getpid()}.part")  # short: a name may be as long as it may be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without the bytes
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"output: {path} could not be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # the folder may be no folder, which was said already
            aside.unlink(missing_ok=True)
