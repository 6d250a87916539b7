"""A CUDA device simulated on the CPU: streams, events, copies and graphs, with every operation checked.

The product's own threads run unchanged on the CPU's memory, so results are right; what is checked is whether
a GPU would have kept the order. A tensor lies on the device if it was moved there by ``.to(device)``, made
there by ``device=``, or comes from an operation on one that does.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from inpaint import cuda
from tests.inpaint.nocard.graph_capture import Pool, SimulatedGraph
from tests.inpaint.nocard.operation import Operation, tensors_in
from tests.inpaint.nocard.race_rules import DEFAULT, Clock, Races

STREAMS = 32  # a priority, handed out in turn, as torch does


class SimulatedEvent:
    """A point of a stream."""

    def __init__(self, device: "SimulatedCuda") -> None:
        self._device = device
        self.clock: Clock = {}
        self._at_s = 0.0

    def record(self, stream: "SimulatedStream | None" = None) -> None:
        stream = stream or self._device.current
        self.clock, self._at_s = self._device.races.mark(stream.name), time.perf_counter()

    def synchronize(self) -> None:
        self._device.races.synchronize(self.clock)

    def query(self) -> bool:
        return all(self._device.races.happened[name] >= at for name, at in self.clock.items())

    def elapsed_time(self, end: "SimulatedEvent") -> float:
        return 1e3 * (end._at_s - self._at_s)


class SimulatedStream:
    """A handle of one of the device's streams; two handles may name the same stream."""

    def __init__(self, device: "SimulatedCuda", name: str, priority: int) -> None:
        self._device = device
        self.name = name
        self.priority = priority

    def record_event(self, event: SimulatedEvent) -> SimulatedEvent:
        event.record(self)
        return event

    def wait_event(self, event: SimulatedEvent) -> None:
        self._device.races.wait(self.name, event.clock)

    def wait_stream(self, other: "SimulatedStream") -> None:
        self._device.races.wait(self.name, self._device.races.mark(other.name))

    def synchronize(self) -> None:
        self._device.refuse_while_captured(self.name, "waits for")
        self._device.races.synchronize(self._device.races.mark(self.name))


class SimulatedCuda(cuda.CudaRuntime):
    """The simulated device; install it with :func:`simulated_cuda`."""

    def __init__(self) -> None:
        super().__init__()
        self.races = Races()
        self.handed_out = {-1: 0, 0: 0}  # priority → streams drawn so far
        self.handles: dict[str, weakref.WeakSet[SimulatedStream]] = {}  # stream → those who hold it now
        self.captures: dict[str, SimulatedGraph] = {}  # stream → the graph being captured on it
        self.recorded = 0
        self.pools: list[Pool] = []
        self._local = threading.local()

    # What the product calls.

    def make_room(self, device: torch.device, size_bytes: int) -> None:
        """Do nothing: the simulated device is never full."""

    def on(self, device: torch.device) -> bool:
        return True

    def stream(self, device: torch.device, *, priority: int) -> SimulatedStream:
        with self.races.lock:
            number = self.handed_out[priority]
            self.handed_out[priority] += 1
        stream = SimulatedStream(self, f"stream {number % STREAMS} of priority {priority}", priority)
        self.handles.setdefault(stream.name, weakref.WeakSet()).add(stream)
        return stream

    def event(self) -> SimulatedEvent:
        return SimulatedEvent(self)

    @contextmanager
    def using(self, stream: Any) -> Iterator[None]:
        if stream is None:
            yield
            return
        before = self.current
        self._local.stream = stream
        try:
            yield
        finally:
            self._local.stream = before

    def keep(self, tensor: torch.Tensor, stream: Any) -> None:
        self.races.keep(tensor, stream.name)

    def _synchronize(self, device: torch.device) -> None:
        for name in list(self.captures):
            self.refuse_while_captured(name, "waits for the whole device during a capture on")
        for name in list(self.races.clocks):
            self.races.synchronize(self.races.mark(name))

    def upload(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        return host if self.holds(host) else super().upload(host, device)

    def device(self, device: torch.device) -> AbstractContextManager[Any]:
        return nullcontext()

    def current_stream(self, device: torch.device) -> SimulatedStream:
        return self.current

    def graph_pool(self) -> Pool:
        self.pools.append(Pool())
        return self.pools[-1]

    def graph(self) -> SimulatedGraph:
        return SimulatedGraph(self)

    @contextmanager
    def capturing(self, graph: SimulatedGraph, *, pool: Pool, stream: Any) -> Iterator[None]:
        self._check_capture(stream)
        with self.using(stream):
            self.captures[stream.name] = self._local.graph = graph
            graph.begin(stream, pool)
            try:
                yield
            finally:
                self._local.graph = None
                del self.captures[stream.name]
                graph.end()
        self.recorded += 1

    # What the simulation calls.

    @property
    def current(self) -> SimulatedStream:
        """The stream that this thread launches on."""
        found: SimulatedStream | None = getattr(self._local, "stream", None)
        return found or SimulatedStream(self, DEFAULT, 0)

    @property
    def capture(self) -> SimulatedGraph | None:
        """The graph that this thread captures."""
        graph: SimulatedGraph | None = getattr(self._local, "graph", None)
        return graph

    def holds(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor lies on the device."""
        made_by_capture = self.capture is not None and self.capture.has(tensor)
        return made_by_capture or self.races.known(tensor) is not None

    def refuse_while_captured(self, name: str, what: str) -> None:
        """Fail as CUDA does (error 900) if a stream is being captured, and end that capture."""
        graph = self.captures.get(name)
        if graph is not None:
            self.races.report(
                "G1", f"{threading.current_thread().name.rstrip('0123456789_')} {what} a capture"
            )
            graph.spoilt = "operation failed due to a previous error during capture"
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")

    def _check_capture(self, stream: SimulatedStream) -> None:
        others = set(self.handles.get(stream.name, ())) - {stream, self.current}
        if others or stream.name == DEFAULT:
            self.races.report("G2", "captures on a stream that another thread uses")
        if stream.priority != -1:
            self.races.report("G3", "captures on a stream that is not urgent, so replays are not")

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Run operations of the simulation itself."""
        before, self._local.unseen = getattr(self._local, "unseen", False), True
        try:
            yield
        finally:
            self._local.unseen = before

    @contextmanager
    def careless(self) -> Iterator[None]:
        """Run operations that may read half-written memory, because nobody uses their results."""
        self._local.careless = True
        try:
            yield
        finally:
            self._local.careless = False

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation of torch, and check it."""
        local, memories = self._local, self.races.memories
        if getattr(local, "unseen", False):
            return func(*args, **kwargs)
        inputs = tensors_in(args) + tensors_in(kwargs.values()) if kwargs else tensors_in(args)
        on_device = [tensor for tensor in inputs if tensor.untyped_storage()._cdata in memories]
        graph = self.capture
        if graph is not None and (on_device or any(graph.has(tensor) for tensor in inputs)):
            return graph.run(func, args, kwargs)
        result = func(*args, **kwargs)
        if not on_device:
            return result
        operation = Operation.of(func, args, kwargs, inputs, result)
        if operation.moves:  # copy.deepcopy gives a tensor the memory that it copied
            self.races.operate(self.current.name, (), (), [result])
        elif all(memories[tensor.untyped_storage()._cdata].host for tensor in on_device):
            self.races.touched(inputs, operation.writes)
        elif func._schema.name == "aten::copy_" and len(on_device) == 1:
            self._copied(*args[:2], wait=not (kwargs.get("non_blocking") or args[2:] == (True,)))
        elif not operation.view:
            self._launched(operation, on_device)
        return result

    def _launched(self, operation: Operation, reads: list[torch.Tensor]) -> None:
        stream = self.current.name
        self.refuse_while_captured(stream, "launches a kernel into")
        reads = reads if operation.reads and not getattr(self._local, "careless", False) else []
        self.races.operate(stream, reads, operation.writes, operation.made)
        if operation.waits:
            self.races.synchronize(self.races.mark(stream))

    def _copied(self, target: torch.Tensor, source: torch.Tensor, *, wait: bool) -> None:
        """Note a copy into memory that exists, between the CPU and the device."""
        to_device, stream = self.holds(target), self.current.name
        number = self.races.operate(stream, [] if to_device else [source], [target] if to_device else [])
        if not wait:
            self.races.copying(source if to_device else target, stream, number, to_host=not to_device)
        elif not to_device:
            self.races.synchronize(self.races.mark(stream))

    def moved(
        self, source: torch.Tensor, result: torch.Tensor, *, to_device: bool, wait: bool
    ) -> torch.Tensor:
        """Copy a tensor between the CPU and the device, and return the copy."""
        with self.unseen():
            shared = source.untyped_storage()._cdata == result.untyped_storage()._cdata
            result = result.clone() if shared else result
        if self.capture is not None:
            self.capture.refuse("copies between the CPU and the device")
        stream = self.current.name
        number = self.races.operate(stream, [] if to_device else [source], (), [result] if to_device else ())
        if not wait:
            self.races.copying(source if to_device else result, stream, number, to_host=not to_device)
        elif not to_device:
            self.races.synchronize(self.races.mark(stream))
        return result

    def adopt(self, *modules: torch.nn.Module) -> None:
        """Have the parameters and buffers of modules lie on the device, complete."""
        for module in modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                self.races.add(tensor, DEFAULT, (DEFAULT, 0))


class Watch(TorchDispatchMode):
    """Passes every operation of one thread to the device."""

    def __init__(self, device: SimulatedCuda) -> None:
        super().__init__()
        self._device = device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # a wrapper around each operation, for a compiler that is not used here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._device.run(func, args, kwargs or {})


@contextmanager
def simulated_cuda() -> Iterator[SimulatedCuda]:
    """Have the product run on a simulated device: this thread, and every thread that starts in the block."""
    device = SimulatedCuda()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "runtime", device)
        run = threading.Thread.run

        def watched(thread: threading.Thread) -> None:
            with Watch(device):
                run(thread)

        patch.setattr(threading.Thread, "run", watched)
        _patch_copies(device, patch)
        _patch_factories(device, patch)
        with Watch(device):
            yield device


def _patch_copies(device: SimulatedCuda, patch: pytest.MonkeyPatch) -> None:
    """Tell copies between the CPU and the device apart, which are nothing on a CPU."""
    to, cpu, tolist = torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.tolist

    def moving(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = to(tensor, *args, **kwargs)
        target = _target(device, args, kwargs)
        if target is None or target == device.holds(tensor) or _quiet(device):
            return result
        # ``.to(device, dtype)`` has been seen as an operation of the CPU or of the device; now it is a copy.
        wait = not kwargs.get("non_blocking", False)
        return device.moved(tensor, result, to_device=target, wait=wait)

    def fetched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not device.holds(tensor) or _quiet(device):
            return cpu(tensor, *args, **kwargs)
        return device.moved(tensor, tensor, to_device=False, wait=True)

    def listed(tensor: torch.Tensor) -> Any:
        return tolist(tensor.cpu())

    patch.setattr(torch.Tensor, "to", moving, raising=False)
    patch.setattr(torch.Tensor, "cpu", fetched, raising=False)
    patch.setattr(torch.Tensor, "tolist", listed, raising=False)
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor.clone(), raising=False)


def _quiet(device: SimulatedCuda) -> bool:
    return bool(getattr(device._local, "unseen", False))


def _target(device: SimulatedCuda, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
    """Return whether ``.to`` goes to the device: the product names it by an object, and the CPU as "cpu"."""
    for value in (*args, kwargs.get("device"), kwargs.get("other")):
        if isinstance(value, str):
            return False
        if isinstance(value, torch.device):
            return True
        if isinstance(value, torch.Tensor):
            return device.holds(value)
    return None


def _patch_factories(device: SimulatedCuda, patch: pytest.MonkeyPatch) -> None:
    """See tensors that are made on the device."""
    for name in ("tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "randn"):
        patch.setattr(torch, name, _placed(device, getattr(torch, name), copied=name == "tensor"))


def _placed(
    device: SimulatedCuda, make: Callable[..., torch.Tensor], *, copied: bool
) -> Callable[..., torch.Tensor]:
    def making(*args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs.pop("pin_memory", None)  # which only a build for CUDA has
        result = make(*args, **kwargs)
        place = kwargs.get("device")
        if not isinstance(place, torch.device) or place.type != "cpu" or _quiet(device):
            return result
        if device.capture is None:
            device.races.operate(device.current.name, (), (), [result])
        elif copied:
            device.capture.refuse("copies numbers to the device")
        else:
            device.capture.made_by_kernel(result)
        return result

    return making
