"""The optimizations by name, the choice of those that a model can use, and its forward pass with them.

An optimization is **exact** (the same picture, up to rounding, because sums are taken in another order),
**near** or **lossy**; a lossy one is used only if its precision was asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from inpaint.batching.work import Bucket
from inpaint.errors import RequestError
from inpaint.fast import (
    channels_last,
    compiled,
    cross_attention_cache,
    cuda_graphs,
    fp8,
    fused_qkv,
    onednn,
)
from inpaint.fast.compiled import Compiled
from inpaint.fast.compiled_parts import CompiledParts
from inpaint.fast.shapes import LEVELS, SLOTS, native
from inpaint.fast.splitting import in_parts
from inpaint.fast.torch_compile import Backend, inductor
from inpaint.model import deep_level
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain
from inpaint.pace import DEEP_LEVEL

Kind = Literal["exact", "near", "lossy"]


@dataclass(frozen=True, slots=True)
class Optimization:
    """One way to make UNet calls faster."""

    name: str
    kind: Kind
    does: str
    can: Callable[[Model], str]  # why a resident model cannot use it or gains nothing; empty if it can

    def why_not(self, model: Model) -> str:
        """Return why ``model`` does without it; empty if it can use it."""
        if model.plan.unet != "resident":
            return f"the memory plan {model.plan.name} moves or casts the UNet's modules as they are"
        if self.name in ("compile", "graphs") and not model.plan.prepared_slots:
            return f"the memory plan {model.plan.name} has no memory for it"
        return self.can(model)


OPTIMIZATIONS: tuple[Optimization, ...] = (
    Optimization("channels-last", "exact", "convolutions in NHWC", channels_last.can),
    Optimization("qkv", "exact", "queries, keys and values in one matrix product", fused_qkv.can),
    Optimization("text-kv", "exact", "the text's keys and values once a request", cross_attention_cache.can),
    Optimization("onednn", "exact", "fp32 products by oneDNN on AMD's CPUs", onednn.can),
    Optimization(
        "compile", "exact", "the model compiled, while the first pictures are painted", compiled.can
    ),
    Optimization("graphs", "exact", "UNet calls recorded and replayed as one", cuda_graphs.can),
    Optimization(
        DEEP_LEVEL, "near", "near pictures take the UNet's deepest level from a cache", deep_level.can
    ),
    Optimization("fp8", "lossy", "the large matrix products in 8 bit", lambda model: fp8.can(model.device)),
)
NAMES = tuple(optimization.name for optimization in OPTIMIZATIONS)
PRECISIONS = ("exact", *(optimization.name for optimization in OPTIMIZATIONS if optimization.kind == "lossy"))


def choose(
    model: Model, without: frozenset[str] = frozenset(), *, precision: str = "exact"
) -> tuple[str, ...]:
    """Return the names of the optimizations for ``model``, in the order of the table.

    Args:
        model: may have them already.
        without: optimizations to leave out.
        precision: ``exact``, or the name of a lossy optimization to use.

    Raises:
        RequestError: there is no such optimization or precision, or the model cannot use the precision.
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
    """The forward pass of a UNet with ``optimizations``, a :data:`Forward`; used by the model's thread."""

    def __init__(
        self,
        optimizations: Sequence[str],
        forward: Forward,
        compilation: Compiled | None,
        parts: CompiledParts | None,
    ) -> None:
        self.optimizations = tuple(optimizations)
        self._forward = forward
        self._compilation = compilation
        self._parts = parts
        self._started = False

    @property
    def caches_deep_level(self) -> bool:
        """True if calls can keep the UNet's deepest level, and take it from a cache."""
        return DEEP_LEVEL in self.optimizations

    def __call__(self, batch: UNetBatch) -> torch.Tensor:
        """Return the noise prediction (n, 4, h, w)."""
        return self._forward(batch)

    @property
    def state(self) -> str:
        """``eager``, or the compiled code in use: ``regional`` or ``whole``; or ``failed: …``."""
        return "eager" if self._compilation is None else self._compilation.state

    def start(self) -> None:
        """Begin to compile in the background, if that is one of the optimizations; the model must be idle."""
        if self._started:
            return
        self._started = True
        if self._parts is not None:
            self._parts.install()
        if self._compilation is not None:
            self._compilation.start()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until nothing is left to compile, or ``timeout_s`` has passed; return the state."""
        return "eager" if self._compilation is None else self._compilation.wait(timeout_s)

    def close(self) -> None:
        """Stop compiling, and give the VAE and the text encoders their own code back."""
        if self._compilation is not None:
            self._compilation.close()
        if self._parts is not None:
            self._parts.uninstall()


def ready(
    model: Model,
    optimizations: Sequence[str],
    *,
    slots: int = 16,
    buckets: Sequence[Bucket] = (),
    often: int = 1,
    sizes: Sequence[int] = SLOTS,
    backend: Backend = inductor,
) -> Fast:
    """Return the forward pass of a model's UNet with ``optimizations``, each of which it must be able to use.

    The UNet's modules are rewritten in place: diffusers can still call it, with the same result, but not save
    it or add a LoRA to it. Nothing is compiled before :meth:`Fast.start`.

    Args:
        model: the model; call this in its thread.
        optimizations: names, as from :func:`choose`.
        slots: slots of the largest UNet call that memory is reserved for; larger calls go without.
        buckets: latent sizes to compile for, in this order; the native square if empty.
        often: how many of them are frequent, and compiled whole.
        sizes: numbers of slots to compile and to record, the most urgent first; 1 is among them.
        backend: compiles a graph.
    """
    _convert(model.unet, optimizations)
    near = DEEP_LEVEL in optimizations

    def build(unet: Any) -> Forward:
        """Return the forward pass of a UNet or its copy, with what belongs inside compiled calls."""
        build = _in_nhwc if "channels-last" in optimizations else plain
        return deep_level.wrap(unet, build(unet), build) if near else build(unet)

    forward = build(model.unet)
    sizes = tuple(n for n in sizes if n <= model.plan.prepared_slots)
    compilation, parts = None, None
    if "compile" in optimizations:
        parts = CompiledParts(model, buckets or [native(model)], backend)
        width = 0 if "text-kv" in optimizations else None
        isolate = cross_attention_cache.isolate if "text-kv" in optimizations else _nothing
        compilation = compiled.wrap(
            model,
            forward,
            build=build,
            buckets=buckets,
            often=often,
            slots=sizes,
            text_width=width,
            isolate=isolate,
            levels=LEVELS if near else (),
            backend=backend,
            also=parts.compile,
        )
        forward = compilation
    forward = _around_calls(model, optimizations, forward, compilation, slots, sizes)
    return Fast(optimizations, forward, compilation, parts)


def _around_calls(
    model: Model,
    optimizations: Sequence[str],
    forward: Forward,
    compilation: Compiled | None,
    slots: int,
    sizes: Sequence[int],
) -> Forward:
    """Return ``forward`` with what belongs outside compiled calls."""
    prepared = bool({"compile", "graphs"} & set(optimizations))
    if "graphs" in optimizations:
        version = compilation.code if compilation is not None else _nothing
        forward = cuda_graphs.wrap(model, forward, slots=sizes, version=version)
    if "text-kv" in optimizations:
        # Outside those: in the caller's thread it fills the buffers that compiled and recorded calls read.
        padded = sizes if prepared else ()
        forward = cross_attention_cache.wrap(model.unet, model.dtype, forward, slots=slots, sizes=padded)
    return in_parts(forward, sizes) if prepared else forward


def convert_early(model: Model, without: frozenset[str] = frozenset()) -> None:
    """Rewrite the modules of a model that is still in main memory; :func:`ready` does the rest.

    On a GPU the old matrices leave gaps between the new: 1.5 GiB of SDXL's, counted. Quantising waits for the
    device, which does it a thousand times as fast.
    """
    _convert(model.unet, choose(model, without))


def _convert(unet: Any, optimizations: Sequence[str]) -> None:
    """Rewrite the modules; matrices are joined first, since 8-bit ones cannot be."""
    if "qkv" in optimizations:
        fused_qkv.convert(unet)
    if "fp8" in optimizations:
        fp8.convert(unet, by_row=fp8.by_row(unet.device))
    if "onednn" in optimizations:
        onednn.convert(unet)
    if "channels-last" in optimizations:
        channels_last.convert(unet)


def _in_nhwc(unet: Any) -> Forward:
    return channels_last.wrap(plain(unet))


def _nothing(*_: Any) -> None:
    """Isolate nothing: the copies have no buffers that calls write."""
