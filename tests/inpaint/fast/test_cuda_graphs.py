"""Recorded UNet calls: all but the capture itself on a CPU, through a recorder that repeats the call."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from inpaint import InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.fast.cuda_graphs import Graphs, can, wrap
from inpaint.fast.shapes import example, native, usual
from inpaint.job import Job
from inpaint.model import deep_level
from inpaint.model.denoise import step
from inpaint.model.load import Model, load_model
from inpaint.model.unet import UNetBatch, plain
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.schedulers import SCHEDULERS

CALLS = 3  # of one shape, the last of which is recorded


@dataclass
class Repeat:
    """As a CUDA graph does: reads its inputs where they were, writes its result where it was."""

    run: Callable[[], torch.Tensor]
    output: torch.Tensor

    def replay(self) -> None:
        self.output.copy_(self.run())


class Repeater:
    """A recorder for devices that have none; ``error`` is what the next recordings meet."""

    def __init__(self) -> None:
        self.recorded = 0
        self.error: Exception | None = None

    def record(self, run: Callable[[], torch.Tensor]) -> Repeat:
        if self.error is not None:
            raise self.error
        self.recorded += 1
        return Repeat(run, torch.full_like(run(), float("nan")))


@pytest.fixture
def recorder() -> Repeater:
    return Repeater()


@pytest.fixture
def graphs(model: Model, recorder: Repeater) -> Graphs:
    return wrap(model, plain(model.unet), recorder=recorder, max_graphs=2)


def batch_of(model: Model, slots: int, **changes: Any) -> UNetBatch:
    """Make a call of this many slots whose numbers differ from every other's."""
    batch = example(model, usual(model, native(model), slots)._replace(**changes))
    return replace(batch, sample=batch.sample + torch.randn(()))


def assert_same(graphs: Graphs, model: Model, batch: UNetBatch) -> None:
    with torch.inference_mode():
        expected = plain(model.unet)(batch)
        out = graphs(batch)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_a_replay_has_the_result_of_the_call(model: Model, graphs: Graphs, recorder: Repeater) -> None:
    """Each replay must see its own call's numbers, not the recorded one's."""
    for _ in range(CALLS + 2):
        assert_same(graphs, model, batch_of(model, 2))
    assert recorder.recorded == 1
    assert [shape.slots for shape in graphs.held] == [2]


def test_a_rare_shape_is_not_recorded(model: Model, graphs: Graphs, recorder: Repeater) -> None:
    """A recording costs as much as five calls."""
    for _ in range(CALLS - 1):
        assert_same(graphs, model, batch_of(model, 2))
    assert recorder.recorded == 0


def test_a_result_outlives_the_next_replay(model: Model, graphs: Graphs) -> None:
    """The scheduler may hold on to a prediction for the next steps."""
    batches = [batch_of(model, 2) for _ in range(CALLS + 1)]
    with torch.inference_mode():
        kept = [graphs(batch) for batch in batches]
        torch.testing.assert_close(kept[-2], plain(model.unet)(batches[-2]), rtol=1e-4, atol=1e-5)


def test_odd_batches_are_padded_where_it_is_cheap(model: Model, graphs: Graphs, recorder: Repeater) -> None:
    """Three slots replay the four-slot recording; five go as they are, since eight would cost too much."""
    for slots in (4, 4, 3, 3, 5, 5, 5):
        assert_same(graphs, model, batch_of(model, slots))
    assert [shape.slots for shape in graphs.held] == [4]


def test_masked_and_longer_prompts_have_recordings_of_their_own(model: Model, graphs: Graphs) -> None:
    """Who writes a long prompt must not get the picture of a short one."""
    for _ in range(CALLS + 1):
        masked = batch_of(model, 2, masked=True, tokens=80)
        keep = masked.keep
        assert keep is not None
        assert_same(graphs, model, replace(masked, keep=keep & (torch.arange(80) < 70)))
        assert_same(graphs, model, batch_of(model, 2))
    assert sorted(shape.tokens for shape in graphs.held) == [77, 80]


def _copied(taken: list[torch.Tensor], deep: torch.Tensor) -> None:
    taken.append(deep.clone())


def test_calls_of_near_pictures_have_recordings_of_their_own(model: Model, recorder: Repeater) -> None:
    """A replay leaves the deepest level where it was recorded; each row must get that of its own call."""
    eager = deep_level.wrap(model.unet, plain(model.unet))
    graphs = wrap(model, eager, recorder=recorder)
    for _ in range(CALLS + 2):
        for slots in (4, 3):
            batch, taken = batch_of(model, slots), list[torch.Tensor]()
            with torch.inference_mode():
                keeping = replace(batch, take_deep=partial(_copied, taken))
                expected, out = eager(keeping), graphs(keeping)
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(*taken, rtol=1e-4, atol=1e-5)
                cached = replace(batch, deep=taken[0] + torch.randn(()))
                torch.testing.assert_close(graphs(cached), eager(cached), rtol=1e-4, atol=1e-5)
            assert_same(graphs, model, batch)
    assert sorted((shape.slots, shape.level) for shape in graphs.held) == [
        (4, ""),
        (4, "cached"),
        (4, "kept"),
    ]
    assert recorder.recorded == 3


def test_the_recording_not_used_for_longest_goes(model: Model, graphs: Graphs) -> None:
    """Recordings hold GPU memory, so there is a limit."""
    for slots in (1, 2):
        for _ in range(CALLS):
            assert_same(graphs, model, batch_of(model, slots))
    assert_same(graphs, model, batch_of(model, 1))
    for _ in range(CALLS):
        assert_same(graphs, model, batch_of(model, 4))
    assert [shape.slots for shape in graphs.held] == [1, 4]


def test_another_way_through_the_unet_is_recorded_anew(model: Model, recorder: Repeater) -> None:
    """Once compiled code is ready, the uncompiled kernels must not be replayed forever."""
    version = 0
    graphs = wrap(model, plain(model.unet), recorder=recorder, version=lambda _: version)
    for _ in range(CALLS):
        graphs(batch_of(model, 2))
    version = 1
    assert_same(graphs, model, batch_of(model, 2))
    assert (recorder.recorded, len(graphs.held)) == (2, 1)


@pytest.mark.parametrize("error", [RuntimeError("capture failed\nin detail"), torch.OutOfMemoryError("full")])
def test_a_failed_recording_is_one_warning_and_the_same_result(
    model: Model, graphs: Graphs, recorder: Repeater, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """What is recorded already stays in use; the rest is called as before."""
    for _ in range(CALLS):
        assert_same(graphs, model, batch_of(model, 1))
    recorder.error = error
    with caplog.at_level(logging.WARNING):
        for _ in range(CALLS + 2):
            assert_same(graphs, model, batch_of(model, 2))
            assert_same(graphs, model, batch_of(model, 4))
    assert [record.name for record in caplog.records] == ["inpaint.fast.cuda_graphs"]
    assert graphs.state == f"failed: {str(error).splitlines()[0]}"
    assert [shape.slots for shape in graphs.held] == [1]
    assert_same(graphs, model, batch_of(model, 1))


def test_the_counts_of_calls_are_bounded(model: Model, graphs: Graphs) -> None:
    """A server sees thousands of sizes in a year."""
    shape = usual(model, native(model), 2)
    for tokens in range(500):
        graphs._often(shape._replace(tokens=tokens))
    assert len(graphs._calls) <= 64


def test_a_cpu_has_no_graphs(model: Model) -> None:
    """The reason is shown by ``inpaint doctor``."""
    assert "CUDA" in can(model)


def rows_of(model: Model, request: InpaintRequest) -> list[Any]:
    task = RunningRequest(Job(request, [request.seed]), cut(request, model.native_size))
    Stages(model).begin(task)
    return task.rows


def test_a_picture_is_the_same_through_recordings(
    model: Model, graphs: Graphs, request_for: Callable[..., InpaintRequest]
) -> None:
    """An exact optimization may not show in a picture."""
    latents = []
    for forward in (None, graphs):
        (row,) = rows_of(model, request_for(num_inference_steps=6, strength=1.0))
        while not row.done:
            step(model, [row], forward)
        latents.append(row.latents)
    assert float((latents[1] - latents[0]).norm() / latents[0].norm()) < 1e-3
    assert graphs.held


@pytest.fixture
def cuda_model(checkpoint: Callable[[int], Any]) -> Model:
    return load_model(checkpoint(9), "tiny-9", torch.device("cuda"), torch.float16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_give_the_same_result(cuda_model: Model) -> None:
    """The capture itself: replays read new inputs, share their working memory and do not mix results up."""
    graphs = wrap(cuda_model, plain(cuda_model.unet))
    for _ in range(CALLS + 2):
        for slots in (2, 4, 3, 1):
            batch = batch_of(cuda_model, slots)
            with torch.inference_mode():
                expected = plain(cuda_model.unet)(batch)
                torch.testing.assert_close(graphs(batch), expected, rtol=2e-2, atol=2e-2)
    assert graphs.state == "recording"
    assert sorted(shape.slots for shape in graphs.held) == [1, 2, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_step_waits_for_the_gpu(
    cuda_model: Model, request_for: Callable[..., InpaintRequest], scheduler: str
) -> None:
    """Each wait lets the GPU idle until its queue is filled again. See ``nocard/test_meta_device.py``."""
    graphs = wrap(cuda_model, plain(cuda_model.unet))
    (row,) = rows_of(cuda_model, request_for(scheduler=scheduler, num_inference_steps=8, strength=1.0))
    for _ in range(CALLS + 1):
        step(cuda_model, [row], graphs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            while not row.done:
                step(cuda_model, [row], graphs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert graphs.held
    assert not [str(wait.message) for wait in waits if "synchroniz" in str(wait.message)]
