"""Programs that some tests use and the project's own environment does not hold.

Some of them pip cannot install; other projects' clients are each in an environment of their own. Without one
of them the tests that use it are skipped, each with the command that installs it, and the last lines of the
run count them. With ``CI=true`` a missing program is a failure, unless it is ``OPTIONAL``.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from bench.lib.postgres import installed as newest_postgres
from tests.support.paths import ROOT

PROGRAMS = "as root on Debian or Ubuntu: make test-programs"
# Krita takes 300 MB on disk, and few changes are about it: a command of its own also runs its tests.
KRITA = "as root on Debian or Ubuntu: make test-krita"
CLIENTS = "with access to PyPI and npm's registry: make clients"
COMMANDS = (PROGRAMS, KRITA, CLIENTS)
OPTIONAL = ("Krita", "Xvfb")
_CLIENTS = ROOT / "build" / "clients"
_NODE_MODULES = ROOT / "tests" / "server" / "clients" / "node_modules"


def _first(*names: str) -> Path | None:
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


def _chromium() -> Path | None:
    return _first(os.environ.get("INPAINT_CHROMIUM", "chromium"), "chromium-browser", "google-chrome")


def _node() -> Path | None:
    """Return Node.js, if the clients' packages for it are there, too."""
    return _first("node") if (_NODE_MODULES / ".package-lock.json").exists() else None


_FIND: dict[str, Callable[[], Path | None]] = {
    "Chromium": _chromium,
    "PostgreSQL": newest_postgres,
    "Redis": lambda: _first("valkey-server", "redis-server"),
    "Krita": lambda: _first("krita"),
    "Xvfb": lambda: _first("Xvfb"),
}


def need(program: str) -> Path:
    """Return where a program is (of PostgreSQL, its programs' folder), or skip the test; in CI, fail it.

    An ``OPTIONAL`` one is used by the command for it alone: its tests take minutes where it happens to be.
    """
    if program in OPTIONAL and os.environ.get("INPAINT_TEST_KRITA") != "1":
        pytest.skip(f"needs {program}, which only its own command uses; {KRITA}")
    return _FIND[program]() or _missing(program, KRITA if program in OPTIONAL else PROGRAMS)


def need_client(environment: str) -> Path:
    """Return what runs the scripts of a client's environment, or skip the test; in CI, fail it.

    Args:
        environment: ``node``, or the name of a file in ``tests/server/clients/requirements``.
    """
    if environment == "node":
        return _node() or _missing("the clients for Node.js", CLIENTS)
    python = _CLIENTS / environment / "bin" / "python"
    ready = (_CLIENTS / environment / ".ready").exists()
    return python if ready else _missing(f"the client {environment}", CLIENTS)


def _missing(program: str, command: str) -> NoReturn:
    sentence = f"needs {program}, which is not installed; {command}"
    if os.environ.get("CI") == "true" and program not in OPTIONAL:
        pytest.fail(sentence)
    pytest.skip(sentence)
