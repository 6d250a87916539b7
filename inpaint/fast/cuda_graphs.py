"""UNet calls recorded as CUDA graphs: one launch instead of thousands, for calls too small to fill the GPU.

A recording is special to a shape and to the addresses that it was made with: inputs are copied into its own,
the result out of it. What chooses its way by more than a batch's tensors belongs around this, not inside
(``text_kv`` does: it fills buffers that never move).
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch

from inpaint.fast.shapes import SLOTS, Shape, pad, padded_slots, shape_of
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch

_log = logging.getLogger(__name__)
_AFTER = 3  # calls of one shape before it is recorded, which costs as much as five of them
_REMEMBERED = 64  # shapes whose calls are counted
_WARM_UPS = 3  # calls before a recording, in which kernels are loaded and libraries take their workspace


class Recording(Protocol):
    """A recorded call."""

    @property
    def output(self) -> torch.Tensor:
        """The result of the last replay, in the recording's own memory."""

    def replay(self) -> None:
        """Do it again, with what its inputs hold now."""


class Recorder(Protocol):
    """What records; the seam at which a test puts its own."""

    def record(self, run: Callable[[], torch.Tensor]) -> Recording:
        """Record what ``run`` does on the device.

        Raises:
            RuntimeError: something in it cannot be recorded, or does not fit.
        """


def can(model: Model) -> str:
    """Why ``model`` cannot have it; empty where it can."""
    return "" if model.device.type == "cuda" else "CUDA graphs need a CUDA GPU"


def wrap(
    model: Model,
    forward: Forward,
    *,
    slots: Sequence[int] = SLOTS,
    max_graphs: int = 8,
    version: Callable[[], Hashable] = lambda: None,
    recorder: Recorder | None = None,
) -> "Graphs":
    """``forward``, recorded.

    Args:
        model: whose UNet it leads through.
        forward: depends on the tensors of its batch and on the UNet's, at their addresses; on nothing else.
        slots: of the calls that are recorded; calls between are padded where that is worth it.
        max_graphs: held at once; the one not used for longest goes. They share their working memory.
        version: changes when ``forward`` goes another way (``lambda: compiled.version``); what was recorded
            before is recorded anew.
        recorder: of the model's device if None.
    """
    return Graphs(forward, recorder or CudaRecorder(model.device), slots, max_graphs, version)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    version: Hashable
    inputs: UNetBatch  # at the addresses that the recording reads
    recording: Recording


class Graphs:
    """A :data:`Forward` that replays. It belongs to one thread."""

    def __init__(
        self,
        forward: Forward,
        recorder: Recorder,
        slots: Sequence[int],
        max_graphs: int,
        version: Callable[[], Hashable],
    ) -> None:
        self._forward = forward
        self._recorder = recorder
        self._slots = tuple(slots)
        self._max_graphs = max_graphs
        self._version = version
        self._held: OrderedDict[Shape, _Held] = OrderedDict()  # the one not used for longest first
        self._calls: OrderedDict[Shape, int] = OrderedDict()
        self._failure = ""

    @property
    def state(self) -> str:
        """``recording``, or ``failed: …`` from when on no more is recorded."""
        return f"failed: {self._failure}" if self._failure else "recording"

    @property
    def held(self) -> tuple[Shape, ...]:
        """The shapes that are recorded, the one not used for longest first."""
        return tuple(self._held)

    def __call__(self, batch: UNetBatch) -> torch.Tensor:
        """The noise prediction (n, 4, h, w), from a replay where there is one for this shape."""
        shape = shape_of(batch)
        size = padded_slots(shape.slots, self._slots)
        if size is None:
            return self._forward(batch)
        with torch.inference_mode():
            held = self._holding(shape._replace(slots=size), batch)
            if held is None:
                return self._forward(batch)
            _copy(pad(batch, size), held.inputs)
            held.recording.replay()
            # Out of the recording's memory, which the next replay of any of them writes to.
            return held.recording.output[: shape.slots].clone()

    def _holding(self, shape: Shape, batch: UNetBatch) -> _Held | None:
        """The recording of this shape; made once there have been enough calls of it."""
        version = self._version()
        held = self._held.get(shape)
        if held is not None and held.version == version:
            self._held.move_to_end(shape)
            return held
        self._held.pop(shape, None)
        if self._failure or not self._often(shape):
            return None
        while len(self._held) >= self._max_graphs:
            self._held.popitem(last=False)
        inputs = _own(pad(batch, shape.slots))
        try:
            recording = self._recorder.record(lambda: self._forward(inputs))
        except RuntimeError as error:  # torch's out-of-memory and CUDA errors are of this kind too
            self._failure = (str(error).splitlines() or [""])[0]
            _log.warning("CUDA graphs are off, small pictures take longer: %s", self._failure)
            return None
        self._held[shape] = made = _Held(version, inputs, recording)
        return made

    def _often(self, shape: Shape) -> bool:
        self._calls[shape] = self._calls.pop(shape, 0) + 1
        while len(self._calls) > _REMEMBERED:
            self._calls.popitem(last=False)
        return self._calls[shape] >= _AFTER


def _copy(source: UNetBatch, target: UNetBatch) -> None:
    for name in _TENSORS:
        tensor = getattr(source, name)
        if tensor is not None:  # masked and unmasked calls are of two shapes, so both have one or none
            getattr(target, name).copy_(tensor)


def _own(batch: UNetBatch) -> UNetBatch:
    """A copy of ``batch`` in memory that nothing else has."""
    copies = {name: getattr(batch, name) for name in _TENSORS}
    own: dict[str, Any] = {name: None if t is None else t.clone() for name, t in copies.items()}
    return UNetBatch(**own, prompts=batch.prompts)


_TENSORS = tuple(field.name for field in fields(UNetBatch) if field.name != "prompts")


class CudaRecorder:
    """Records on one GPU, all recordings with the same working memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def record(self, run: Callable[[], torch.Tensor]) -> "CudaRecording":
        """Warm ``run`` up beside the current stream, then capture it."""
        with torch.cuda.device(self._device):
            # Shared: replays follow each other on one stream, inputs are outside, and outputs are copied out.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": another thread may go on allocating (encodes, decodes, compilation).
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                output = run()
        return CudaRecording(graph, output)


@dataclass(frozen=True, slots=True, eq=False)
class CudaRecording:
    """A captured CUDA graph and where its result is."""

    graph: torch.cuda.CUDAGraph
    output: torch.Tensor

    def replay(self) -> None:
        """Launch it on the current stream."""
        self.graph.replay()
