"""The UNet compiled in a thread of its own, while the caller uses the uncompiled one.

First its repeated blocks alone (seconds), then the whole UNet (minutes for SDXL), in the order that
:mod:`inpaint.fast.rounds` gives. Shapes are compiled one by one, compared with the uncompiled UNet on random
numbers, and then used. A call of another shape stays uncompiled: the caller's thread never compiles anything.
If a compilation fails, one warning is logged, the pictures are painted as before, and it is tried once more
later.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Any

import torch

from inpaint import cuda
from inpaint.batching.work import Bucket
from inpaint.fast import torch_compile
from inpaint.fast.rounds import STAGES, Round, rounds_of
from inpaint.fast.shapes import SLOTS, Shape, example, pad, padded_slots, shape_of
from inpaint.fast.shared_copy import shared_copy
from inpaint.fast.torch_compile import Backend, can, inductor
from inpaint.gpu_errors import is_fatal, is_out_of_memory
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain

__all__ = ["Compiled", "can", "wrap"]

Build = Callable[[Any], Forward]  # a UNet → its forward pass

_log = logging.getLogger(__name__)
_INTERRUPTED_EVERY_S = 1.0
_IDLE_S = 1.0  # without calls, after which the engine counts as idle
_PATIENCE_S = 60.0  # a busy engine gets its larger calls compiled all the same, one a minute
_ATTEMPTS = 2
_AGAIN_AFTER_S = 120.0  # by then what filled the memory may be gone
_TOLERANCE = {torch.float32: 1e-3}  # relative, of one call
_TOLERANCE_16_BIT = 5e-2


def wrap(
    model: Model,
    forward: Forward,
    *,
    build: Build = plain,
    buckets: Sequence[Bucket] = (),
    often: int = 1,
    slots: Sequence[int] = SLOTS,
    text_width: int | None = None,
    isolate: Callable[..., None] = lambda *_: None,
    stages: Sequence[str] = STAGES,
    levels: Sequence[str] = (),
    backend: Backend = inductor,
    also: Callable[[threading.Event], None] = lambda _: None,
) -> "Compiled":
    """Return ``forward``, replaced by compiled code for each shape once that is ready.

    Nothing is compiled before :meth:`Compiled.start`.

    Args:
        model: the model whose UNet is compiled, resident and without hooks.
        forward: the uncompiled forward pass, whose result compiled code must have.
        build: makes a forward pass like ``forward`` of a copy of the UNet.
        buckets: latent sizes to compile for, in this order; the native square if empty.
        often: how many of them are frequent, and compiled whole.
        slots: slots to compile for, in this order; calls between are padded where that is worth it.
        text_width: width of the calls' text embeddings; 0 under ``text-kv``, the model's own if None.
        isolate: makes copies of the UNet independent of what calls write, so that they can be compared.
        stages: the stages to compile, of ``STAGES``.
        levels: the kinds of calls that keep the deepest level or bring it, of ``LEVELS``.
        backend: compiles a graph.
        also: compiles something else in the same thread, before the rounds that wait until the engine is
            idle; called with an event that ends it.
    """
    rounds = rounds_of(model, buckets, often, slots, text_width, stages, levels)
    return Compiled(model, forward, build, rounds, isolate, backend, also)


@dataclass(frozen=True, slots=True, eq=False)
class _Staged:
    """A compiled forward pass and the stage that it belongs to."""

    stage: str
    forward: Forward


class _Ran(threading.local):
    """The number of compiled graphs that ran in this thread."""

    graphs = 0


class Compiled:
    """A :data:`Forward` that gets faster. Calls come from one thread; the other methods may from any."""

    def __init__(
        self,
        model: Model,
        forward: Forward,
        build: Build,
        rounds: Sequence[Round],
        isolate: Callable[..., None],
        backend: Backend,
        also: Callable[[threading.Event], None],
    ) -> None:
        self._model = model
        self._eager = forward
        self._build = build
        self._isolate = isolate
        # To compile; only the compiling thread changes it.
        self._left = {each: list(each.shapes) for each in rounds}
        self._backend = backend
        self._also = also
        self._called_at = -inf  # by the monotonic clock
        # Replaced, never changed, because two threads read it.
        self._forwards: Mapping[Shape, _Staged] = MappingProxyType({})
        self._failure = ""
        self._ran = _Ran()
        self._stopping = threading.Event()
        self._settled = threading.Event()  # nothing is left to compile
        self._lock = threading.Lock()  # held while the forwards are replaced
        self._thread: threading.Thread | None = None
        self._attempts = 0
        self._again_at = inf  # by the monotonic clock: when to try once more what failed

    @property
    def state(self) -> str:
        """``eager``, ``regional`` or ``whole``, the best in use; ``failed: …`` if none is."""
        stages = set(self.ready.values())
        failed = f"failed: {self._failure}" if self._failure else "eager"
        return next((stage for stage in reversed(STAGES) if stage in stages), failed)

    @property
    def ready(self) -> Mapping[Shape, str]:
        """Shapes that run compiled, and the stage of each: ``regional`` or ``whole``."""
        return {shape: staged.stage for shape, staged in self._forwards.items()}

    def code(self, shape: Shape) -> Hashable:
        """Return an identity of the code that calls of this shape run; it changes when other code is used."""
        forwards = self._forwards
        size = _ready_size(shape, forwards)
        return None if size is None else (size, forwards[shape._replace(slots=size)])

    def start(self) -> None:
        """Begin to compile, once; the UNet's modules must not change any more."""
        if self._thread is None:
            torch_compile.keep_on_disk()
            self._begin()

    def _begin(self) -> None:
        self._attempts += 1
        self._again_at = inf
        # Not a daemon: one that is still in C++ when the interpreter ends crashes the process.
        self._thread = threading.Thread(target=self._run, name="inpaint-compile")
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until nothing is left to compile, or ``timeout_s`` has passed; return the state."""
        self._settled.wait(timeout_s)
        return self.state

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop compiling; wait at most ``timeout_s`` for what cannot be interrupted, such as g++."""
        self._stopping.set()
        end = time.monotonic() + timeout_s
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < end:
            with self._lock:
                if not self._settled.is_set():
                    torch_compile.interrupt(self._thread)
            self._thread.join(min(_INTERRUPTED_EVERY_S, timeout_s))

    def __call__(self, batch: UNetBatch) -> torch.Tensor:
        """Return the noise prediction (n, 4, h, w), from compiled code if there is some for this shape."""
        self._called_at = time.monotonic()
        if self._called_at >= self._again_at and not self._stopping.is_set():
            self._settled.clear()
            self._begin()
        shape, forwards = shape_of(batch), self._forwards
        size = _ready_size(shape, forwards)
        if size is None:
            return self._eager(batch)
        padded = shape._replace(slots=size)
        return self._call(padded, forwards[padded], batch)

    def _call(self, shape: Shape, staged: _Staged, batch: UNetBatch) -> torch.Tensor:
        settled, before = self._settled.is_set(), self._ran.graphs
        try:
            with torch.inference_mode(), torch_compile.uncompiled_while_tracing():
                out = staged.forward(pad(batch, shape.slots))[: batch.sample.shape[0]]
        except RuntimeError as error:
            if is_out_of_memory(error) or is_fatal(error):
                raise
            out = self._eager(batch)  # if this raises as well, the call is at fault, not the compiler
            self._drop(shape, f"compiled code failed ({_one_line(error)})")
        else:
            if settled and self._ran.graphs == before:
                self._drop(shape, "the compiled code does not fit the calls (were torch's settings changed?)")
        return out

    def _drop(self, shape: Shape, reason: str) -> None:
        self._use(shape, None)
        self._fail(reason)

    def _use(self, shape: Shape, staged: _Staged | None) -> None:
        with self._lock:
            others = {other: used for other, used in self._forwards.items() if other != shape}
            self._forwards = MappingProxyType(others if staged is None else {**others, shape: staged})

    def _fail(self, reason: str) -> None:
        """Log a warning, the first time; code that is compiled already stays in use."""
        if not self._failure:
            _log.warning("the UNet is not compiled, or only in part, so pictures take longer: %s", reason)
        self._failure = self._failure or reason

    # From here on: the compiling thread.

    def _run(self) -> None:
        try:
            try:
                self._compile_all()
            finally:
                with self._lock:
                    self._settled.set()  # from here on close() interrupts nothing
        except torch_compile.Interruption:
            self._settled.set()

    def _compile_all(self) -> None:
        try:
            with cuda.runtime.device(self._model.device):
                unet = self._model.unet
                rounds = [each for each, shapes in self._left.items() if shapes]
                copies = {each: (shared_copy(unet), shared_copy(unet)) for each in rounds}
                reference = shared_copy(unet)
                self._isolate(*(trial for trial, _ in copies.values()), reference)
                with torch.inference_mode(), torch_compile.many_shapes():
                    torch_compile.protect_other_threads()
                    for now in (each for each in rounds if not each.idle):
                        self._compile(now, *copies[now], self._build(reference))
                    self._compile_others()
                    for later in (each for each in rounds if each.idle):
                        self._compile(later, *copies[later], self._build(reference))
        except _WrongCodeError as error:
            self._left = {}  # the compiler would make the same code again
            self._fail(_one_line(error))
        except Exception as error:  # noqa: BLE001 - a compiler may raise anything, and pictures can do without
            if not self._stopping.is_set():
                self._fail(_one_line(error))
        if not any(self._left.values()):
            return
        if self._attempts < _ATTEMPTS:
            self._again_at = time.monotonic() + _AGAIN_AFTER_S

    def _compile_others(self) -> None:
        """Compile what belongs to the model besides the UNet, once."""
        also, self._also = self._also, lambda _: None
        with cuda.runtime.waiting():  # kernels are timed
            also(self._stopping)

    def _compile(self, of: Round, trial: Any, serving: Any, eager: Forward) -> None:
        """Compile each shape of a round with ``trial``, then let calls use that code through ``serving``."""
        left = self._left[of]
        if not torch_compile.parts(of.stage, trial):
            left.clear()
            return
        torch_compile.compiling(torch_compile.parts(of.stage, trial), self._counted)
        torch_compile.compiled_only(torch_compile.parts(of.stage, serving))
        compiled, staged = self._build(trial), _Staged(of.stage, self._build(serving))
        for shape in tuple(left):
            if of.idle:
                self._wait_until_idle()
            if self._stopping.is_set():
                return
            try:
                with cuda.runtime.waiting():  # kernels are timed
                    self._try(compiled, eager, shape)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                _log.info("calls of %d slots are not compiled yet: %s", shape.slots, _one_line(error))
                continue
            left.remove(shape)
            if STAGES.index(of.stage) >= STAGES.index(self.ready.get(shape, STAGES[0])):
                self._use(shape, staged)

    def _wait_until_idle(self) -> None:
        """Wait until no call has come for a while: compiling takes the interpreter and memory from them."""
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < min(self._called_at + _IDLE_S, end):
            if self._stopping.wait(_IDLE_S / 10):
                return

    def _try(self, compiled: Forward, eager: Forward, shape: Shape) -> None:
        """Compile one shape, and compare its result with the uncompiled one."""
        batch, tolerance = example(self._model, shape), _TOLERANCE.get(shape.dtype, _TOLERANCE_16_BIT)
        self._make_code(compiled, batch)
        with self._model.weights_lock:  # no LoRA may be switched meanwhile: that would look like wrong code
            out, expected = _results(compiled, batch), _results(eager, batch)
            error = float((out - expected).norm() / expected.norm())
        # "not <=", so that NaN counts as an error. Random numbers may overflow 16 bit in some model: then
        # there is nothing to compare with.
        if not error <= tolerance and bool(expected.isfinite().all()):
            raise _WrongCodeError(f"compiled code is off by {error:.1e} at {shape.slots} slots")

    def _make_code(self, compiled: Forward, batch: UNetBatch) -> None:
        """Compile by a call whose result is thrown away: LoRAs may be switched in the middle of it."""
        compiled(batch)

    def _counted(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Compile a graph and count its calls, because torch silently skips code that does not fit."""
        if self._stopping.is_set():
            raise torch_compile.Interruption
        compiled = self._backend(graph, inputs)

        def run(*args: Any) -> Any:
            self._ran.graphs += 1
            return compiled(*args)

        return run


class _WrongCodeError(Exception):
    """Compiled code gives another result than the UNet."""


def _ready_size(shape: Shape, forwards: Mapping[Shape, _Staged]) -> int | None:
    """Return the number of slots, of those with compiled code, that a call of ``shape`` is padded to."""
    sizes = [ready.slots for ready in forwards if ready._replace(slots=shape.slots) == shape]
    return padded_slots(shape.slots, sizes)


def _results(forward: Forward, batch: UNetBatch) -> torch.Tensor:
    """Return all that a call computes as one vector: the prediction, and the deepest level if it keeps it."""
    found: list[torch.Tensor] = []
    take = None if batch.take_deep is None else found.append
    out = forward(replace(batch, take_deep=take))
    return torch.cat([tensor.float().flatten() for tensor in (out, *found)])


def _one_line(error: BaseException) -> str:
    """Return the error in one line: the innermost one, which torch wraps into others that say less."""
    while (inner := getattr(error, "inner_exception", None)) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
