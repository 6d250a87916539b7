"""UNet calls recorded as CUDA graphs: one launch instead of thousands, for calls too small to fill the GPU.

A recording is valid for one shape and for the addresses that it was made with: inputs are copied into its own
tensors, the result out of them. A wrapper that depends on more than a batch's tensors must be outside this
one, like ``cross_attention_cache``, which fills buffers that never move.
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
_AFTER = 3  # calls of one shape before it is recorded; recording costs as much as five calls
_REMEMBERED = 64  # shapes whose calls are counted
_WARM_UPS = 3  # calls before a recording, in which kernels are loaded and libraries take their workspace


class Recording(Protocol):
    """A recorded call."""

    @property
    def output(self) -> torch.Tensor:
        """The result of the last replay, in the recording's own memory."""

    def replay(self) -> None:
        """Run the recorded call again on what its inputs hold now."""


class Recorder(Protocol):
    """The interface of a call recorder; tests have their own."""

    def record(self, run: Callable[[], torch.Tensor]) -> Recording:
        """Record what ``run`` does on the device.

        Raises:
            RuntimeError: something in it cannot be recorded, or does not fit into memory.
        """


def can(model: Model) -> str:
    """Return why ``model`` cannot use it; empty if it can."""
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
    """Return ``forward`` with its calls recorded and replayed.

    Args:
        model: the model whose UNet ``forward`` calls.
        forward: must depend on nothing but the tensors of its batch and of the UNet, at their addresses.
        slots: sizes of the calls that are recorded; calls between are padded where that is worth it.
        max_graphs: recordings held at most; the least recently used is dropped. They share working memory.
        version: changes when ``forward`` runs other code (``lambda: compiled.version``); calls are then
            recorded anew.
        recorder: the model's device records if None.
    """
    return Graphs(forward, recorder or CudaRecorder(model.device), slots, max_graphs, version)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    version: Hashable
    inputs: UNetBatch  # at the addresses that the recording reads
    recording: Recording


class Graphs:
    """A :data:`Forward` that replays recorded calls; used by one thread."""

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
        self._held: OrderedDict[Shape, _Held] = OrderedDict()  # least recently used first
        self._calls: OrderedDict[Shape, int] = OrderedDict()
        self._failure = ""

    @property
    def state(self) -> str:
        """``recording``, or ``failed: …`` once recording has failed and stopped."""
        return f"failed: {self._failure}" if self._failure else "recording"

    @property
    def held(self) -> tuple[Shape, ...]:
        """Shapes that are recorded, the least recently used first."""
        return tuple(self._held)

    def __call__(self, batch: UNetBatch) -> torch.Tensor:
        """Return the noise prediction (n, 4, h, w), from a replay if there is a recording of this shape."""
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
            # Cloned, because the next replay of any recording writes into this memory.
            return held.recording.output[: shape.slots].clone()

    def _holding(self, shape: Shape, batch: UNetBatch) -> _Held | None:
        """Return the recording of this shape, making it after enough calls; None until then."""
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
        except RuntimeError as error:  # also torch's out-of-memory and CUDA errors
            self._failure = (str(error).splitlines() or [""])[0]
            _log.warning("CUDA graphs are off, small pictures take longer: %s", self._failure)
            return None
        self._held[shape] = made = _Held(version, inputs, recording)
        return made

    def _often(self, shape: Shape) -> bool:
        """Count a call of ``shape``, and return whether there have been enough to record it."""
        self._calls[shape] = self._calls.pop(shape, 0) + 1
        while len(self._calls) > _REMEMBERED:
            self._calls.popitem(last=False)
        return self._calls[shape] >= _AFTER


def _copy(source: UNetBatch, target: UNetBatch) -> None:
    for name in _TENSORS:
        tensor = getattr(source, name)
        if tensor is not None:  # masked and unmasked calls differ in shape, so both have one or neither
            getattr(target, name).copy_(tensor)


def _own(batch: UNetBatch) -> UNetBatch:
    """Return a copy of ``batch`` in memory of its own."""
    copies = {name: getattr(batch, name) for name in _TENSORS}
    own: dict[str, Any] = {name: None if t is None else t.clone() for name, t in copies.items()}
    return UNetBatch(**own, prompts=batch.prompts)


_TENSORS = tuple(field.name for field in fields(UNetBatch) if field.name != "prompts")


class CudaRecorder:
    """The recorder of one GPU; its recordings share their working memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def record(self, run: Callable[[], torch.Tensor]) -> "CudaRecording":
        """Warm ``run`` up on a stream of its own, then capture it."""
        with torch.cuda.device(self._device):
            # Shared, because replays run one after another on one stream, and inputs and outputs are copied.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # "thread_local", because other threads may allocate meanwhile (encodes, decodes, compilation).
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                output = run()
        return CudaRecording(graph, output)


@dataclass(frozen=True, slots=True, eq=False)
class CudaRecording:
    """A captured CUDA graph and the tensor of its result."""

    graph: torch.cuda.CUDAGraph
    output: torch.Tensor

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self.graph.replay()
