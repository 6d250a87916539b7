"""Errors of the surroundings: the disk, the user's rights, how Python was started. They are no bugs."""

import errno
import os
import sys
from collections.abc import Iterator

from inpaint.cli.streams import give_up

_STARVED = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
WITHOUT_DOCSTRINGS = (
    "Python was started with -OO (or PYTHONOPTIMIZE=2), which removes texts that transformers needs; run "
    "inpaint without it"
)


def fault_of(error: BaseException) -> str | None:
    """Return the sentence about an error of the surroundings; None for any other error, which is a bug."""
    for cause in _causes(error):
        if isinstance(cause, Warning):
            return (
                "Python was told to turn warnings into errors (-W error or PYTHONWARNINGS), and a library "
                f"warned ({type(cause).__name__}: {cause}); run inpaint without it"
            )
        if isinstance(cause, MemoryError):
            return "this machine has too little free memory; close other programs, or use a smaller picture"
        if isinstance(cause, OSError) and (sentence := _os_fault(cause)):
            return sentence
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _os_fault(error: OSError) -> str | None:
    reason = error.strerror or str(error)
    if (broken := _stdout_error()) is not None:
        return f"stdout cannot be written: {broken}"
    if _working_folder_is_gone():
        return "the working folder no longer exists; change to another folder"
    if "temporary directory" in reason:  # as tempfile says it
        return "there is no folder for temporary files that this user can write; set TMPDIR to one"
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}"
    return f"the system refused: {reason}" if error.errno in _STARVED else None


def _stdout_error() -> str | None:
    """Return why stdout cannot be written; None if it can."""
    try:
        sys.stdout.flush()
    except OSError as error:
        give_up(sys.stdout)
        return error.strerror
    return None


def _working_folder_is_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is this
    except OSError:
        return True
    return False
