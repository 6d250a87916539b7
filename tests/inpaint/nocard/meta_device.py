"""A device that holds no numbers: what a step asks of it is counted, and nothing is computed.

The device is torch's ``meta``; host tensors are real. So each operation shows whether it runs on the device,
on the host, or moves a tensor between them. As on CUDA:

- a host tensor with dimensions that meets a device tensor is copied to the device first, and the copy, from
  pageable memory, waits for everything that was launched before;
- a host tensor without dimensions is passed to the kernel by value, which costs nothing; but it is copied,
  with a wait, where the code asks for that (``.to``, ``copy_``, ``torch.tensor(..., device=...)``);
- whatever brings a number to the host waits: ``item``, ``if tensor``, ``nonzero``, ``linalg.solve`` (which
  looks whether it failed).

Under inference mode composite operations arrive whole (``aten.to``, ``aten.item``), so both they and their
parts are known here.
"""

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inpaint import cuda
from inpaint.model.load import Model
from inpaint.model.prompt import PromptEmbeds
from inpaint.model.row import Conditioning
from inpaint.model.vae import Posterior

META = torch.device("meta")

# Operations whose result the host waits for: numbers, shapes that depend on numbers, and checks.
_WAITS = (
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "_unique2",
    "unique_dim", "_linalg_check_errors", "linalg_solve", "linalg_inv", "linalg_cholesky",
)  # fmt: skip
_NUMBERS = ("_local_scalar_dense", "item", "is_nonzero")  # no meta kernel can answer with one
_CONVERSIONS = ("to", "_to_copy", "copy_", "type_as", "pin_memory")


@dataclass
class Traffic:
    """What was asked of the device; places are lines of diffusers' schedulers or of ours."""

    copies: Counter[str] = field(default_factory=Counter)  # host → device, each a wait
    waits: Counter[str] = field(default_factory=Counter)  # device → host
    uploads: int = 0  # host → device from pinned memory, without a wait
    launches: int = 0  # operations on the device; no views
    host_ops: int = 0  # operations on host tensors alone

    def stalls(self) -> dict[str, int]:
        """The waits of either direction, by place."""
        return dict(self.copies + self.waits)


class MetaRuntime(cuda.CudaRuntime):
    """CUDA's runtime for the meta device: as asynchronous as CUDA, and it counts the uploads."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def on(self, device: torch.device) -> bool:
        """The meta device stands for a GPU."""
        return device == META

    def upload(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Count a copy that does not wait."""
        self._traffic.uploads += 1
        return torch.empty(host.shape, dtype=host.dtype, device=device)


class _Spy(TorchDispatchMode):
    """Every operation of this thread."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        given = _tensors((args, kwargs))
        on_device = any(tensor.device == META for tensor in given)
        if on_device and name in _WAITS:
            self._traffic.waits[_place(name)] += 1
            if name in _NUMBERS:
                return 1
        try:
            out = func(*args, **kwargs)
        except NotImplementedError:  # a meta tensor has no numbers to copy
            self._traffic.waits[_place(name)] += on_device
            raise
        self._book(func, name, given, _tensors(out))
        return out

    def _book(self, func: Any, name: str, given: list[torch.Tensor], results: list[torch.Tensor]) -> None:
        traffic, host = self._traffic, [tensor for tensor in given if tensor.device != META]
        if len(host) == len(given) and all(tensor.device != META for tensor in results):
            traffic.host_ops += 1
            return
        if any(tensor.device != META for tensor in results):
            traffic.waits[_place(name)] += 1
        unchanged = [*map(id, results)] == [*map(id, given[:1])]  # ``to`` what it already is
        traffic.launches += not func.is_view and not unchanged
        if any(tensor.ndim for tensor in host) or (host and name in _CONVERSIONS):
            traffic.copies[_place(name)] += 1


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class _FactorySpy(TorchFunctionMode):
    """What fills the device from the host below the dispatcher: ``torch.tensor`` and a list as an index."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = (kwargs or {}).get("device")
        filled = func in (torch.tensor, torch.as_tensor, torch.asarray)
        indexed = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].device == META
        if indexed and any(isinstance(index, list) for index in (args[1], *_items(args[1]))):
            self._traffic.copies[_place("index")] += 1
        if filled and device is not None and torch.device(device) == META:
            self._traffic.copies[_place(func.__name__)] += 1
            return torch.empty(torch.as_tensor(args[0], device="cpu").shape, device=META)
        return func(*args, **(kwargs or {}))


def _items(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else ()


def _place(name: str) -> str:
    for frame in reversed(traceback.extract_stack()):
        file = frame.filename.replace("\\", "/")
        if "diffusers/schedulers" in file or ("/inpaint/" in file and "/nocard/" not in file):
            return f"{name} at {file.rsplit('/', 1)[-1]}:{frame.lineno} {frame.line}"
    return name


@contextmanager
def watched(traffic: Traffic) -> Iterator[None]:
    """Count what the block asks of the meta device."""
    before, cuda.runtime = cuda.runtime, MetaRuntime(traffic)
    try:
        with _FactorySpy(traffic), _Spy(traffic):
            yield
    finally:
        cuda.runtime = before


def on_meta(model: Model, in_channels: int) -> Model:
    """Return the model with a UNet of that many channels on the meta device, and the rest unchanged."""
    with META:
        unet = UNet2DConditionModel.from_config({**model.unet.config, "in_channels": in_channels}).eval()
    return replace(model, unet=unet, device=META)


def conditioning(model: Model, *, soft: bool = False, tokens: Sequence[int] = (77, 77)) -> Conditioning:
    """Return the tensors of one request on the meta device; ``tokens`` are of its two prompts."""
    config = model.unet.config
    side, width = int(config.sample_size), int(config.cross_attention_dim)
    pooled = int(config.projection_class_embeddings_input_dim) - 6 * int(config.addition_time_embed_dim)
    prompt, negative = (
        PromptEmbeds(torch.empty(length, width, device=META), torch.empty(pooled, device=META))
        for length in tokens
    )
    picture = Posterior(*(torch.empty(1, 4, side, side, device=META) for _ in range(2)))
    mask = torch.empty(1, 1, side, side, device=META)
    return Conditioning(prompt, negative, picture, picture, mask, mask if soft else None)
