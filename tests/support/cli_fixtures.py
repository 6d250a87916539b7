"""Fixtures: the command line, run in this process in an empty folder.

A test module asks for these with ``pytest_plugins = ["tests.support.cli_fixtures"]``.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from inpaint.cli import main
from tests.support.cli_runs import QUICK, Done, Run


@pytest.fixture
def inpaint(
    checkpoint: Callable[[int], Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Run:
    """Run ``inpaint ARGUMENTS`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
        monkeypatch.setenv(switch, "")  # the command sets them; this puts them back for the other tests

    def run(*arguments: object, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def paint(inpaint: Run, checkpoint: Callable[[int], Path], photo: Image.Image, grid_mask: Image.Image) -> Run:
    """``inpaint run photo.png --mask mask.png …`` on the tiny model; later flags win."""
    photo.save("photo.png")
    grid_mask.save("mask.png")

    def run(*arguments: object, image: object = "photo.png", mask: object = "mask.png") -> Done:
        base = [image, "--mask", mask, "-p", "a red circle", "--model", checkpoint(9), *QUICK]
        return inpaint("run", *base, *arguments)

    return run
