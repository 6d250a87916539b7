"""Out of memory is told from a dead GPU by what torch says, wherever it is caught."""

from collections.abc import Callable

import pytest
import torch

from inpaint import Engine, InpaintRequest
from inpaint.errors import DeviceError, InpaintError, OutOfMemoryError, PaintError
from inpaint.gpu_errors import is_fatal, is_out_of_memory
from inpaint.model import vae
from inpaint.model.load import Model
from inpaint.runtime import calibrate
from inpaint.runtime.streams import attempt

Make = Callable[..., InpaintRequest]
WAIT_S = 120
TOLD: tuple[tuple[RuntimeError, type[InpaintError]], ...] = (
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), OutOfMemoryError),
    (
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously"),
        OutOfMemoryError,
    ),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OutOfMemoryError,
    ),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        OutOfMemoryError,
    ),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemoryError),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), OutOfMemoryError),
    (
        RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory"),
        OutOfMemoryError,
    ),
    (torch.AcceleratorError("CUDA error: device-side assert triggered"), DeviceError),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceError),
    (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), DeviceError),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle`"),
        DeviceError,
    ),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceError),
    (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"), PaintError),
    (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), PaintError),
)


@pytest.mark.parametrize(("error", "ours"), TOLD)
def test_a_stages_error_is_told_by_its_text(error: RuntimeError, ours: type[InpaintError]) -> None:
    """A full card must not restart the worker, nor be "a bug"; a dead one must not paint on."""

    def work() -> None:
        raise error

    got = attempt(work)
    assert type(got) is ours
    assert "\n" not in str(got)
    assert (is_out_of_memory(error), is_fatal(error)) == (ours is OutOfMemoryError, ours is DeviceError)


NO_MEMORY = [error for error, ours in TOLD if ours is OutOfMemoryError]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_every_kind_of_full_memory_is_tried_again_smaller(
    error: RuntimeError, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pictures that do not fit together are encoded and decoded one by one, whatever ran out."""
    whole_encode, whole_decode = model.vae.encode, model.vae.decode

    def one_at_most(whole: Callable[..., object]) -> Callable[..., object]:
        def call(batch: torch.Tensor, *args: object, **kwargs: object) -> object:
            if len(batch) > 1:
                raise error
            return whole(batch, *args, **kwargs)

        return call

    monkeypatch.setattr(model.vae, "encode", one_at_most(whole_encode))
    monkeypatch.setattr(model.vae, "decode", one_at_most(whole_decode))
    posterior = vae.encode(model, torch.zeros(2, 3, 128, 128))
    assert posterior.mean.shape[0] == 2
    assert all(picture is not None for picture in vae.pictures(model, torch.zeros(2, 4, 16, 16)))


@pytest.mark.parametrize("error", NO_MEMORY)
def test_the_survey_stops_at_every_kind_of_full_memory(error: RuntimeError) -> None:
    """At the start of a server, too, running out is a measurement and not a failure."""

    def step_s(slots: int) -> float:
        if slots > 2:
            raise error
        return 0.1

    stopwatch = calibrate._Stopwatch(torch.device("cpu"), lambda: 0.0, 20.0)
    assert calibrate._climb(step_s, 16, stopwatch) == ({1: 0.1, 2: 0.1}, 2)


@pytest.mark.parametrize("error", NO_MEMORY[1:4])
def test_a_full_card_halves_the_batch_and_the_engine_lives(
    error: RuntimeError, model: Model, request_for: Make
) -> None:
    """The first of these restarted the worker before, the others were answered as bugs."""
    left = [error]

    def full(*_: object) -> None:
        if left:
            raise left.pop()

    handle = model.unet.register_forward_pre_hook(full)
    try:
        with Engine(model) as engine:
            assert engine.paint(request_for()).images
            assert engine.stats().out_of_memory == 1
    finally:
        handle.remove()


def test_a_model_that_does_not_fit_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading runs out of memory first on a small card; that was a traceback."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has")

    monkeypatch.setattr("inpaint.model.load.place", full)
    with pytest.raises(OutOfMemoryError, match=r"try a smaller plan with --memory \(CUDA out of memory\."):
        Engine.load("demo", device="cpu")
