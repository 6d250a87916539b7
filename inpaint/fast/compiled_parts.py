"""The VAE and the text encoders compiled, by the thread that compiles the UNet.

What is compiled of a part is one or more of its modules, its *blocks*: the VAE's encoder or decoder as a
whole, and a text encoder's layers, which share their code. The ``forward`` of each block is replaced: where
compiled code has given the part's own result for such inputs it runs that, and otherwise its own code.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from inpaint import cuda
from inpaint.batching.work import Bucket
from inpaint.fast import torch_compile
from inpaint.fast.parts import Part, parts_of
from inpaint.fast.shared_copy import shared_copy
from inpaint.fast.torch_compile import Backend
from inpaint.gpu_errors import is_fatal, is_out_of_memory
from inpaint.lora.hooks import adapted
from inpaint.model.load import Model
from inpaint.model.vae import use_channels_last

Call = Callable[..., Any]

_log = logging.getLogger(__name__)
_TOLERANCE = {torch.float32: 1e-3}  # relative, as the UNet's
_TOLERANCE_16_BIT = 5e-2
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_SMALLEST = Bucket(8, 8)


class CompiledParts:
    """The parts of a model around its UNet, which get faster once they are compiled."""

    def __init__(
        self, model: Model, buckets: Sequence[Bucket], backend: Backend = torch_compile.inductor
    ) -> None:
        """Prepare nothing yet.

        Args:
            model: the model whose parts are compiled, those that stay on its device.
            buckets: sizes of pictures to compile for, in this order.
            backend: compiles a graph.
        """
        self._model = model
        self._buckets = tuple(buckets)
        self._parts = [CompiledPart(part, backend) for part in parts_of(model)]

    @property
    def states(self) -> Mapping[str, str]:
        """The state of each part by its name."""
        return {part.name: part.state for part in self._parts}

    def install(self) -> None:
        """Have the parts run compiled code when there is some; nothing may call them meanwhile."""
        if self._model.plan.vae_resident:
            use_channels_last(
                self._model.vae, self._model.vae.dtype
            )  # later, copies would keep the old layout
        for part in self._parts:
            part.install()
        cuda.runtime.synchronize(self._model.device)  # the engine's streams do not wait for this thread's

    def uninstall(self) -> None:
        """Give the model its own code back."""
        for part in self._parts:
            part.uninstall()

    def compile(self, stopping: threading.Event) -> None:
        """Compile everything, bucket by bucket; the compiling thread calls this."""
        for bucket in self._buckets:
            for part in self._parts:
                if not stopping.is_set():
                    part.compile(bucket)


class CompiledPart:
    """One part; its blocks may be called from any thread."""

    def __init__(self, part: Part, backend: Backend) -> None:
        self.name = part.name
        self._part = part
        self._backend = backend
        self._ready: frozenset[Hashable] = frozenset()  # replaced, never changed: two threads read it
        self._failure = ""

    @property
    def state(self) -> str:
        """``eager``, ``compiled``, or ``failed: …``."""
        return f"failed: {self._failure}" if self._failure else "compiled" if self._ready else "eager"

    def install(self) -> None:
        """Make the copies that are compiled, and have the part's blocks run their code when it is ready."""
        blocks = self._part.blocks
        self.uninstall()
        self._reference = own_copy(self._part.root)
        with (
            torch.inference_mode()
        ):  # the first call registers transformers' hooks, which the copies need, too
            self._part.run(self._reference, next(self._part.inputs(_SMALLEST)))
        self._trial, serving = own_copy(self._reference), own_copy(self._reference)
        for block in (*blocks(self._trial), *blocks(serving)):
            _remove_inner_hooks(block)
        torch_compile.compiling(blocks(self._trial), self._backend)
        torch_compile.compiled_only(blocks(serving))
        self._called: set[Hashable] = set()
        for block in blocks(self._trial):
            block.forward = self._noting(block.forward)
        for block, other in zip(blocks(self._part.root), blocks(serving), strict=True):
            block.forward = self._choosing(block, block.forward, other.forward)

    def uninstall(self) -> None:
        """Have the blocks run their own code again."""
        for block in self._part.blocks(self._part.root):
            vars(block).pop("forward", None)

    def compile(self, bucket: Bucket) -> None:
        """Compile the calls of one bucket; a failure is a warning, once, and the end of it."""
        inputs = self._part.inputs(bucket)
        while not self._failure:
            try:
                self._try(next(inputs))
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 - a compiler may raise anything, and pictures do without
                if is_out_of_memory(error):
                    _log.info("a call of %s is not compiled: %s", self.name, _line(error))
                    continue
                self._fail(f"{type(error).__name__}: {_line(error)}")

    def _try(self, x: torch.Tensor) -> None:
        """Compile one call, and compare its result with the part's own."""
        self._called.clear()
        out = self._part.run(self._trial, x).float()
        expected = self._part.run(self._reference, x).float()
        error = float((out - expected).norm() / expected.norm())
        # As for the UNet: "not <=" for NaN, and random numbers may overflow 16 bit.
        if not error <= _TOLERANCE.get(x.dtype, _TOLERANCE_16_BIT) and bool(expected.isfinite().all()):
            self._fail(f"compiled code is off by {error:.1e}")
        else:
            self._ready = self._ready | self._called

    def _fail(self, reason: str) -> None:
        self._ready = frozenset()
        self._failure = reason
        _log.warning("%s is not compiled, so pictures take longer: %s", self.name, reason)

    def _noting(self, compiled: Call) -> Call:
        """Return ``compiled``, with a note of what it was called with."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._called.add(_key(args, kwargs))
            return compiled(*map(_plain, args), **kwargs)

        return forward

    def _choosing(self, block: Any, own: Call, compiled: Call) -> Call:
        """Return the block's new ``forward``."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if _key(args, kwargs) not in self._ready or adapted(block):
                return own(*args, **kwargs)
            try:
                with torch.inference_mode(), torch_compile.uncompiled_while_tracing():
                    return compiled(*map(_plain, args), **kwargs)
            except RuntimeError as error:
                if is_out_of_memory(error) or is_fatal(error):
                    raise
                out = own(*args, **kwargs)  # if this raises as well, the call is at fault, not the compiler
                self._fail(f"compiled code failed ({_line(error)})")
                return out

        return forward


def own_copy(module: Any) -> Any:
    """Return a copy that shares the memory of the weights, and neither their objects nor hooks.

    The VAE is cast to fp32 and back for a picture that overflows, and LoRAs add hooks to text encoders. A
    copy that is being compiled must see neither.
    """
    copy = shared_copy(module)
    for part in copy.modules():
        vars(part).pop("forward", None)
        for name in _HOOKS:
            setattr(part, name, OrderedDict(getattr(part, name)))
        for name, weight in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(weight.data, requires_grad=False))
    return copy


def _remove_inner_hooks(block: Any) -> None:
    """Remove the hooks inside a block, which would be traced; its own are called outside of compiled code."""
    for part in block.modules():
        for name in _HOOKS if part is not block else ():
            getattr(part, name).clear()


def _plain(value: Any) -> Any:
    """Return a tensor contiguous and as an inference tensor: compiled code checks both."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.contiguous() if value.is_inference() else value.clone(memory_format=torch.contiguous_format)


def _key(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Hashable:
    """Return what compiled code is valid for: shapes and types of tensors, and other values."""
    return tuple(map(_kind, args)), tuple((name, _kind(value)) for name, value in sorted(kwargs.items()))


def _kind(value: Any) -> Hashable:
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else repr(value)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
