"""Allocations of each phase at full size, recorded on meta tensors: shapes without memory.

Attention is counted as flash attention does it: its output and one fp32 number for each query and head. The
workspaces of cuDNN and cuBLAS are not seen here; :mod:`tools.memory_table.schedule` adds an assumed size.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


@dataclass(slots=True)
class Trace:
    """Allocations and frees in their order."""

    # n ≥ 0: allocate n bytes, the next number is the block's; -1 - k: free block k.
    events: list[int] = field(default_factory=list)
    blocks: int = 0

    def allocate(self, size: int) -> int:
        """Add an allocation and return the block's number."""
        self.events.append(size)
        self.blocks += 1
        return self.blocks - 1

    def free(self, block: int) -> None:
        """Add a free."""
        self.events.append(-1 - block)

    @property
    def peak(self) -> tuple[int, int]:
        """The most bytes that live together, and the number of events up to there."""
        sizes: list[int] = []
        now = most = at = 0
        for i, event in enumerate(self.events):
            if event >= 0:
                sizes.append(event)
                now += event
                if now > most:
                    most, at = now, i + 1
            else:
                now -= sizes[-1 - event]
        return most, at


def times(trace: Trace, n: int) -> Trace:
    """Return a trace whose tensors are ``n`` times as large, as those of a call of n slots are."""
    return Trace([n * event if event > 0 else event for event in trace.events], trace.blocks)


def of_sizes(sizes: Sequence[int]) -> Trace:
    """Return the trace of tensors that are allocated and stay."""
    trace = Trace()
    for size in sizes:
        trace.allocate(size)
    return trace


class _Recorder(TorchDispatchMode):
    """A mode that notes every new storage on the meta device, and its death."""

    def __init__(self, known: Sequence[torch.Tensor], counted: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.trace = Trace()
        self._live: dict[int, int | None] = {}  # storage → its block; None for one that was there before
        for tensor in known:
            self._live[_id(tensor.untyped_storage())] = None
        for tensor in counted:
            self._born(tensor.untyped_storage())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device == META:
                storage = tensor.untyped_storage()
                if _id(storage) not in self._live:
                    self._born(storage)
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        self._live[_id(storage)] = self.trace.allocate(storage.nbytes())
        weakref.finalize(storage, self._died, _id(storage))

    def _died(self, storage: int) -> None:
        block = self._live.pop(storage, None)
        if block is not None:
            self.trace.free(block)


def _id(storage: torch.UntypedStorage) -> int:
    address: int = storage._cdata  # noqa: SLF001 - two Python objects may stand for one storage
    return address


def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    out = torch.empty_like(q)
    del lse
    return out


@contextmanager
def _flash_attention() -> Iterator[None]:
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _flash
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def record(
    work: Callable[[], object], known: Sequence[torch.Tensor] = (), counted: Sequence[torch.Tensor] = ()
) -> Trace:
    """Return the trace of ``work``, whose result is freed at the end.

    Args:
        work: computes on meta tensors.
        known: tensors that are there before, such as weights; they are not counted.
        counted: tensors with which the trace begins.
    """
    recorder = _Recorder(known, counted)
    with torch.inference_mode(), _flash_attention(), recorder:
        out = work()
    del out
    return recorder.trace
