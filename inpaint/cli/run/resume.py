"""The results of earlier runs, for ``--resume`` and ``--from``.

A result is recognised by the settings hash in its metadata. If it has none (``--no-metadata``, or no room in
the format), the earlier run's report is used: the hash, and the SHA-256 of the file itself, so that another
file under the same name is not mistaken for it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inpaint.cli.run.inputs import Found
from inpaint.cli.run.outputs import Output
from inpaint.errors import RequestError
from inpaint.images import metadata
from inpaint.images.made import Made
from inpaint.request import seeds_from

_MAX_READ = 250_000_000  # bytes; the metadata of a PNG comes before its pixels


@dataclass(frozen=True, slots=True)
class Origin:
    """The settings and the seed that a file was painted with."""

    settings_hash: str
    seed: int


@dataclass(frozen=True, slots=True)
class Reported:
    """One result listed in a report."""

    origin: Origin
    sha256: str


@dataclass(frozen=True, slots=True)
class Existing:
    """The results of a picture that exist already, and the seeds of all of them."""

    kept: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = ()  # of all results, if any of them exists
    complete: bool = False


class ResumeIndex:
    """The results of earlier runs: those listed in a report, and those that say so themselves."""

    def __init__(self, reported: Mapping[str, Reported]) -> None:
        self._reported = reported

    def existing(
        self, picture: Found, output: Output, *, settings_hash: str, seed: int, samples: int
    ) -> Existing:
        """Return which of the results that these settings would paint exist already.

        With a ``seed`` of -1 any seed will do, and a picture that lacks some of its samples continues with
        the seed that it began with.
        """
        for first in self._beginnings(picture, output, settings_hash, seed, samples):
            seeds = tuple(seeds_from(first, samples))
            paths = output.paths(picture, seeds)
            wanted = [Origin(settings_hash, each) for each in seeds]
            kept = [path for path, origin in zip(paths, wanted, strict=True) if self._origin(path) == origin]
            if kept:
                return Existing(tuple(kept), seeds, complete=len(kept) == samples)
        return Existing()

    def _beginnings(
        self, picture: Found, output: Output, settings_hash: str, seed: int, samples: int
    ) -> list[int]:
        """Return the seeds that the first sample may have, from the files that exist."""
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
    """Return the SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def made_of(path: Path) -> Made:
    """Return how a painted picture was made, from its metadata.

    Raises:
        RequestError: there is no such file, or it has no such metadata.
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
