"""The optimizations by name, which of them a model can have, and the way through its UNet with them.

An optimization is **exact** (the same picture, to the rounding of another order of the same sums), **near**
or **lossy**; a lossy one is on only where its precision was asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from inpaint.batching.work import Bucket
from inpaint.errors import RequestError
from inpaint.fast import (
    attention,
    channels_last,
    compiled,
    cross_attention_cache,
    cuda_graphs,
    fp8,
    fused_qkv,
)
from inpaint.fast.compiled import Compiled
from inpaint.fast.shapes import SLOTS
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain

Kind = Literal["exact", "near", "lossy"]


@dataclass(frozen=True, slots=True)
class Optimization:
    """One way to make a UNet call quicker."""

    name: str
    kind: Kind
    does: str
    can: Callable[[Model], str]  # why a resident model cannot have it, or has nothing of it; empty if it can
    rewrites: bool = True  # changes modules, or relies on them, which the hooks of a memory plan forbid

    def why_not(self, model: Model) -> str:
        """Why ``model`` goes without it; empty where it can have it."""
        if self.rewrites and model.plan.unet != "resident":
            return f"the memory plan {model.plan.name} moves or casts the UNet's modules as they are"
        return self.can(model)


OPTIMIZATIONS: tuple[Optimization, ...] = (
    Optimization("channels-last", "exact", "convolutions in NHWC", channels_last.can),
    Optimization("qkv", "exact", "queries, keys and values in one matrix product", fused_qkv.can),
    Optimization("text-kv", "exact", "the text's keys and values once a request", cross_attention_cache.can),
    Optimization("attention", "exact", "cuDNN's attention first", attention.can, rewrites=False),
    Optimization("compile", "exact", "the UNet compiled, beside the first pictures", compiled.can),
    Optimization("graphs", "exact", "UNet calls recorded and replayed as one", cuda_graphs.can),
    Optimization("fp8", "lossy", "the large matrix products in 8 bit", lambda model: fp8.can(model.device)),
)
NAMES = tuple(optimization.name for optimization in OPTIMIZATIONS)
PRECISIONS = ("exact", *(optimization.name for optimization in OPTIMIZATIONS if optimization.kind == "lossy"))


def choose(
    model: Model, without: frozenset[str] = frozenset(), *, precision: str = "exact"
) -> tuple[str, ...]:
    """The names of the optimizations for ``model``, in the order of the table.

    Args:
        model: may be one that has them already.
        without: optimizations to leave out.
        precision: ``exact``, or the name of the lossy optimization that is wanted.

    Raises:
        RequestError: there is no such optimization or precision, or the model cannot have the precision.
    """
    for name in sorted(without - set(NAMES)):
        raise RequestError("without", f"must be one of {', '.join(NAMES)}, not {name!r}")
    if precision not in PRECISIONS:
        raise RequestError("precision", f"must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    chosen = []
    for optimization in OPTIMIZATIONS:
        if optimization.name in without or (optimization.kind == "lossy" and optimization.name != precision):
            continue
        reason = optimization.why_not(model)
        if reason and optimization.name == precision:
            raise RequestError("precision", f"{precision} is not possible here: {reason}")
        if not reason:
            chosen.append(optimization.name)
    return tuple(chosen)


class Fast:
    """The way through a UNet with ``optimizations``, a :data:`Forward`. It belongs to the model's thread."""

    def __init__(self, optimizations: Sequence[str], forward: Forward, compilation: Compiled | None) -> None:
        self.optimizations = tuple(optimizations)
        self._forward = forward
        self._compilation = compilation

    def __call__(self, batch: UNetBatch) -> torch.Tensor:
        """The noise prediction (n, 4, h, w)."""
        return self._forward(batch)

    @property
    def state(self) -> str:
        """``eager``, or what compiled code is in use: ``regional``, ``whole``, or ``failed: …``."""
        return "eager" if self._compilation is None else self._compilation.state

    def start(self) -> None:
        """Begin to compile in the background, where that is one of the optimizations."""
        if self._compilation is not None:
            self._compilation.start()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until nothing is left to compile, or the time is up; the state then."""
        return "eager" if self._compilation is None else self._compilation.wait(timeout_s)

    def close(self) -> None:
        """Compile nothing more."""
        if self._compilation is not None:
            self._compilation.close()


def ready(
    model: Model, optimizations: Sequence[str], *, slots: int = 16, buckets: Sequence[Bucket] = ()
) -> Fast:
    """The way through a model's UNet with ``optimizations``, each of which it must be able to have.

    Rewrites the UNet's modules in place; diffusers can still call it as before, with the same result, but not
    save it or add a LoRA to it. Nothing is compiled before :meth:`Fast.start`.

    Args:
        model: whose thread this is called in.
        optimizations: names, as from :func:`choose`.
        slots: of the largest UNet call that optimizations reserve memory for; larger calls go without them.
        buckets: latent sizes to compile for; the native square if empty.
    """
    _convert(model.unet, optimizations)
    preferred = attention.Preferred()

    def build(unet: Any) -> Forward:
        """The way through a UNet or a copy of it: what must be inside compiled calls and recorded ones."""
        forward = plain(unet)
        if "attention" in optimizations:
            forward = attention.wrap(forward, preferred)
        return channels_last.wrap(forward) if "channels-last" in optimizations else forward

    forward = build(model.unet)
    compilation = None
    if "compile" in optimizations:
        width = 0 if "text-kv" in optimizations else None
        apart = cross_attention_cache.set_apart if "text-kv" in optimizations else _nothing
        compilation = compiled.wrap(
            model, forward, build=build, buckets=buckets, text_width=width, set_apart=apart
        )
        forward = compilation
    if "graphs" in optimizations:
        version = (lambda: compilation.version) if compilation is not None else (lambda: 0)
        forward = cuda_graphs.wrap(model, forward, version=version)
    if "text-kv" in optimizations:
        # Outermost: it fills, in the caller's thread, what compiled and recorded calls read.
        sizes = SLOTS if {"compile", "graphs"} & set(optimizations) else ()
        forward = cross_attention_cache.wrap(model.unet, model.dtype, forward, slots=slots, sizes=sizes)
    return Fast(optimizations, forward, compilation)


def _convert(unet: Any, optimizations: Sequence[str]) -> None:
    """Rewrite the modules: matrices are joined first, since those in 8 bit cannot be."""
    if "qkv" in optimizations:
        fused_qkv.convert(unet)
    if "fp8" in optimizations:
        fp8.convert(unet)
    if "channels-last" in optimizations:
        channels_last.convert(unet)


def _nothing(*_: Any) -> None:
    """There is nothing to set apart."""
