"""Which worker of pytest-xdist runs which tests: those of a file share fixtures, and so stay together."""

from collections.abc import Collection
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_CLIENTS = "tests/server/clients"  # whose files share a server


class ByFile(LoadScopeScheduling):
    """The scheduler that gives each worker whole files, in the order of collection.

    xdist's own ``--dist=loadgroup`` does nothing with pytest 9.2, whose nodes keep their id elsewhere.
    """

    def __init__(self, config: pytest.Config, log: Any, *, spread: Collection[str]) -> None:
        """Hand out the tests of files with a name in ``spread`` one by one."""
        super().__init__(config, log)
        self._spread = spread

    def _split_scope(self, nodeid: str) -> str:
        """Return what the tests that stay together have in common."""
        path = nodeid.partition("::")[0]
        if path.rpartition("/")[2] in self._spread:
            return nodeid
        return _CLIENTS if path.startswith(f"{_CLIENTS}/") else path
