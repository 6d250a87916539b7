"""Previews show the call before the latest: to see the latest, every step would wait for the GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint import Engine, InpaintRequest, cuda
from inpaint.fast.optimizations import Fast
from inpaint.job import Event, Job
from inpaint.model.load import Model
from inpaint.runtime import step_loop
from inpaint.runtime.stages import RunningRequest
from inpaint.runtime.streams import DeviceStream
from tests.inpaint.nocard.costs_clock import GPU, LAUNCH_S, TRUE_S, Clock, TimedUnet

STEPS = 6


def watch(model: Model, clock: Clock, request: InpaintRequest) -> list[Image.Image | None]:
    """The previews of a request's steps."""
    seen: list[Event] = []
    unet = TimedUnet(clock)
    unet.gate.clear()
    with Engine(model, fast=Fast((), unet, None, None)) as engine:
        job = engine.submit(request)
        job.listen(seen.append)
        unet.gate.set()
        job.result(60)
    return [event.preview for event in seen if event.state == "step"]


@pytest.fixture
def on_cpu(
    model: Model, request_for: Callable[..., InpaintRequest], monkeypatch: pytest.MonkeyPatch
) -> list[Image.Image | None]:
    """The previews of a CPU, where nothing is asynchronous."""
    monkeypatch.setattr(Job, "wants_preview", True)
    return watch(model, Clock(), request_for(num_inference_steps=STEPS, strength=1.0))


@pytest.fixture
def clock(on_cpu: list[Image.Image | None], monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock in the place of CUDA, once the CPU's previews are there."""
    clock = Clock()
    monkeypatch.setattr(cuda, "runtime", clock)
    monkeypatch.setattr(step_loop, "DeviceStream", lambda device, urgent: DeviceStream(GPU, urgent=urgent))
    return clock


def test_previews_are_those_of_a_cpu_one_step_later(
    on_cpu: list[Image.Image | None],
    clock: Clock,
    model: Model,
    request_for: Callable[..., InpaintRequest],
) -> None:
    """A preview that is read before it was copied is a black or a torn picture."""
    previews = watch(model, clock, request_for(num_inference_steps=STEPS, strength=1.0))
    assert len(previews) == len(on_cpu) == STEPS
    assert previews[0] is None
    for late, early in zip(previews[1:], on_cpu[:-1], strict=True):
        assert late is not None
        assert early is not None
        assert np.array_equal(late, early)
        assert np.asarray(late).std() > 1, "a picture, not one colour"


def waiting(clock: Clock, task: RunningRequest, row: Any) -> Callable[[], None]:
    """Look at the latest call, as before."""
    host = cuda.runtime.start_download(row.estimate)
    clock.synchronize()
    return partial(task.estimates.__setitem__, task.rows.index(row), host)


@pytest.mark.parametrize("wait", [False, True])
def test_who_watches_does_not_make_the_gpu_wait(
    wait: bool,
    clock: Clock,
    model: Model,
    request_for: Callable[..., InpaintRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a wait in each step (the negative control) the GPU idles while the next call is launched."""
    if wait:
        monkeypatch.setattr(RunningRequest, "download_estimate", lambda task, row: waiting(clock, task, row))
    watch(model, clock, request_for(num_inference_steps=STEPS, strength=1.0))
    idle = clock.free - STEPS * TRUE_S[2]
    assert idle == pytest.approx(STEPS * LAUNCH_S if wait else LAUNCH_S)
