"""The calls of torch's CUDA runtime that order work on a GPU, behind one object.

Streams, events and waits are what a CPU cannot show to be right. Other modules ask :data:`runtime` for them,
so that tests can put a simulated device in its place and check the order of every operation.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch


class CudaRuntime:
    """torch's streams and events. Streams and events are torch's own objects, or a simulation's."""

    def on(self, device: torch.device) -> bool:
        """Return whether work on ``device`` is asynchronous and has streams."""
        return device.type == "cuda"

    def stream(self, device: torch.device, *, priority: int) -> Any:
        """Return a stream; a smaller number is more urgent, and 0 is the lowest priority that CUDA has.

        torch has 32 streams a priority, which it hands out in turn: the 33rd is the first again.
        """
        return torch.cuda.Stream(device, priority=priority)  # type: ignore[no-untyped-call]

    def event(self) -> Any:
        """Return an event that knows its time."""
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Return a context whose kernels are launched on ``stream``; it does nothing for None."""
        return torch.cuda.stream(stream)

    def keep(self, tensor: torch.Tensor, stream: Any) -> None:
        """Keep a tensor's memory from being reused before ``stream`` has done what it was given so far."""
        if tensor.is_cuda:
            tensor.record_stream(stream)

    def upload(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Copy a host tensor to ``device`` without waiting for what the device was given before."""
        # From pinned memory; torch reuses that only once the copy is done. A copy from other memory waits.
        return host.pin_memory().to(device, non_blocking=True) if self.on(device) else host.to(device)

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor to main memory and wait for that: through pinned memory, which is twice as fast."""
        host = self.start_download(tensor)
        if self.on(tensor.device):
            copied = self.event()
            copied.record()
            copied.synchronize()
        return host

    def start_download(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in main memory, complete once a later point of this stream is reached."""
        if not self.on(tensor.device):
            return tensor.cpu()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    def pinned(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return a host tensor in memory from which :meth:`upload` to ``device`` does not copy it first."""
        return host.pin_memory() if self.on(device) else host

    def synchronize(self, device: torch.device) -> None:
        """Wait for everything on ``device``, on every stream."""
        if self.on(device):
            torch.cuda.synchronize(device)


runtime = CudaRuntime()  # replaced as a whole by tests
