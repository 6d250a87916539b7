"""A GPU that is a clock: it takes its seconds for each call, in order, while the CPU goes on.

The CPU's own part of a call is a millisecond. What is copied to main memory is there when the GPU has come so
far, and is NaN until then.
"""

import threading
from typing import Any

import torch

from inpaint import cuda
from inpaint.model.unet import UNetBatch

TRUE_S = {1: 0.018, 2: 0.030, 4: 0.055, 8: 0.105}  # slots → a call's seconds on the GPU
LAUNCH_S = 0.001
GPU = torch.device("cuda")


class Clock(cuda.CudaRuntime):
    """A GPU with one stream that keeps time, and the CPU's time."""

    def __init__(self) -> None:
        self.now = 0.0  # the CPU's
        self.free = 0.0  # when the GPU will have done everything it was given
        self._downloads: list[tuple[float, torch.Tensor, torch.Tensor]] = []  # when, what, into what

    def launch(self, seconds: float) -> None:
        """Give the GPU a call."""
        self.now += LAUNCH_S
        self.free = max(self.free, self.now) + seconds

    def stream(self, device: torch.device, *, priority: int) -> Any:
        """The one stream."""
        return self

    def event(self) -> Any:
        """A point in it."""
        return Point(self)

    def using(self, stream: Any) -> Any:
        """Everything is launched on the one stream."""
        return torch.no_grad()

    def record_event(self, point: "Point") -> "Point":
        """The GPU reaches the point when it has done what it was given before, and not before now."""
        point.at = self.free = max(self.free, self.now)
        return point

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy what the side thread decoded; it takes no time here."""
        return tensor.cpu()

    def start_download(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy when the GPU has come so far."""
        host = torch.full_like(tensor, torch.nan)
        self._downloads.append((max(self.free, self.now), tensor.clone(), host))
        return host

    def synchronize(self, device: torch.device | None = None) -> None:
        """Wait for everything."""
        self.wait(self.free)

    def wait(self, until: float) -> None:
        """Wait until the GPU has come so far."""
        self.now = max(self.now, until)
        for at, tensor, host in self._downloads:
            if at <= self.now:
                host.copy_(tensor)


class Point:
    """An event of the clock's stream."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at = 0.0

    def synchronize(self) -> None:
        """Wait until the GPU is here."""
        self._clock.wait(self.at)

    def elapsed_time(self, end: "Point") -> float:
        """Milliseconds, as CUDA has it."""
        return 1000 * (end.at - self.at)


class TimedUnet:
    """A forward pass that takes the simulated GPU its seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.gate = threading.Event()  # closed, the first call waits for it
        self.gate.set()

    def __call__(self, batch: UNetBatch) -> torch.Tensor:
        assert self.gate.wait(60)
        self._clock.launch(TRUE_S[len(batch.sample)])
        return torch.zeros_like(batch.sample[:, :4])
