"""Run the cases of a client and write down what it showed: pictures, facts and exceptions.

The scripts next to this file run in the environments of other projects' clients, with only what those bring.
Each is called as ``SCRIPT URL KEY POOR_KEY PICTURES OUTPUT INPAINT``: the server, a key of it and one without
credits, the folder of the pictures to send, an empty folder, and a Python that has our package.
``tests/support/clients.py`` reads what is written into the folder.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

URL, KEY, POOR_KEY = sys.argv[1:4]
PICTURES, OUTPUT = map(Path, sys.argv[4:6])
INPAINT = sys.argv[6]
WRONG_KEY = "inp_0123456789abcdef"
PROMPT = "a red circle"
FAILING = "blank"  # a prompt for which the server under test fails

Shown = tuple[list[bytes], dict[str, object]]  # files of pictures, and facts that JSON can hold
Case = Callable[[], Shown]
sent: list[object] = []  # the requests of the current case, if the script notes them


def picture(name: str) -> bytes:
    return (PICTURES / name).read_bytes()


def run(cases: Mapping[str, Case]) -> None:
    """Run every case, whatever the others raise."""
    shown = {name: _run(name, case) for name, case in cases.items()}
    (OUTPUT / "shown.json").write_text(json.dumps(shown, indent=1))


def _run(name: str, case: Case) -> dict[str, object]:
    started = time.monotonic()
    sent.clear()
    try:
        files, facts = case()
        shown = {"pictures": len(files), "facts": facts}
    except Exception as error:  # noqa: BLE001 - what a client raises is what the tests are about
        files, shown = [], {"error": _described(error)}
    for number, file in enumerate(files):
        (OUTPUT / f"{name}-{number}").write_bytes(file)
    return {**shown, "requests": len(sent), "seconds": round(time.monotonic() - started, 3)}


def _described(error: Exception) -> dict[str, object]:
    """Return an exception's classes, the base classes included, its text, and what else it tells."""
    told = {name: value for name, value in vars(error).items() if isinstance(value, str | int)}
    return {"classes": [cls.__name__ for cls in type(error).__mro__], "text": str(error), **told}
