"""Where painted pictures go: naming them, and writing each whole or not at all."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inpaint.errors import OutputError, RequestError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, slots=True)
class Output:
    """What ``--output`` and ``--overwrite`` mean for this run."""

    template: Path | None
    several: bool  # more than one input picture
    samples: int
    overwrite: bool

    def paths(self, image: Path, seeds: list[int]) -> list[Path]:
        """One path a sample for ``image``.

        Raises:
            RequestError: pictures would replace one another, or an unknown ending was asked for.
        """
        found = [self._path(image, seed, n) for n, seed in enumerate(seeds, 1)]
        if len(set(found)) < len(found):
            raise RequestError("output", "several pictures would get one name; put {n} or {seed} into it")
        return found

    def _path(self, image: Path, seed: int, n: int) -> Path:
        ending = image.suffix if image.suffix.lower() in FORMATS else ".png"
        number = f"_{n}" if self.samples > 1 else ""
        if self.template is None:
            return image.with_name(f"{image.stem}_inpainted{number}{ending}")
        text = str(self.template)
        if self._is_folder():
            text = str(Path(text) / f"{{stem}}{number}{ending}")
        elif number and "{n}" not in text and "{seed}" not in text:
            text = str(self.template.with_name(f"{self.template.stem}{number}{self.template.suffix}"))
        path = Path(text.replace("{stem}", image.stem).replace("{seed}", str(seed)).replace("{n}", str(n)))
        if path.suffix.lower() not in FORMATS:
            raise RequestError(
                "output", f"must end with {', '.join(FORMATS)}, or be a folder, not {path.name!r}"
            )
        return path

    def _is_folder(self) -> bool:
        assert self.template is not None
        named = self.template.suffix == "" or self.template.is_dir()
        return named or (self.several and "{" not in str(self.template))

    def check(self, path: Path, inputs: tuple[Path, ...]) -> None:
        """Find out before painting that a picture could not be written.

        Raises:
            RequestError: it exists, or is one of the inputs.
            OutputError: its folder cannot be made or written.
        """
        if any(path.exists() and path.samefile(other) for other in inputs):
            raise RequestError("output", f"{path} is an input of this run; choose another name")
        if path.is_dir():
            raise RequestError("output", f"{path} is a folder; name a file in it")
        if path.exists() and not self.overwrite:
            raise RequestError("output", f"{path} exists already; add --overwrite to replace it")
        folder = path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"output: the folder {folder} cannot be made: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"output: the folder {folder} is not writable")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen half-written: aside, then renamed into place.

    Raises:
        OutputError: it could not be written; nothing was left behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"output: {path} could not be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # the folder may be no folder, which was said already
            aside.unlink(missing_ok=True)
