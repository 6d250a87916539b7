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

from inpaint import cuda
from inpaint.fast.graph_recorder import CudaRecorder
from inpaint.fast.shapes import SLOTS, Shape, pad, padded_slots, shape_of
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch

_log = logging.getLogger(__name__)
_AFTER = 3  # calls of one shape before it is recorded; recording costs as much as five calls
_REMEMBERED = 64  # shapes whose calls are counted
_REST = 200  # calls after a failed recording until the next attempt; doubled by each failure


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
    version: Callable[[Shape], Hashable] = lambda _: None,
    recorder: Recorder | None = None,
) -> "Graphs":
    """Return ``forward`` with its calls recorded and replayed.

    Args:
        model: the model whose UNet ``forward`` calls.
        forward: must depend on nothing but the tensors of its batch and of the UNet, at their addresses.
        slots: sizes of the calls that are recorded; calls between are padded where that is worth it.
        max_graphs: recordings held at most; the least recently used is dropped. They share working memory.
        version: changes when ``forward`` runs other code for a shape (``compiled.code``); its calls are then
            recorded anew.
        recorder: the model's device records if None.
    """
    return Graphs(forward, recorder or CudaRecorder(model.device), slots, max_graphs, version)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    version: Hashable
    inputs: UNetBatch  # at the addresses that the recording reads
    recording: Recording
    shapes: Sequence[torch.Size]  # of the results that one tensor holds

    def results(self) -> list[torch.Tensor]:
        """Return the prediction, and the deepest level if the call keeps it, in the recording's memory."""
        found, end = [], 0
        for shape in self.shapes:
            first, end = end, end + shape.numel()
            found.append(self.recording.output[first:end].view(shape))
        return found


class Graphs:
    """A :data:`Forward` that replays recorded calls; used by one thread."""

    def __init__(
        self,
        forward: Forward,
        recorder: Recorder,
        slots: Sequence[int],
        max_graphs: int,
        version: Callable[[Shape], Hashable],
    ) -> None:
        self._forward = forward
        self._recorder = recorder
        self._slots = tuple(slots)
        self._max_graphs = max_graphs
        self._version = version
        self._held: OrderedDict[Shape, _Held] = OrderedDict()  # least recently used first
        self._calls: OrderedDict[Shape, int] = OrderedDict()
        self._failure = ""
        self._failures = 0  # since the last success
        self._rest = 0  # calls until a recording may be attempted again

    @property
    def state(self) -> str:
        """``recording``, or ``failed: …`` from a failed recording on until one succeeds."""
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
            prediction, *level = held.results()
            if batch.take_deep is not None:
                batch.take_deep(level[0][: shape.slots])
            # Cloned, because the next replay of any recording writes into this memory.
            return prediction[: shape.slots].clone()

    def _holding(self, shape: Shape, batch: UNetBatch) -> _Held | None:
        """Return the recording of this shape, making it after enough calls; None until then."""
        version = self._version(shape)
        held = self._held.get(shape)
        if held is not None and held.version == version:
            self._held.move_to_end(shape)
            return held
        self._held.pop(shape, None)
        if not (self._often(shape) and self._rested()):
            return None
        with cuda.runtime.recording() as free:
            if free:
                return self._attempt(shape, version, batch)
        self._rest = 0  # another thread compiles; what failed before may succeed once it has finished
        return None

    def _attempt(self, shape: Shape, version: Hashable, batch: UNetBatch) -> _Held | None:
        try:
            return self._record(shape, version, batch)
        except RuntimeError as error:  # also torch's out-of-memory and CUDA errors
            self._fail((str(error).splitlines() or [""])[0])
            return None

    def _record(self, shape: Shape, version: Hashable, batch: UNetBatch) -> _Held:
        while len(self._held) >= self._max_graphs:
            self._held.popitem(last=False)
        level = _Level()
        inputs = _own(pad(batch, shape.slots), level)

        def run() -> torch.Tensor:
            return level.joined(self._forward(inputs))

        recording = self._recorder.record(run)
        self._held[shape] = made = _Held(version, inputs, recording, level.shapes)
        self._failure, self._failures = "", 0
        return made

    def _fail(self, reason: str) -> None:
        """Stop recording for a while: memory may be full, or another program may use the GPU."""
        if not self._failures:
            _log.warning("a CUDA graph was not recorded, small pictures take longer: %s", reason)
        self._failure, self._rest = reason, _REST << self._failures
        self._failures = min(self._failures + 1, 10)

    def _rested(self) -> bool:
        """Count a call of those that are let pass after a failure; return whether there were enough."""
        self._rest = max(self._rest - 1, 0)
        return self._rest == 0

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


class _Level:
    """The deepest level of a call that is recorded, if the call keeps it: a recording has one result."""

    def __init__(self) -> None:
        self.shapes: tuple[torch.Size, ...] = ()
        self._found: list[torch.Tensor] = []

    def take(self, output: torch.Tensor) -> None:
        """Hold the level until the call returns."""
        self._found = [output]

    def joined(self, prediction: torch.Tensor) -> torch.Tensor:
        """Return the prediction with the level behind it, both flat; hold nothing."""
        results = [prediction, *self._found]
        self._found = []
        self.shapes = tuple(result.shape for result in results)
        flat = [result.flatten() for result in results]
        return flat[0] if len(flat) == 1 else torch.cat(flat)


def _own(batch: UNetBatch, level: _Level) -> UNetBatch:
    """Return a copy of ``batch`` in memory of its own; a level that it keeps goes to ``level``."""
    copies = {name: getattr(batch, name) for name in _TENSORS}
    own: dict[str, Any] = {name: None if t is None else t.clone() for name, t in copies.items()}
    take = None if batch.take_deep is None else level.take
    return UNetBatch(**own, prompts=batch.prompts, take_deep=take)


_TENSORS = tuple(field.name for field in fields(UNetBatch) if field.name not in ("prompts", "take_deep"))
