"""A CUDA graph that is simulated: it records operations, runs them again, and checks the rules of captures.

G1  No other thread waits for the whole device, or uses the stream, during a capture.
G2  The captured stream is no other thread's.
G3  Its priority is the urgent one, which replays have for good.
G4  Nothing captured waits: no number is read, nothing is copied between the CPU and the device.
G5  Memory that a capture reads is alive at each replay, at the same address.
G6  Nothing that a capture makes outlives it but its result.
G7  A pool of working memory serves captures on one stream only; on another it reserves its memory again.
"""

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tests.inpaint.nocard.operation import Operation, signature, tensors_in
from tests.inpaint.nocard.race_rules import Memory

if TYPE_CHECKING:
    from tests.inpaint.nocard.simulated_cuda import SimulatedCuda, SimulatedStream


class Slot(NamedTuple):
    """A tensor that the capture made, by its number."""

    number: int


class Address(NamedTuple):
    """A tensor from outside, which the capture knows by its address alone."""

    storage: "weakref.ref[Any]"
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> torch.Tensor | None:
        """Return the tensor that lies there; None if its memory is gone."""
        storage = self.storage()
        if storage is None:
            return None
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class _Step(NamedTuple):
    func: Any
    args: Any
    kwargs: Any
    made: tuple[int, ...]  # the slots of the results


class Pool:
    """Working memory that recordings share; a block is reused only on the stream that it was made on."""

    def __init__(self) -> None:
        self.reserved: dict[str, int] = {}  # stream → bytes
        self.graphs: weakref.WeakSet[SimulatedGraph] = weakref.WeakSet()


class SimulatedGraph:
    """A recording, begun and ended by ``SimulatedCuda.capturing``."""

    def __init__(self, device: "SimulatedCuda") -> None:
        self._device = device
        self._steps: list[_Step] = []
        self._slots: list[weakref.ref[torch.Tensor]] = []
        self._alive: dict[int, int] = {}  # storage → bytes, of those made and not freed
        self._addresses: dict[int, Address] = {}  # by storage, one of each
        self._priority = 0
        self._peak = 0
        self.stream = ""
        self._pool = Pool()
        self.spoilt = ""

    def begin(self, stream: "SimulatedStream", pool: Pool) -> None:
        """Start to record on a stream."""
        self._priority, self.stream, self._pool = stream.priority, stream.name, pool
        if pool.reserved and stream.name not in pool.reserved:
            self._device.races.report("G7", "captures with one pool on a second stream")

    def end(self) -> None:
        """Stop, and reserve the working memory of the recording in its pool."""
        # What other recordings on this stream hold cannot be used again.
        held = sum(graph.outlives for graph in self._pool.graphs if graph.stream == self.stream)
        reserved = self._pool.reserved
        reserved[self.stream] = max(reserved.get(self.stream, 0), held + self._peak)
        if len(self._alive) > 1:
            self._device.races.report("G6", f"{len(self._alive) - 1} tensors outlive the capture")
        self._pool.graphs.add(self)
        if self.spoilt:
            raise RuntimeError(self.spoilt)

    @property
    def outlives(self) -> int:
        """Bytes of the pool that are in use while the recording exists."""
        return sum(self._alive.values())

    def has(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor was made by this capture."""
        return getattr(tensor, "captured_by", None) is self

    def refuse(self, what: str) -> None:
        """Report something that cannot be captured, and fail as CUDA does."""
        self._device.races.report("G4", what)
        self.spoilt = "operation not permitted when stream is capturing"
        raise torch.AcceleratorError(f"CUDA error: {self.spoilt}")

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run and record an operation."""
        known = signature(func)
        if known.waits:
            self.refuse(f"{func} waits for a result")
        if known.random:
            self.refuse(f"{func} draws random numbers")
        steps = [self._placed(value) for value in args], {k: self._placed(v) for k, v in kwargs.items()}
        result = func(*args, **kwargs)
        results = tensors_in(result if isinstance(result, list | tuple) else (result,))
        operation = Operation.of(func, args, kwargs, tensors_in(args) + tensors_in(kwargs.values()), result)
        made = tuple(self._slot(tensor) for tensor in results)
        for tensor in operation.made:
            self._take(tensor)
        self._steps.append(_Step(func, *steps, made))
        return result

    def made_by_kernel(self, tensor: torch.Tensor) -> None:
        """Record a tensor that a kernel makes of nothing, such as zeros, by its content."""
        self._take(tensor)
        number = self._slot(tensor)
        with self._device.unseen():
            content = tensor.clone()
        self._steps.append(_Step(content.clone, [], {}, (number,)))

    def _take(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive:
            self._alive[storage._cdata] = storage.nbytes()
            self._peak = max(self._peak, self.outlives)
            weakref.finalize(storage, self._alive.pop, storage._cdata, None)

    def _slot(self, tensor: torch.Tensor) -> int:
        tensor.captured_by, tensor.slot = self, len(self._slots)  # type: ignore[attr-defined]
        self._slots.append(weakref.ref(tensor))
        return len(self._slots) - 1

    def _placed(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._placed(item) for item in value]
        if not isinstance(value, torch.Tensor):
            return value
        if self.has(value):
            return Slot(value.slot)  # type: ignore[attr-defined]
        if self._device.races.known(value) is None:
            return value  # a number on the CPU, which a kernel takes by value
        storage = value.untyped_storage()
        address = Address(
            weakref.ref(storage), value.dtype, tuple(value.shape), value.stride(), value.storage_offset()
        )
        self._addresses[storage._cdata] = address
        return address

    def replay(self) -> None:
        """Run the operations again at the same addresses, as one operation of the current stream."""
        device = self._device
        with device.unseen(), torch.inference_mode():
            read = [address.tensor() for address in self._addresses.values()]
            if any(tensor is None for tensor in read):
                device.races.report("G5", "a replay reads memory that is gone")
                return
            if device.current.priority < self._priority:
                device.races.report("G3", "a replay is less urgent than the stream that it is launched on")
            slots: dict[int, Any] = {}
            for step in self._steps:
                self._again(step, slots)
            results = [
                (tensor, slots[i]) for i, ref in enumerate(self._slots) if (tensor := ref()) is not None
            ]
            for tensor, value in results:
                tensor.copy_(value)
            for tensor, _ in results:
                memory: Memory = device.races.add(tensor, None, (device.current.name, 0))
                memory.made = None
        written = [tensor for tensor, _ in results]
        device.races.operate(device.current.name, [tensor for tensor in read if tensor is not None], written)

    def _again(self, step: _Step, slots: dict[int, Any]) -> None:
        args = [_found(value, slots) for value in step.args]
        kwargs = {name: _found(value, slots) for name, value in step.kwargs.items()}
        result = step.func(*args, **kwargs)
        results = tensors_in(result if isinstance(result, list | tuple) else (result,))
        slots.update(zip(step.made, results, strict=True))


def _found(value: Any, slots: dict[int, Any]) -> Any:
    if isinstance(value, Slot):
        return slots[value.number]
    if isinstance(value, Address):
        return value.tensor()
    return [_found(item, slots) for item in value] if isinstance(value, list) else value
