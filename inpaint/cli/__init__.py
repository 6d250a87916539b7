"""The ``inpaint`` command. The only place that turns errors into exit codes.

0 ok · 1 failure · 2 usage, or an input that must change · 3 some pictures failed · 4 model missing or
damaged · 5 out of memory after every fallback · 130 interrupted
"""

import atexit
import gc
import os
import sys
from collections.abc import Sequence

from inpaint.cli.faults import WITHOUT_DOCSTRINGS, fault_of
from inpaint.cli.flags import called_by, explained, flags_of
from inpaint.cli.streams import give_up, prepare_streams
from inpaint.cli.terminal import say
from inpaint.cpu import prepare_threads
from inpaint.errors import (
    DeviceError,
    InpaintError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    RequestError,
)

SOME_FAILED = 3
INTERRUPTED = 130
_EXIT_CODES: tuple[tuple[type[InpaintError], int], ...] = (
    (RequestError, 2),
    (DeviceError, 2),
    (ModelError, 4),
    (OutOfMemoryError, 5),
)


def exit_code(error: InpaintError) -> int:
    """Return the documented exit code of an error; 1 if it has none of its own."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; ``arguments`` are the process's own when None."""
    prepare_streams()
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if sys.flags.optimize > 1:
            raise OutputError(WITHOUT_DOCSTRINGS)
        _call(words)
    except InpaintError as error:
        _say(explained(error, flags_of(called_by(words))))
        sys.exit(exit_code(error))
    except SystemExit as ended:  # typer answers Ctrl-C with this code and prints nothing
        if ended.code == INTERRUPTED:
            say("interrupted")
        raise
    except BrokenPipeError:  # `inpaint … | head` is not an error; keep Python from complaining at exit
        give_up(sys.stdout)
        sys.exit(1)
    except Exception as bug:
        if fault := fault_of(bug):
            _say(fault)
        elif os.environ.get("INPAINT_TRACEBACK"):
            raise
        else:
            _say(f"this is a bug in inpaint, please report it: {type(bug).__name__}: {bug}")
            say("(run it again with INPAINT_TRACEBACK=1 for the details)")
        sys.exit(1)


def _call(words: list[str]) -> None:
    prepare_threads()  # before anything imports torch
    from typer.main import get_command

    from inpaint.cli.app import app
    from inpaint.cli.help import hide_flag_types

    command = get_command(app)
    hide_flag_types(command)
    # Python looks through torch's million objects once more before it ends: more than a second for nothing.
    atexit.register(gc.freeze)
    try:
        command(args=_in_options(words), prog_name="inpaint", standalone_mode=True)
    except SystemExit:
        sys.stdout.flush()  # what fails here can still be explained; Python's own flush comes too late
        raise


def _in_options(words: list[str]) -> list[str]:
    """Return the arguments with ``help`` and ``version``, which other programs have, as our options."""
    match words:
        case [] | ["help"]:
            return ["--help"]
        case ["help", *others]:
            return [*others, "--help"]
        case ["version"]:
            return ["--version"]
    return words


def _say(problem: str) -> None:
    say(f"error: {' '.join(problem.split())}")


if __name__ == "__main__":
    main()
