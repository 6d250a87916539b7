"""Faults in the order of a GPU's work that were found without one, each as it came to light."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inpaint.errors import InpaintError, PaintError
from inpaint.lora.cache import NO_LORAS, LoraCache
from inpaint.lora.spec import effective
from inpaint.model import vae
from inpaint.model.load import load_model
from inpaint.model.row import Row
from inpaint.runtime import step_loop
from inpaint.runtime.faults import Faults
from inpaint.runtime.lora_switch import LoraSwitch
from inpaint.runtime.stages import Stages
from inpaint.runtime.streams import DeviceStream
from tests.inpaint.nocard.race_rules import DEFAULT
from tests.inpaint.nocard.race_walk import Engines, Walk, engines, write_models
from tests.inpaint.nocard.simulated_cuda import SimulatedStream

CPU = torch.device("cpu")
WAIT_S = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint and LoRAs."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def gpu(folder: Path) -> Iterator[Engines]:
    """Engines on a simulated GPU that knows the order of everything."""
    with engines(folder) as made:
        yield made


def found(gpu: Engines) -> str:
    return "\n".join(map(str, gpu.device.races.reports))


def test_a_loaded_model_is_complete_before_its_first_request(gpu: Engines) -> None:
    """The loading thread rewrites weights on the default stream, for which the loop's does not wait."""
    with gpu.load() as engine:
        engine.paint(Walk(0).request())
    assert not gpu.device.races.reports, found(gpu)


class ReadsWhenFree:
    """A lock whose next holder reads the weights as soon as it is free, as the compiling thread does."""

    def __init__(self, gpu: Engines, unet: Any) -> None:
        self._device, self._unet, self._lock = gpu.device, unet, threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        with self._device.using(SimulatedStream(self._device, DEFAULT, 0)):
            for weight in self._unet.parameters():
                weight.sum()
        self._device._synchronize(CPU)


def test_weights_are_written_before_their_lock_is_free(gpu: Engines) -> None:
    """Compiled code was compared with half-written weights, and dropped for good."""
    model = load_model(gpu.folder / "model", "model", CPU, torch.bfloat16)
    model = replace(model, weights_lock=ReadsWhenFree(gpu, model.unet))  # type: ignore[arg-type]
    uses = effective(replace(Walk(0).request(), loras="one").loras)
    loras = LoraCache(model.unet, model.text_encoders, CPU, gpu.folder).load(uses)
    gpu.device.synchronize(CPU)
    urgent, switch = DeviceStream(CPU, urgent=True), LoraSwitch(model)
    with urgent.active():
        switch.use(loras, urgent.settle)
        switch.use(NO_LORAS, urgent.settle)  # nothing is checked when weights are only restored
    assert not gpu.device.races.reports, found(gpu)


def test_a_closed_engine_has_given_its_weights_back(gpu: Engines) -> None:
    """The next engine of the same model would begin with another one's LoRA."""
    engine = gpu.load()
    engine._fast.close()  # type: ignore[union-attr]
    with engine:
        engine.paint(replace(Walk(0).request(), loras="one"))
    with DeviceStream(CPU, urgent=True).active():
        for weight in engine.model.unet.parameters():
            weight.sum()
    assert not gpu.device.races.reports, found(gpu)


@pytest.mark.parametrize("kept", [True, False])
def test_a_vae_that_is_cast_frees_its_old_weights_late_enough(
    gpu: Engines, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """They go back to the loading thread's stream while the encoding one still reads them."""
    if not kept:
        monkeypatch.setattr(vae, "_keep_weights", lambda _: None)
    model = load_model(gpu.folder / "model", "model", CPU, torch.bfloat16)
    gpu.device.synchronize(CPU)
    with DeviceStream(CPU, urgent=False).active():
        vae._encode_together(model, torch.zeros(1, 3, 64, 64, device=CPU), torch.float32)
    gc.collect()
    rules = {report.rule for report in gpu.device.races.reports}
    assert rules == (set() if kept else {"R3"}), found(gpu)


@pytest.mark.parametrize("kind", [ValueError, PaintError])
def test_a_failed_job_keeps_no_tensors(
    gpu: Engines, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """A server keeps its jobs for an hour; a traceback kept every tensor of the failing stage with them."""
    held: list[weakref.ref[torch.Tensor]] = []

    def failing(_: Stages, rows: list[Row]) -> None:
        held.extend(weakref.ref(row.latents) for row in rows)
        raise kind("not this picture")

    monkeypatch.setattr(Stages, "decode", failing)
    with gpu.load() as engine:
        job = engine.submit(replace(Walk(0).request(), samples=1))
        with pytest.raises(InpaintError) as caught:
            job.result(WAIT_S)
        assert "not this picture" in str(caught.value)
        if kind is ValueError:
            assert any("in failing" in note for note in caught.value.__notes__), "where it was is kept"
        monkeypatch.undo()
        ends_at = time.monotonic() + WAIT_S
        while any(latents() is not None for latents in held) and time.monotonic() < ends_at:
            gc.collect()
        assert held
        assert not [latents for latents in held if latents() is not None]


def test_only_an_out_of_memory_empties_the_cache(gpu: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong request of one caller made every stream's next allocation slow."""
    emptied: list[torch.device] = []
    monkeypatch.setattr(step_loop, "empty_cache", emptied.append)
    request = replace(Walk(0).request(), samples=1, loras="")
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "begin", lambda *_: (_ for _ in ()).throw(PaintError("wrong")))
        with gpu.load() as engine, pytest.raises(PaintError):
            engine.paint(request)
    assert not emptied
    with gpu.load(faults=Faults.parse("oom@1")) as engine:
        engine.paint(request)
    assert emptied
