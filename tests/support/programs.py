"""Programs that some tests use and pip cannot install.

Without one of them the tests that use it are skipped, each with the command that installs it, and the last
line of the run counts them. With ``CI=true`` a missing program is a failure.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from bench.lib.postgres import installed as newest_postgres

COMMAND = "make test-programs"


def _first(*names: str) -> Path | None:
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


def _chromium() -> Path | None:
    return _first(os.environ.get("INPAINT_CHROMIUM", "chromium"), "chromium-browser", "google-chrome")


_FIND: dict[str, Callable[[], Path | None]] = {
    "Chromium": _chromium,
    "PostgreSQL": newest_postgres,
    "Redis": lambda: _first("valkey-server", "redis-server"),
}


def need(program: str) -> Path:
    """Return where a program is (of PostgreSQL, its programs' folder), or skip the test; in CI, fail it."""
    return _FIND[program]() or _missing(program)


def _missing(program: str) -> NoReturn:
    sentence = f"needs {program}, which is not installed; as root on Debian or Ubuntu: {COMMAND}"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)
