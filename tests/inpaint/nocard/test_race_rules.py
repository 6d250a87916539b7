"""The happens-before checker itself: each rule, kept and broken."""

from collections.abc import Callable, Iterator

import pytest
import torch

from inpaint.runtime.streams import DeviceStream
from tests.inpaint.nocard.simulated_cuda import SimulatedCuda, simulated_cuda

CPU = torch.device("cpu")


@pytest.fixture
def gpu() -> Iterator[SimulatedCuda]:
    """A simulated GPU, on which this test's thread works."""
    with simulated_cuda() as device:
        yield device


@pytest.fixture
def urgent(gpu: SimulatedCuda) -> DeviceStream:
    return DeviceStream(CPU, urgent=True)


@pytest.fixture
def side(gpu: SimulatedCuda) -> DeviceStream:
    return DeviceStream(CPU, urgent=False)


def rules(gpu: SimulatedCuda) -> list[str]:
    return [report.rule for report in gpu.races.reports]


def nothing(*_: object) -> None:
    """Order nothing."""


def by_event(first: DeviceStream, then: DeviceStream) -> None:
    then.after(first.mark())


def by_wait(first: DeviceStream, _: DeviceStream) -> None:
    first.settle()


Order = Callable[[DeviceStream, DeviceStream], None]
ORDERS = [(nothing, True), (by_event, False), (by_wait, False)]


@pytest.mark.parametrize(("order", "reported"), ORDERS)
def test_a_read_comes_after_the_write(
    gpu: SimulatedCuda, urgent: DeviceStream, side: DeviceStream, order: Order, reported: bool
) -> None:
    """R1."""
    with side.active():
        x = torch.ones(4, device=CPU)
    order(side, urgent)
    with urgent.active():
        x.sum()
    assert rules(gpu) == ["R1"] * reported


@pytest.mark.parametrize(("order", "reported"), ORDERS)
def test_a_write_comes_after_the_reads(
    gpu: SimulatedCuda, urgent: DeviceStream, side: DeviceStream, order: Order, reported: bool
) -> None:
    """R2."""
    x = torch.ones(4, device=CPU)
    gpu.synchronize(CPU)
    with urgent.active():
        x.sum()
    order(urgent, side)
    with side.active():
        x.zero_()
    assert rules(gpu) == ["R2"] * reported


@pytest.mark.parametrize(("order", "reported"), ORDERS)
def test_memory_is_freed_after_the_reads(
    gpu: SimulatedCuda, urgent: DeviceStream, side: DeviceStream, order: Order, reported: bool
) -> None:
    """R3."""
    with side.active():
        x = torch.ones(4, device=CPU)
    side.settle()
    with urgent.active():
        x.sum()
    order(urgent, side)
    del x
    assert rules(gpu) == ["R3"] * reported


def test_memory_that_is_kept_may_be_freed_earlier(
    gpu: SimulatedCuda, urgent: DeviceStream, side: DeviceStream
) -> None:
    """R3, by ``record_stream``."""
    with side.active():
        x = torch.ones(4, device=CPU)
    side.settle()
    urgent.keep([x])
    with urgent.active():
        x.sum()
    del x
    assert not rules(gpu)


def test_the_default_stream_is_ordered_by_nothing_but_a_wait(
    gpu: SimulatedCuda, urgent: DeviceStream
) -> None:
    """R4: the streams that torch hands out do not wait for it."""
    x, y = torch.ones(4, device=CPU), torch.ones(4, device=CPU)
    with urgent.active():
        x.sum()
    assert rules(gpu) == ["R1"]
    gpu.synchronize(CPU)
    with urgent.active():
        y.sum()
    assert rules(gpu) == ["R1"]


def test_the_host_s_side_of_a_copy_is_left_alone(gpu: SimulatedCuda, urgent: DeviceStream) -> None:
    """R5, both ways: a buffer that is still being read, and one that is still being filled."""
    host = torch.ones(4)
    with urgent.active():
        x = host.to(CPU, non_blocking=True)
        host.zero_()
        assert rules(gpu) == ["R5"]
        urgent.settle()
        host.zero_()
        assert sum(gpu.races.reports.values()) == 1
        fetched = x.to("cpu", non_blocking=True)
        fetched.sum()
        assert sum(gpu.races.reports.values()) == 2
        urgent.settle()
        fetched.sum()
    assert sum(gpu.races.reports.values()) == 2


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.to("cpu"),
        lambda x: bool(x.sum() > 0),
        lambda x: x[0].item(),
    ],
)
def test_a_copy_to_the_host_waits_for_its_stream(
    gpu: SimulatedCuda,
    urgent: DeviceStream,
    side: DeviceStream,
    wait: Callable[[torch.Tensor], object],
) -> None:
    """Much in the product relies on it."""
    with side.active():
        x, y = torch.ones(4, device=CPU), torch.ones(4, device=CPU)
        wait(x)
    with urgent.active():
        y.sum()
    assert not rules(gpu)


def test_tensors_of_the_host_order_nothing(
    gpu: SimulatedCuda, urgent: DeviceStream, side: DeviceStream
) -> None:
    """A sampler reads its own tables of numbers all the time, for which the GPU is not asked."""
    with side.active():
        x = torch.ones(4, device=CPU)
        assert torch.arange(4).sum().item() == 6
    with urgent.active():
        x.sum()
    assert rules(gpu) == ["R1"]
