"""Devices have an index, and a GPU that torch cannot use is an error that names the driver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inpaint import Engine, drivers
from inpaint.cli.doctor import examine
from inpaint.errors import DeviceError
from inpaint.model.load import pick_device
from server.engines.worker import WorkerSpec, load_engine

OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (root@x)  Sun 2025\n"
)
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024\nGCC version:"
)
Machine = Callable[..., None]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs that torch can use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine with an NVIDIA GPU that torch cannot use: with this driver, and torch for this CUDA."""

    def make(version: str = "", *, card: bool = False, cuda: str | None = "13.0") -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(drivers, "ROOT", tmp_path)
        if version:
            (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
            (tmp_path / "proc/driver/nvidia/version").write_text(version)
        if card:
            (tmp_path / "dev").mkdir()
            (tmp_path / "dev/nvidia0").touch()

    return make


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_has_an_index(name: str, index: int) -> None:
    """Without one, torch refuses a memory cap, and a resident model is taken for an offloaded one."""
    device = pick_device(name)
    assert device == torch.device("cuda", index)
    # What ``set_per_process_memory_fraction`` asks of a device, and what bench.memory calls it with.
    assert torch.cuda._utils._get_device_index(device, optional=False) == index


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("name", ["cuda:2", "cuda:", "cuda:x", "gpu"])
def test_a_gpu_that_is_not_there_is_refused(name: str) -> None:
    """Of two GPUs the third is a typo, also where CUDA works."""
    with pytest.raises(DeviceError, match="device:"):
        pick_device(name)


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        ({"version": PROPRIETARY}, r"driver 550\.90\.07\).*needs driver 580 or newer.*Turing.*--device cpu"),
        ({"version": OPEN}, r"driver 570\.133\.20\).*needs driver 580 or newer"),
        ({"version": OPEN, "cuda": None}, r"driver 570\.133\.20\).*built without CUDA"),
        ({"version": OPEN, "cuda": "12.6"}, r"driver 570\.133\.20\).*cannot use it.*--gpus all"),
        ({"card": True}, r"driver unknown\).*cannot use it"),
        ({"version": "no version here", "card": True}, r"driver unknown\).*cannot use it"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_an_error(
    name: str, setup: dict[str, Any], sentence: str, machine: Machine
) -> None:
    """With an old driver torch only warns, and every picture would take minutes on the CPU."""
    machine(**setup)
    with pytest.raises(DeviceError, match=sentence) as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)
    assert pick_device("cpu") == torch.device("cpu")


def test_run_serve_and_doctor_say_it(machine: Machine) -> None:
    """All three begin with ``Engine.load`` or ``pick_device``; none may go on in silence."""
    machine(PROPRIETARY)
    with pytest.raises(DeviceError, match="driver 580 or newer"):
        Engine.load("demo")
    with pytest.raises(DeviceError, match="driver 580 or newer"):
        load_engine(WorkerSpec(), 0, 1)
    (line,) = [finding for finding in examine() if finding.what == "device"]
    assert not line.fine
    assert "driver 580 or newer" in line.found


def test_without_an_nvidia_gpu_the_cpu_is_taken(machine: Machine) -> None:
    """A laptop without a GPU paints the demo as before."""
    machine()
    assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize(("visible", "hidden"), [("", True), ("-1", True), ("3", False)])
def test_a_gpu_hidden_on_purpose_is_no_error(
    visible: str, hidden: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty CUDA_VISIBLE_DEVICES asks for the CPU; a number that no GPU has is a mistake."""
    machine("580.65.06")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if hidden:
        assert pick_device() == torch.device("cpu")
    else:
        with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES=3 names none"):
            pick_device()


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("capability", "fits"), [((6, 1), False), ((7, 0), False), ((7, 5), True), ((12, 0), True)]
)
def test_a_card_older_than_the_build_is_refused(
    capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch sees a GTX 1080, and then fails in the first kernel: "no kernel image is available"."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(
        torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"]
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce")
    if fits:
        assert pick_device().index == 0
    else:
        with pytest.raises(
            DeviceError, match=r"capability .* needs 7\.5 or newer.*CUDA 12, or use --device cpu"
        ):
            pick_device()
