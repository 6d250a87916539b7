"""CUDA graphs on a simulated device: what captures must not do, and that ours do not."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from torch import nn

from inpaint import cuda
from inpaint.fast.cuda_graphs import _REST, Graphs, wrap
from inpaint.fast.graph_recorder import CudaRecorder
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch
from inpaint.runtime.streams import DeviceStream
from tests.inpaint.nocard.simulated_cuda import STREAMS, SimulatedCuda, simulated_cuda
from tests.support.paths import ROOT

CPU = torch.device("cpu")
CALLS = 3  # of one shape, the last of which is recorded


@pytest.fixture
def gpu() -> Iterator[SimulatedCuda]:
    """A simulated GPU, on which this test's thread works."""
    with simulated_cuda() as device:
        yield device


@pytest.fixture
def net(gpu: SimulatedCuda) -> nn.Module:
    """A network of two layers on the device, small enough to be recorded hundreds of times."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(9, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 1))
    return made.requires_grad_(requires_grad=False).to(CPU)


@pytest.fixture
def stream(gpu: SimulatedCuda) -> Iterator[DeviceStream]:
    """The step loop's stream, on which this test's thread launches."""
    urgent = DeviceStream(CPU, urgent=True)
    with urgent.active():
        yield urgent


def batch_of(size: int = 8, slots: int = 2) -> UNetBatch:
    """Make a call's inputs on the device."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=CPU)

    return UNetBatch(
        normal(slots, 9, size, size),
        normal(slots),
        normal(slots, 77, 4),
        None,
        normal(slots, 8),
        normal(slots, 6),
        tuple(object() for _ in range(slots)),
    )


def graphs_of(model: Model, forward: Forward, **options: Any) -> Graphs:
    return wrap(model, forward, **options)


def rules(gpu: SimulatedCuda) -> set[str]:
    return {report.rule for report in gpu.races.reports}


def test_a_replay_computes_what_the_call_does(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """The simulation itself: a recording runs its operations again, on the inputs of each call."""
    graphs = graphs_of(model, lambda batch: net(batch.sample))
    for _ in range(CALLS + 2):
        batch = batch_of()
        with torch.inference_mode():
            torch.testing.assert_close(graphs(batch), net(batch.sample))
    assert gpu.recorded == 1
    assert not gpu.races.reports


def test_any_number_of_sizes_is_captured_on_one_stream_of_the_recorder(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """The 32nd recording used to capture on the stream on which another thread decodes."""
    decoding = DeviceStream(CPU, urgent=False)
    graphs = graphs_of(model, lambda batch: net(batch.sample))
    for size in range(8, 8 + 2 * STREAMS):
        for _ in range(CALLS):
            graphs(batch_of(size))
    assert gpu.recorded == 2 * STREAMS
    assert gpu.handed_out == {-1: 2, 0: 1}  # the loop's, the recorder's and the decoder's
    assert not gpu.races.reports
    decoding.settle()


def test_replays_are_as_urgent_as_the_loop(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """A decode used to share the GPU evenly with every picture's steps."""
    graphs = graphs_of(model, lambda batch: net(batch.sample))
    for _ in range(CALLS):
        graphs(batch_of())
    assert gpu.recorded == 1
    assert "G3" not in rules(gpu)


def test_nothing_is_recorded_while_another_thread_compiles(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """A compiler that times its kernels waits for the whole device, which ended recordings for good."""
    graphs = graphs_of(model, lambda batch: net(batch.sample))
    with cuda.runtime.waiting():
        for _ in range(CALLS + 5):
            graphs(batch_of())
        assert gpu.recorded == 0
    graphs(batch_of())
    assert gpu.recorded == 1
    assert graphs.state == "recording"


def waits_meanwhile(net: nn.Module, wait: Callable[[], None], join_s: float) -> Forward:
    """Return a forward pass during whose captures another thread waits for the device."""

    def forward(batch: UNetBatch) -> torch.Tensor:
        out: torch.Tensor = net(batch.sample)
        thread = threading.Thread(target=wait, name="compile")
        thread.start()
        thread.join(join_s)
        return out

    return forward


def test_a_wait_for_the_device_waits_for_a_recording(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """The load of a second engine in this process waits for the device, too; here until the capture ended."""
    graphs = graphs_of(model, waits_meanwhile(net, lambda: cuda.runtime.synchronize(CPU), 0.1))
    for _ in range(CALLS):
        graphs(batch_of())
    assert gpu.recorded == 1
    assert not gpu.races.reports


def test_an_unguarded_wait_for_the_device_is_reported(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """As CUDA does, the simulation fails the wait and the recording."""
    refused: list[str] = []

    def wait() -> None:
        try:
            gpu._synchronize(CPU)
        except torch.AcceleratorError as error:
            refused.append(str(error))

    graphs = graphs_of(model, waits_meanwhile(net, wait, 60))
    for _ in range(CALLS):
        graphs(batch_of())
    assert rules(gpu) == {"G1"}
    assert "not permitted when stream is capturing" in refused[-1]
    assert graphs.state.startswith("failed: ")


class FailsOnce(CudaRecorder):
    """A recorder that finds no memory at first."""

    failures = 1

    def record(self, run: Callable[[], torch.Tensor]) -> Any:
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().record(run)


def test_a_recording_that_failed_is_tried_again_later(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """Memory that was full for a moment used to end recordings for the process's life."""
    graphs = graphs_of(model, lambda batch: net(batch.sample), recorder=FailsOnce(CPU))
    for _ in range(CALLS):
        graphs(batch_of())
    assert graphs.state == "failed: CUDA out of memory"
    for _ in range(_REST - 1):
        graphs(batch_of())
    assert gpu.recorded == 0
    graphs(batch_of())
    assert (gpu.recorded, graphs.state) == (1, "recording")


def test_a_recording_that_failed_is_tried_again_after_compiling(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """What filled the memory was perhaps the compiler."""
    recorder = FailsOnce(CPU)
    graphs = graphs_of(model, lambda batch: net(batch.sample), recorder=recorder)
    for _ in range(CALLS):
        graphs(batch_of())
    graphs._rest = 1  # the next call would be allowed to record
    with cuda.runtime.waiting():
        graphs(batch_of())
    graphs(batch_of())
    assert gpu.recorded == 1


def test_new_code_for_one_shape_has_only_that_shape_recorded_anew(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """Each of eight compiled shapes used to have every shape recorded anew, five calls' time each."""
    code = {8: 0, 16: 0}
    graphs = graphs_of(model, lambda batch: net(batch.sample), version=lambda shape: code[shape.h])
    for size in (8, 16):
        for _ in range(CALLS):
            graphs(batch_of(size))
    code[8] = 1
    for size in (16, 8, 16, 8):
        graphs(batch_of(size))
    assert gpu.recorded == 3


def test_a_failed_warm_up_keeps_its_inputs_until_it_is_done(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """Else the next call's inputs are written into memory that the failed one still reads."""
    failing = True

    def forward(batch: UNetBatch) -> torch.Tensor:
        out: torch.Tensor = net(batch.sample)
        if failing and gpu.current.name == "stream 1 of priority -1":
            raise torch.OutOfMemoryError("full")
        return out

    graphs = graphs_of(model, forward)
    for _ in range(CALLS + 1):
        graphs(batch_of())
    assert graphs.state == "failed: full"
    assert not gpu.races.reports


def test_only_one_place_waits_for_a_whole_device() -> None:
    """It keeps apart from recordings; a wait next to it would end one, and itself."""
    calling = [
        path.relative_to(ROOT).as_posix()
        for folder in ("inpaint", "server", "bench", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if "torch.cuda.synchronize(" in path.read_text("utf-8")
    ]
    assert calling == ["inpaint/cuda.py"]


def test_a_recording_waits_for_nothing_and_empties_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stream would have to ask the driver for its memory again. torch's part cannot run on a CPU."""
    graph = create_autospec(torch.cuda.CUDAGraph, instance=True)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, None)
    with cuda.CudaRuntime().capturing(graph, pool=(0, 1), stream=None):
        graph.capture_begin.assert_called_once_with(pool=(0, 1), capture_error_mode="thread_local")
        graph.capture_end.assert_not_called()
    graph.capture_end.assert_called_once_with()


def capture(gpu: SimulatedCuda, run: Callable[[], Any], *, pool: Any = None, stream: Any = None) -> Any:
    """Capture ``run`` without the product's recorder; what CUDA would refuse ends it."""
    graph = gpu.graph()
    pool, stream = pool or gpu.graph_pool(), stream or gpu.stream(CPU, priority=-1)
    held: list[Any] = []
    try:
        with gpu.capturing(graph, pool=pool, stream=stream):
            held.append(run())
    except RuntimeError:
        return None
    return graph, held


def test_a_capture_that_waits_is_reported(gpu: SimulatedCuda, net: nn.Module) -> None:
    """Numbers read by the CPU, and copies to and from it, cannot be captured."""
    x = torch.ones(1, 9, 8, 8, device=CPU)
    for run in (
        lambda: float(net(x).sum()),
        lambda: net(x).nonzero(),
        lambda: net(x).cpu(),
        lambda: net(x) + torch.from_numpy(torch.ones(8).numpy()).to(CPU),
        lambda: torch.rand_like(net(x)),
    ):
        gpu.races.reports.clear()
        assert capture(gpu, run) is None
        assert rules(gpu) == {"G4"}


def test_memory_that_is_gone_at_a_replay_is_reported(gpu: SimulatedCuda, net: nn.Module) -> None:
    """A graph knows addresses, and keeps nothing alive."""
    inputs = [torch.ones(1, 9, 8, 8, device=CPU)]
    graph, _ = capture(gpu, lambda: net(inputs[0]))
    graph.replay()
    assert not rules(gpu) - {"R1"}
    inputs.clear()
    graph.replay()
    assert "G5" in rules(gpu)


def test_tensors_that_outlive_a_capture_are_reported(gpu: SimulatedCuda, net: nn.Module) -> None:
    """The next replay of any recording writes into their memory."""
    x, kept = torch.ones(1, 9, 8, 8, device=CPU), list[torch.Tensor]()

    def run() -> torch.Tensor:
        kept.append(net(x))
        return net(x)

    capture(gpu, run)
    assert rules(gpu) == {"G6"}


def test_captures_on_other_streams_are_reported(gpu: SimulatedCuda, net: nn.Module) -> None:
    """A stream that another thread has, one that is not urgent, a second one for a pool, the default one."""
    x, pool = torch.ones(1, 9, 8, 8, device=CPU), gpu.graph_pool()
    urgent = gpu.stream(CPU, priority=-1)
    held = capture(gpu, lambda: net(x), pool=pool, stream=urgent)
    assert not rules(gpu)
    assert capture(gpu, lambda: net(x), pool=pool)
    assert rules(gpu) == {"G7"}
    gpu.races.reports.clear()
    assert capture(gpu, lambda: net(x), stream=gpu.stream(CPU, priority=0))
    assert rules(gpu) == {"G3"}
    gpu.races.reports.clear()
    others = [gpu.stream(CPU, priority=-1) for _ in range(STREAMS)]
    assert capture(gpu, lambda: net(x), stream=others[-2])  # the 33rd of this priority is the first again
    assert rules(gpu) == {"G2"}
    assert held


def test_the_same_inputs_in_the_product_s_batch_are_copied(
    gpu: SimulatedCuda, stream: DeviceStream, net: nn.Module, model: Model
) -> None:
    """A recording reads its own copies: the caller's tensors die with their call."""
    graphs = graphs_of(model, lambda batch: net(batch.sample))
    for _ in range(CALLS + 1):
        graphs(replace(batch_of(), prompts=(object(), object())))
    assert not gpu.races.reports
