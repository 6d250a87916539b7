"""The UNet compiled in a thread of its own, while the caller goes on with the uncompiled one.

First its repeated blocks alone (seconds), then the whole of it (minutes for SDXL). Shapes are compiled one by
one, tried against the uncompiled UNet on random numbers, and swapped in. A call of another shape stays
uncompiled: the caller's thread never compiles anything. Where a compilation fails, one warning is logged
and the pictures are painted as before.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from inpaint.batching.work import Bucket
from inpaint.fast import torch_compile
from inpaint.fast.shapes import SLOTS, Shape, example, native, pad, padded_slots, shape_of, usual
from inpaint.fast.shared_copy import shared_copy
from inpaint.fast.torch_compile import Backend, can, inductor
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain

__all__ = ["Compiled", "can", "wrap"]

Build = Callable[[Any], Forward]  # a UNet → the way through it

_log = logging.getLogger(__name__)
STAGES = ("regional", "whole")
_TOLERANCE = {torch.float32: 1e-3}  # relative, of one call
_TOLERANCE_16_BIT = 5e-2


def wrap(
    model: Model,
    forward: Forward,
    *,
    build: Build = plain,
    buckets: Sequence[Bucket] = (),
    slots: Sequence[int] = SLOTS,
    text_width: int | None = None,
    set_apart: Callable[..., None] = lambda *_: None,
    stages: Sequence[str] = STAGES,
    backend: Backend = inductor,
) -> "Compiled":
    """``forward``, with compiled ways through the same UNet in its place once they are ready.

    Nothing is compiled before :meth:`Compiled.start`.

    Args:
        model: whose UNet it is, resident and without hooks.
        forward: the uncompiled way, whose result the compiled ones must have.
        build: makes a way like ``forward`` through a copy of the UNet.
        buckets: latent sizes to compile for, in this order; the native square if empty.
        slots: of a call, to compile for, in this order; calls between are padded where that is worth it.
        text_width: of the embeddings that calls bring; 0 under ``text_kv``, the model's own if None.
        set_apart: has copies of the UNet read nothing that calls meanwhile write, before they are compared.
        stages: what to compile, of ``regional`` and ``whole``.
        backend: what compiles a graph.
    """
    shapes = [usual(model, bucket, n, text_width) for bucket in buckets or [native(model)] for n in slots]
    return Compiled(model, forward, build, shapes, set_apart, stages, backend)


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    stage: str
    forward: Forward


class _Ran(threading.local):
    """Compiled graphs that ran in this thread."""

    graphs = 0


class Compiled:
    """A :data:`Forward` that gets quicker. It is called from one thread; the rest from any."""

    def __init__(
        self,
        model: Model,
        forward: Forward,
        build: Build,
        shapes: Sequence[Shape],
        set_apart: Callable[..., None],
        stages: Sequence[str],
        backend: Backend,
    ) -> None:
        self._model = model
        self._eager = forward
        self._build = build
        self._shapes = tuple(shapes)
        self._set_apart = set_apart
        self._stages = tuple(stages)
        self._backend = backend
        self._ways: Mapping[Shape, _Way] = MappingProxyType(
            {}
        )  # replaced, never changed: two threads read it
        self._failure = ""
        self._version = 0
        self._ran = _Ran()
        self._stopping = threading.Event()
        self._settled = threading.Event()  # nothing is being compiled any more
        self._lock = threading.Lock()  # for who replaces the ways
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> str:
        """``eager``, ``regional`` or ``whole`` by the best in use, or ``failed: …`` where none is."""
        stages = set(self.ready.values())
        failed = f"failed: {self._failure}" if self._failure else "eager"
        return next((stage for stage in reversed(STAGES) if stage in stages), failed)

    @property
    def ready(self) -> Mapping[Shape, str]:
        """The shapes that run compiled, and whether ``regional`` or ``whole``."""
        return {shape: way.stage for shape, way in self._ways.items()}

    @property
    def version(self) -> int:
        """Another number whenever another way is in use for some shape."""
        return self._version

    def start(self) -> None:
        """Begin to compile, once: when the UNet's modules are as they will stay."""
        if self._thread is None:
            torch_compile.keep_on_disk()
            unet = self._model.unet
            trees, reference = (
                {name: (shared_copy(unet), shared_copy(unet)) for name in self._stages},
                shared_copy(unet),
            )
            self._set_apart(*(trial for trial, _ in trees.values()), reference)
            # No daemon: one that is still in C++ while the interpreter ends takes the process down with it.
            self._thread = threading.Thread(target=self._run, args=(trees, reference), name="inpaint-compile")
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until nothing is left to compile, or the time is up; the state then."""
        self._settled.wait(timeout_s)
        return self.state

    def close(self, timeout_s: float = 10.0) -> None:
        """Compile nothing more. What cannot be cut short (g++ at work) is waited for, but no longer."""
        self._stopping.set()
        with self._lock:
            if self._thread is not None and not self._settled.is_set():
                torch_compile.interrupt(self._thread, _Stopped)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def __call__(self, batch: UNetBatch) -> torch.Tensor:
        """The noise prediction (n, 4, h, w), by compiled code where there is some for this shape."""
        shape, ways = shape_of(batch), self._ways
        sizes = [ready.slots for ready in ways if ready._replace(slots=shape.slots) == shape]
        size = padded_slots(shape.slots, sizes)
        if size is None:
            return self._eager(batch)
        padded = shape._replace(slots=size)
        return self._through(padded, ways[padded], batch)

    def _through(self, shape: Shape, way: _Way, batch: UNetBatch) -> torch.Tensor:
        settled, before = self._settled.is_set(), self._ran.graphs
        try:
            with torch.inference_mode(), torch_compile.uncompiled_while_tracing():
                out = way.forward(pad(batch, shape.slots))[: batch.sample.shape[0]]
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            out = self._eager(batch)  # where this raises as well, the call was at fault and not the compiler
            self._drop(shape, f"compiled code failed ({_line(error)})")
        else:
            if settled and self._ran.graphs == before:
                self._drop(shape, "the compiled code does not fit the calls (were torch's settings changed?)")
        return out

    def _drop(self, shape: Shape, reason: str) -> None:
        self._use(shape, None)
        self._fail(reason)

    def _use(self, shape: Shape, way: _Way | None) -> None:
        with self._lock:
            others = {other: way for other, way in self._ways.items() if other != shape}
            self._ways = MappingProxyType(others if way is None else {**others, shape: way})
            self._version += 1

    def _fail(self, reason: str) -> None:
        """Warn, the first time; what is compiled already stays in use."""
        if not self._failure:
            _log.warning("the UNet is not compiled, or not all of it; pictures take longer: %s", reason)
        self._failure = self._failure or reason

    # Below here: the compiling thread.

    def _run(self, trees: Mapping[str, tuple[Any, Any]], reference: Any) -> None:
        try:
            try:
                self._compile_all(trees, reference)
            finally:
                with self._lock:
                    self._settled.set()  # from here on close() interrupts no more
        except _Stopped:
            self._settled.set()

    def _compile_all(self, trees: Mapping[str, tuple[Any, Any]], reference: Any) -> None:
        try:
            with _on(self._model.device), torch.inference_mode(), torch_compile.many_shapes():
                torch_compile.spare_the_others()
                for stage, (trial, serving) in trees.items():
                    self._compile(stage, trial, serving, self._build(reference))
        except Exception as error:  # noqa: BLE001 - a compiler fails with anything; the pictures need none of it
            if not self._stopping.is_set():
                self._fail(_line(error))

    def _compile(self, stage: str, trial: Any, serving: Any, eager: Forward) -> None:
        """Compile each shape through ``trial``, then let calls through ``serving`` use that."""
        if not torch_compile.parts(stage, trial):
            return
        torch_compile.compiling(torch_compile.parts(stage, trial), self._counted)
        torch_compile.compiled_only(torch_compile.parts(stage, serving))
        compiled, way = self._build(trial), _Way(stage, self._build(serving))
        for shape in self._shapes:
            if self._stopping.is_set():
                return
            try:
                self._try(compiled, eager, shape)
            except torch.OutOfMemoryError as error:
                _log.info("calls of %d slots are not compiled: %s", shape.slots, _line(error))
                continue
            self._use(shape, way)

    def _try(self, compiled: Forward, eager: Forward, shape: Shape) -> None:
        """Compile one shape, and compare what it gives."""
        batch, tolerance = example(self._model, shape), _TOLERANCE.get(shape.dtype, _TOLERANCE_16_BIT)
        compiled(batch)
        with self._model.weights_lock:  # meanwhile no LoRA comes or goes: that would look like wrong code
            out, expected = compiled(batch).float(), eager(batch).float()
            error = float((out - expected).norm() / expected.norm())
        # "not <=", because NaN is within nothing. Random numbers may overflow 16 bit in some model: then
        # there is nothing to compare with.
        if not error <= tolerance and bool(expected.isfinite().all()):
            raise _WrongCodeError(f"compiled code is off by {error:.1e} at {shape.slots} slots")

    def _counted(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """The backend's code, its calls counted: torch passes over what does not fit without a word."""
        if self._stopping.is_set():
            raise _Stopped
        compiled = self._backend(graph, inputs)

        def run(*args: Any) -> Any:
            self._ran.graphs += 1
            return compiled(*args)

        return run


class _Stopped(BaseException):
    """close() came in between; no Exception, so that nothing on the way takes it for one."""


class _WrongCodeError(Exception):
    """Compiled code whose result is not the UNet's."""


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """A new thread's CUDA device is the first one, whatever the model's."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _line(error: BaseException) -> str:
    """What went wrong, in one line: torch wraps the error that tells into others that do not."""
    while (inner := getattr(error, "inner_exception", None)) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
