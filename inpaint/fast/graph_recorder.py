"""The capture of UNet calls as CUDA graphs.

All of one recorder's graphs are captured on one stream, made once. A pool of working memory is reused only on
the stream that it was made on, and torch has 32 streams a priority which it hands out in turn: a stream for
each recording would soon be one on which another thread decodes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from inpaint import cuda

_WARM_UPS = 3  # calls before a recording, in which kernels are loaded and libraries take their workspace
_ROOM_BYTES = 2 * 1024**3  # 8 slots of SDXL at 1024² take 1.2 GiB, counted


class CudaRecorder:
    """The recorder of one GPU; its recordings share their working memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: Any = None

    def record(self, run: Callable[[], torch.Tensor]) -> "CudaRecording":
        """Warm ``run`` up on the recorder's stream, then capture it."""
        with cuda.runtime.device(self._device):
            # One pool, since replays run one after another on one stream, and inputs and outputs are copied.
            self._pool = self._pool or cuda.runtime.graph_pool()
            # Urgent, because a graph's kernels keep the priority of the stream that they were captured on.
            self._stream = self._stream or cuda.runtime.stream(self._device, priority=-1)
            calling = cuda.runtime.current_stream(self._device)
            self._stream.wait_stream(calling)
            try:
                return self._capture(run)
            finally:  # also after a failure: the warm-ups may still read what the caller is about to free
                calling.wait_stream(self._stream)

    def _capture(self, run: Callable[[], torch.Tensor]) -> "CudaRecording":
        with cuda.runtime.using(self._stream):
            for _ in range(_WARM_UPS):
                run()
        # While a graph is captured torch cannot give back what other streams have cached; it would run out.
        cuda.runtime.make_room(self._device, _ROOM_BYTES)
        graph = cuda.runtime.graph()
        with cuda.runtime.capturing(graph, pool=self._pool, stream=self._stream):
            output = run()
        return CudaRecording(graph, output)


@dataclass(frozen=True, slots=True, eq=False)
class CudaRecording:
    """A captured CUDA graph and the tensor of its result."""

    graph: Any
    output: torch.Tensor

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self.graph.replay()
