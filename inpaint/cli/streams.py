"""The standard streams: opened where the caller closed them, and never the cause of a traceback."""

import os
import sys
from contextlib import suppress
from typing import TextIO

# How streams treat letters that they cannot encode: as an error. The second is Python's choice for LANG=C.
_REFUSING = ("strict", "surrogateescape")


def prepare_streams() -> None:
    """Open the standard streams that were closed, and let those of a small character set show the others.

    A closed stream leaves its number free, and the next file that is opened would get it: what is printed
    would be written into a picture. Writing to a stdout that was closed fails, to such a stderr it does not:
    who closes stdout loses results, who closes stderr wants no messages.
    """
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        stream = getattr(sys, name)
        if stream is None:
            number = os.open(os.devnull, mode)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8"))
        elif name == "stdin":
            continue
        elif getattr(stream, "errors", "") in _REFUSING and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def give_up(stream: TextIO) -> None:
    """Let ``stream`` swallow what it still holds: Python would complain about it once more when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
