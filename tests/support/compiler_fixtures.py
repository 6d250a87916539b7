"""A fixture for tests that compile; a module names it in ``pytest_plugins``."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from inpaint.fast import torch_compile


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled code of another test, and none left on the machine."""
    monkeypatch.setenv(torch_compile.CACHE_VARIABLE, str(tmp_path / "compiled"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
