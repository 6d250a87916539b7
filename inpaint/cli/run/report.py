"""The file of ``--report``: one JSON line per picture, written as soon as the picture is finished."""

import codecs
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from inpaint.cli.run.resume import Origin, Reported
from inpaint.errors import OutputError, RequestError


class Report:
    """JSON lines with each picture's outcome; a killed run leaves the lines of the pictures it finished."""

    def __init__(self, path: Path, *, again: bool) -> None:
        """Open a new file, or with ``again`` continue below the lines of an earlier run.

        Raises:
            OutputError: the file cannot be written.
        """
        self._path = path
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_bytes() if again and path.exists() else b""
            self._last = dict(filter(None, map(_outcome, before.splitlines())))  # by the task's name
            self._file = path.open("a" if again else "w", encoding="utf-8", newline="\n")
            if before and not before.endswith(b"\n"):  # from a run that was killed while it wrote
                self._file.write("\n")

    def add(self, line: Mapping[str, Any]) -> None:
        """Write the line of one picture, unless it would only repeat the picture's last line.

        Raises:
            OutputError: the file cannot be written.
        """
        text = as_json(line)
        if line["state"] != "done" and (told := _outcome(text)) and self._last.get(told[0]) == told[1]:
            return
        with self._writing():
            self._file.write(text + "\n")
            self._file.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"report: {self._path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _outcome(line: str | bytes) -> tuple[str, object] | None:
    """Return a task's name and what became of it: an error, or results; None if the line is no report's."""
    try:
        read = json.loads(line)
        what = read["error"] if read["state"] == "failed" else [read["outputs"], read["settings_hash"]]
        return read["task"], what
    except (ValueError, KeyError, TypeError):
        return None


def as_json(value: Mapping[str, Any], encoding: str = "utf-8") -> str:
    """Return one line of JSON: UTF-8 where ``encoding`` is that, else ASCII, which every program reads."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # the bytes of a file name that is not valid UTF-8 are lone surrogates in it
        return json.dumps(value)
    return text if codecs.lookup(encoding).name == "utf-8" else json.dumps(value)


def read_report(path: Path) -> dict[str, Reported]:
    """Return the results that a report lists, by their paths as written there; empty without a file.

    Raises:
        RequestError: the file is not a report, so that writing there would lose something.
    """
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise RequestError("report", f"{path} cannot be read: {error.strerror}") from error
    found: dict[str, Reported] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found |= _results(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            if number < len(lines) or number == 1:  # otherwise it was being written when the run was killed
                raise RequestError(
                    "report",
                    f"{path} is not the report of an earlier run (line {number}); choose another name",
                ) from None
    return found


def _results(line: Any) -> dict[str, Reported]:
    if line["state"] != "done":
        return {}
    rows = zip(line["outputs"], line["seeds"], line["sha256"], strict=True)
    return {out: Reported(Origin(line["settings_hash"], seed), digest) for out, seed, digest in rows}
