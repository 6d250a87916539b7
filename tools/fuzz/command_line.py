"""The command line in this process: what it does with words and files, without painting."""

import atexit
import gc
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

from PIL import Image

from inpaint.cli import main


@cache
def place() -> Path:
    """Return a folder with a picture, a mask and a LoRA folder; make it the working and the home folder."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-inpaint-"))
    Image.new("RGB", (64, 64), "teal").save(folder / "photo.png")
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    (folder / "loras").mkdir()
    os.chdir(folder)
    for name in ("HOME", "XDG_DATA_HOME", "INPAINT_MODELS", "INPAINT_DATA"):
        os.environ[name] = str(folder)
    os.environ["INPAINT_LORAS"] = str(folder / "loras")
    os.environ["INPAINT_TRACEBACK"] = "1"  # a bug is raised instead of printed
    return folder


def called(words: list[str]) -> str:
    """Call ``inpaint WORDS`` and return its exit code as text; a bug is raised."""
    place()
    nothing = Path(os.devnull)
    with nothing.open("w", encoding="utf-8", errors="replace") as out, nothing.open() as empty:
        stdin, sys.stdin = sys.stdin, empty
        try:
            with redirect_stdout(out), redirect_stderr(out):
                main(words)
        except SystemExit as ended:
            return f"exit {ended.code}"
        finally:
            sys.stdin = stdin
            atexit.unregister(gc.freeze)  # main registers it each time
    return "no exit"
