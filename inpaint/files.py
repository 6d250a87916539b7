"""Files that other programs see whole or not at all, and paths that cannot be looked at."""

import os
from contextlib import suppress
from pathlib import Path

from inpaint.errors import RequestError, shown


def folder_in(variable: str) -> Path | None:
    """Return the folder that an environment variable names; None if it is unset or empty.

    Raises:
        RequestError: it names the home of a user whom this machine does not know.
    """
    text = os.environ.get(variable)
    return in_home(Path(text), variable) if text else None


def in_home(path: Path, name: str) -> Path:
    """Return ``path`` with its ``~`` replaced by the home of the user; ``name`` is the flag's or variable's.

    Raises:
        RequestError: this machine does not know the user.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise RequestError(name, f"{shown(str(path))} begins with the home of an unknown user") from None


def is_file(path: Path) -> bool:
    """Return whether ``path`` is a file; False where this user may not look."""
    try:
        return path.is_file()
    except OSError:
        return False


def write_atomically(path: Path, data: bytes, *, draft_folder: Path | None = None) -> None:
    """Replace the file ``path`` with ``data`` in one step.

    A reader finds the old content or the new one, never a part; after a power cut too. When writing fails
    or is interrupted, the old file stays and no draft is left behind. Several threads and processes may
    write the same path at the same time: the last one wins.

    Args:
        path: the file; its folder must exist.
        data: its new content.
        draft_folder: the folder of the draft, on the same disk as ``path``; the file's own folder if None.

    Raises:
        OSError: the file could not be written.
    """
    # The draft's name is short, since a file's own name may be as long as the disk allows.
    draft = (draft_folder or path.parent) / f".inpaint-{os.urandom(6).hex()}.part"
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave the name without the bytes
        draft.replace(path)
    except BaseException:  # Ctrl-C included
        with suppress(OSError):  # where the folder itself is the problem, there is no draft
            draft.unlink(missing_ok=True)
        raise
