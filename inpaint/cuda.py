"""The calls of torch's CUDA runtime that order work on a GPU, behind one object.

Streams, events and waits are what a CPU cannot show to be right. Other modules ask :data:`runtime` for them,
so that tests can put a simulated device in its place and check the order of every operation.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


class CudaRuntime:
    """torch's streams, events and graphs; these are torch's own objects, or a simulation's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waits = 0  # threads that may wait for a whole device
        self._recording = False  # a thread records a graph

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

    def make_room(self, device: torch.device, size_bytes: int) -> None:
        """Give torch's cached memory back to the driver if that has less than ``size_bytes`` free."""
        if self.on(device) and torch.cuda.mem_get_info(device)[0] < size_bytes:
            torch.cuda.empty_cache()

    def device(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return a context on ``device``; a new thread starts on the first CUDA device."""
        return torch.cuda.device(device) if self.on(device) else nullcontext()

    def current_stream(self, device: torch.device) -> Any:
        """Return the stream that this thread launches on."""
        return torch.cuda.current_stream(device)

    def graph_pool(self) -> Any:
        """Return a pool of working memory for graphs that never run at the same time."""
        return torch.cuda.graph_pool_handle()

    def graph(self) -> Any:
        """Return an empty CUDA graph, to be filled by :meth:`capturing`."""
        return torch.cuda.CUDAGraph()

    @contextmanager
    def capturing(self, graph: Any, *, pool: Any, stream: Any) -> Iterator[None]:
        """Record into ``graph`` what the block launches, on ``stream``, without running it.

        Unlike ``torch.cuda.graph`` it neither waits for the device nor returns every stream's cached memory
        to the driver: the next decode would have to ask for it again. Nothing that waits for the whole device
        may run in any thread meanwhile: CUDA fails that call and ends the recording, whatever the mode.
        """
        with torch.cuda.stream(stream):
            # "thread_local", because other threads may allocate meanwhile (encodes, decodes).
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                yield
            finally:
                graph.capture_end()

    def synchronize(self, device: torch.device) -> None:
        """Wait for everything on ``device``, on every stream."""
        if self.on(device):
            with self.waiting():
                self._synchronize(device)

    def _synchronize(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Keep other threads from recording graphs inside the block, which may wait for a whole device.

        CUDA fails such a wait while a graph is being recorded in any thread, and the recording with it.
        Compilers wait when they time their kernels.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._recording)
            self._waits += 1
        try:
            yield
        finally:
            with self._changed:
                self._waits -= 1

    @contextmanager
    def recording(self) -> Iterator[bool]:
        """Yield whether a graph may be recorded inside the block, while no other thread records or waits."""
        with self._changed:
            free = not self._waits and not self._recording
            self._recording = self._recording or free
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._recording = False
                    self._changed.notify_all()


runtime = CudaRuntime()  # replaced as a whole by tests
