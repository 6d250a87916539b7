"""The memory that recordings hold, counted by an allocator that reuses a block on its own stream only.

Counted, not measured. The working memory of a call is what full-size meta tensors have live at its peak, for
SDXL in 16 bit at 1024², here a thousandth of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from inpaint import cuda
from inpaint.fast.cuda_graphs import Graphs, wrap
from inpaint.fast.graph_recorder import CudaRecorder
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch
from inpaint.runtime.streams import DeviceStream
from tests.inpaint.nocard.simulated_cuda import SimulatedCuda, simulated_cuda
from tests.inpaint.nocard.test_graph_capture import CALLS, CPU, batch_of

GIB = 1024**3 // 1024
WORKING_GIB = {1: 0.15, 2: 0.31, 4: 0.62, 8: 1.23}  # slots → activations of one UNet call
VERSIONS = 8  # compiled shapes become ready one after the other


@pytest.fixture
def gpu() -> Iterator[SimulatedCuda]:
    """A simulated GPU."""
    with simulated_cuda() as device:
        yield device


def forward(batch: UNetBatch) -> torch.Tensor:
    """Take as much memory as SDXL's UNet does, and return a prediction."""
    slots = batch.sample.shape[0]
    working = batch.sample.new_zeros(int(WORKING_GIB[slots] * GIB) // 4)
    return batch.sample[:, :4] + working[0]


def recorded(gpu: SimulatedCuda, model: Model, recorder: Any) -> Graphs:
    """Record every slot count again at every version."""
    version = 0
    graphs = wrap(model, forward, recorder=recorder, version=lambda _: version)
    for version in range(VERSIONS):  # noqa: B007 - read by the lambda above
        for slots in WORKING_GIB:
            for _ in range(CALLS):
                graphs(batch_of(slots=slots))
    assert gpu.recorded == VERSIONS * len(WORKING_GIB)
    return graphs


def reserved_gib(gpu: SimulatedCuda) -> float:
    return sum(sum(pool.reserved.values()) for pool in gpu.pools) / GIB


def test_recordings_share_the_working_memory_of_the_largest(gpu: SimulatedCuda, model: Model) -> None:
    """A 16 GB card used to run out of memory while the compiled shapes became ready one by one."""
    with DeviceStream(CPU, urgent=True).active():
        graphs = recorded(gpu, model, CudaRecorder(CPU))
    assert len(graphs.held) == len(WORKING_GIB)
    assert max(WORKING_GIB.values()) <= reserved_gib(gpu) <= max(WORKING_GIB.values()) * 1.02


class StreamEach(CudaRecorder):
    """The recorder as it was: a stream for each recording, of the lowest priority."""

    def record(self, run: Callable[[], torch.Tensor]) -> Any:
        self._stream = cuda.runtime.stream(CPU, priority=0)
        return super().record(run)


def test_a_stream_for_each_recording_reserves_its_memory_again(gpu: SimulatedCuda, model: Model) -> None:
    """The allocator above would notice: 32 recordings took 18.5 GiB."""
    with DeviceStream(CPU, urgent=True).active():
        recorded(gpu, model, StreamEach(CPU))
    assert reserved_gib(gpu) == pytest.approx(VERSIONS * sum(WORKING_GIB.values()), rel=0.02)
    assert {report.rule for report in gpu.races.reports} >= {"G3", "G7"}
