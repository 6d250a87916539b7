"""Programs that some tests use and pip cannot install.

Without one of them the tests that use it are skipped, each with the command that installs it, and the last
line of the run counts them. With ``CI=true`` a missing program is a failure, unless it is ``OPTIONAL``.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from bench.lib.postgres import installed as newest_postgres

COMMAND = "make test-programs"
# Krita takes 300 MB on disk, and few changes are about it: a command of its own also runs its tests.
OPTIONAL = dict.fromkeys(("Krita", "Xvfb"), "make test-krita")


def _first(*names: str) -> Path | None:
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


def _chromium() -> Path | None:
    return _first(os.environ.get("INPAINT_CHROMIUM", "chromium"), "chromium-browser", "google-chrome")


_FIND: dict[str, Callable[[], Path | None]] = {
    "Chromium": _chromium,
    "PostgreSQL": newest_postgres,
    "Redis": lambda: _first("valkey-server", "redis-server"),
    "Krita": lambda: _first("krita"),
    "Xvfb": lambda: _first("Xvfb"),
}


def need(program: str) -> Path:
    """Return where a program is (of PostgreSQL, its programs' folder), or skip the test; in CI, fail it."""
    return _FIND[program]() or _missing(program)


def _missing(program: str) -> NoReturn:
    command = OPTIONAL.get(program, COMMAND)
    sentence = f"needs {program}, which is not installed; as root on Debian or Ubuntu: {command}"
    if os.environ.get("CI") == "true" and program not in OPTIONAL:
        pytest.fail(sentence)
    pytest.skip(sentence)
