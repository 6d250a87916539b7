"""Fixtures: tiny real checkpoints, engines on them, and pictures."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# One thread a worker: xdist runs as many workers as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# For the few tests with two: by default each keeps its core for 10 ms while it waits for the other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Imported before any test runs the command line, which switches the hub off for what it imports later.
import huggingface_hub  # noqa: F401
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.model.load import Model, load_model
from tests.support.paths import ROOT
from tests.support.programs import COMMANDS
from tests.support.tiny_checkpoint import write_tiny_checkpoint

PORTRAIT = ROOT / "docs" / "images" / "portrait.jpg"
EYES_MASK = ROOT / "docs" / "images" / "portrait_eyes_mask.png"
CPU = torch.device("cpu")

torch.set_num_threads(1)
if (
    not torch.cuda.is_available()
):  # on a machine with an NVIDIA GPU and a CPU build of torch: not an error here
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


# Files of many long tests that share little: any worker takes the next of them. Every other file stays with
# one worker, which starts what its tests share (a server, a browser, a cluster) once.
SPREAD = {
    "test_demo_model.py",
    "test_parity.py",
    "test_compiled.py",
    "test_optimizations.py",
    "test_seams.py",
    "test_lowering.py",
}
# The longest files, which would be waited for at the end.
FIRST = ("test_cluster.py", "test_lowering.py", "test_surroundings.py", "test_krita.py")


# What ``make test-ci`` runs, and the files it leaves out: a bench, a search for unknown faults, Krita.
CI_RUNS = "not slow or gate"
NOT_IN_CI = {"test_near.py", "test_hunt.py", "test_krita.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files, and see to it that CI runs something of each file."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    if config.option.markexpr == CI_RUNS:
        run = {
            item.path
            for item in items
            if item.get_closest_marker("gate") or not item.get_closest_marker("slow")
        }
        if unseen := {item.path.name for item in items if item.path not in run} - NOT_IN_CI:
            raise pytest.UsageError(
                f"CI runs no test of {', '.join(sorted(unseen))}: mark one of each with gate"
            )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Hand out whole files."""
    from tests.support.scheduling import ByFile

    return ByFile(config, log, spread=SPREAD)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """Count at the very end the tests that were skipped for want of a program, and say how to get it."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    for command in COMMANDS:
        if missed := [report for report in skipped if command in str(report.longrepr)]:
            terminalreporter.write_line(f"{len(missed)} tests were skipped for want of a program; {command}")


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all xdist workers of this run, so that a checkpoint is written once."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def checkpoint(shared_dir: Path) -> Callable[[int], Path]:
    """in_channels → the folder of a tiny random SDXL checkpoint with that many."""

    def write(in_channels: int) -> Path:
        with FileLock(shared_dir / "checkpoint.lock"):
            return write_tiny_checkpoint(shared_dir / f"tiny-{in_channels}", in_channels)

    return write


@pytest.fixture(scope="session")
def models(checkpoint: Callable[[int], Path]) -> Callable[[int], Model]:
    """in_channels → the loaded model, fp32 on the CPU; shared, because nothing may change it."""
    loaded: dict[int, Model] = {}

    def load(in_channels: int) -> Model:
        if in_channels not in loaded:
            path = checkpoint(in_channels)
            loaded[in_channels] = load_model(path, f"tiny-{in_channels}", CPU, torch.float32)
        return loaded[in_channels]

    return load


@pytest.fixture
def model(models: Callable[[int], Model]) -> Model:
    """The tiny inpainting model, 9 channels."""
    return models(9)


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    """An engine of the tiny inpainting model."""
    with Engine(model) as engine:
        yield engine


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A smooth colourful picture of the tiny model's native 128×128."""
    colours = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((128, 128), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def grid_mask() -> Image.Image:
    """A mask for ``photo`` whose edges lie on the latent grid."""
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 40:104] = 255
    return Image.fromarray(mask)


@pytest.fixture
def request_for(photo: Image.Image, grid_mask: Image.Image) -> Callable[..., InpaintRequest]:
    """Settings → a request to paint ``photo`` quickly."""

    def make(**settings: object) -> InpaintRequest:
        quick = {"prompt": "a red circle", "scheduler": "DDIM", "num_inference_steps": 4, "seed": 5}
        return InpaintRequest(**{"image": photo, "mask": grid_mask, **quick, **settings})

    return make
