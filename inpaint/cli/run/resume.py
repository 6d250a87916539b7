"""What an earlier run has painted already: ``--resume``, and ``--from``.

A result is known by the settings hash that its metadata holds. Where it holds none, because somebody wanted
none or the format had no room, by the earlier run's report: the hash, and the SHA-256 of the file itself, so
that whatever took its place since is not mistaken for it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inpaint.cli.run.inputs import Found
from inpaint.cli.run.outputs import Output
from inpaint.errors import RequestError
from inpaint.images import metadata

_MAX_READ = 250_000_000  # metadata of a PNG stands before its pixels


@dataclass(frozen=True, slots=True)
class Origin:
    """How a file was painted, as far as resuming goes."""

    settings_hash: str
    seed: int


@dataclass(frozen=True, slots=True)
class Reported:
    """One result in a report."""

    origin: Origin
    sha256: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a picture is: ``kept`` results are there; those missing are to be painted from ``seed``."""

    kept: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = ()  # of all results, if any of them is there
    complete: bool = False


class ResumeIndex:
    """Looks up results of earlier runs."""

    def __init__(self, reported: Mapping[str, Reported]) -> None:
        self._reported = reported

    def standing(
        self, picture: Found, output: Output, *, settings_hash: str, seed: int, samples: int
    ) -> Standing:
        """How much of what these settings would paint is there already.

        With a ``seed`` of -1 any seed will do, and a picture that lacks some of its samples goes on with the
        seed that it began with.
        """
        for first in self._beginnings(picture, output, settings_hash, seed, samples):
            seeds = tuple(range(first, first + samples))
            paths = output.paths(picture, seeds)
            wanted = [Origin(settings_hash, each) for each in seeds]
            kept = [path for path, origin in zip(paths, wanted, strict=True) if self._origin(path) == origin]
            if kept:
                return Standing(tuple(kept), seeds, complete=len(kept) == samples)
        return Standing()

    def _beginnings(
        self, picture: Found, output: Output, settings_hash: str, seed: int, samples: int
    ) -> list[int]:
        """Seeds of first samples that are worth looking at."""
        if seed != -1:
            return [seed]
        if output.holds_seed:
            return output.seeds_there(picture, samples)
        origins = [self._origin(path) for path in output.paths(picture, range(samples))]
        return [o.seed - n for n, o in enumerate(origins) if o and o.settings_hash == settings_hash][:1]

    def _origin(self, path: Path) -> Origin | None:
        data = _start_of(path)
        if data is None:
            return None
        made = metadata.read(data)
        if made is not None and made.settings_hash is not None:
            return Origin(made.settings_hash, made.settings.get("seed", -1))
        reported = self._reported.get(str(path))
        return reported.origin if reported and reported.sha256 == sha256_of(data) else None


def sha256_of(data: bytes) -> str:
    """As 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def made_of(path: Path) -> metadata.Made:
    """How a painted picture was made, by its own word.

    Raises:
        RequestError: there is no such file, or it does not say.
    """
    data = _start_of(path)
    if data is None:
        raise RequestError("from", f"there is no file {path}, or it cannot be read")
    made = metadata.read(data)
    if made is None or not made.settings:
        raise RequestError("from", f"{path} does not say how it was made; give the settings as options")
    return made


def _start_of(path: Path) -> bytes | None:
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(_MAX_READ)
    except (OSError, ValueError):
        return None
