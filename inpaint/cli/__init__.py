"""The ``inpaint`` command. The only place that turns errors into exit codes.

0 ok · 1 failure · 2 usage, or an input that must change · 3 some pictures failed · 4 model missing or
damaged · 5 out of memory after every fallback · 130 interrupted
"""

import atexit
import gc
import os
import sys
from collections.abc import Sequence

from inpaint.cli.terminal import printable
from inpaint.cpu import prepare_threads
from inpaint.errors import DeviceError, InpaintError, ModelError, OutOfMemoryError, RequestError

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
    prepare_threads()  # before anything imports torch
    from inpaint.cli.app import app

    # Python looks through torch's million objects once more before it ends: more than a second for nothing.
    atexit.register(gc.freeze)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="inpaint", standalone_mode=True)
    except InpaintError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        sys.exit(exit_code(error))
    except SystemExit as ended:  # typer answers Ctrl-C with this code and prints nothing
        if ended.code == INTERRUPTED:
            sys.stderr.write("interrupted\n")
        raise
    except BrokenPipeError:  # `inpaint … | head` is not an error; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as bug:
        if os.environ.get("INPAINT_TRACEBACK"):
            raise
        detail = printable(" ".join(f"{type(bug).__name__}: {bug}".split()))
        sys.stderr.write(f"error: this is a bug in inpaint, please report it: {detail}\n")
        sys.stderr.write("(run it again with INPAINT_TRACEBACK=1 for the details)\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
