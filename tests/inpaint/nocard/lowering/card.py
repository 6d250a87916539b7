"""NVIDIA cards that are not there, as far as torch's compiler asks for one.

A CPU build of torch can trace tensors on ``cuda:0`` (:class:`FakeTensorMode`), and inductor and Triton can
make machine code for any card; only what they ask the card itself has to be answered. :func:`pretend` answers
for the whole process and cannot be undone, so it is called in a process of its own.
"""

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch

CUDA = torch.device("cuda", 0)
_CUDA_INDEX, _META_INDEX, _DEVICE_TYPES = 1, 14, 20  # of c10::DeviceType


@dataclass(frozen=True)
class Card:
    """What inductor and Triton ask a card; figures from NVIDIA's CUDA programming guide and data sheets."""

    capability: tuple[int, int]
    processors: int
    threads_per_processor: int
    shared_bytes: int  # that one block can have, at most

    @property
    def name(self) -> str:
        """The name of its architecture, such as sm_90."""
        return "sm_{}{}".format(*self.capability)

    @property
    def fp8(self) -> bool:
        """Whether it has fp8 units."""
        return self.capability >= (8, 9)


CARDS = {
    card.name: card
    for card in (
        Card((7, 5), 40, 1024, 64 << 10),  # T4, RTX 20
        Card((8, 0), 108, 2048, 163 << 10),  # A100
        Card((8, 6), 82, 1536, 99 << 10),  # RTX 30, A10
        Card((8, 9), 128, 1536, 99 << 10),  # RTX 40, L4
        Card((9, 0), 132, 2048, 227 << 10),  # H100, H200
        Card((10, 0), 148, 2048, 227 << 10),  # B200
        Card((12, 0), 170, 1536, 99 << 10),  # RTX 50
    )
}


class _Guard:
    """A change of the current device: there is one only."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> bool:
        return False


def pretend(card: Card) -> None:
    """Have this process believe that ``card`` is its CUDA device."""
    _guard_in_c()
    _torch_cuda(card)
    _convolutions()
    _inductor(card)
    _triton(card)


def _guard_in_c() -> None:
    """Give C++ the guard of the meta device, which does nothing, as the one for CUDA.

    Indexing (``x[:, None]``) takes a guard before it asks for a fake implementation, and a build of torch
    without CUDA has none. A build with CUDA has its own and keeps it.
    """
    suffix = {"linux": "so", "darwin": "dylib"}[sys.platform]
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libc10.{suffix}"))
    name = "_ZN3c104impl26device_guard_impl_registryE"
    registry = (ctypes.c_void_p * _DEVICE_TYPES).in_dll(library, name)
    if not registry[_CUDA_INDEX]:
        registry[_CUDA_INDEX] = registry[_META_INDEX]


def _properties(card: Card) -> Any:
    major, minor = card.capability
    return SimpleNamespace(
        name=card.name,
        gcnArchName="",
        major=major,
        minor=minor,
        multi_processor_count=card.processors,
        max_threads_per_multi_processor=card.threads_per_processor,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65536,
        warp_size=32,
        total_memory=24 << 30,
        shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=card.shared_bytes,
        L2_cache_size=50 << 20,
    )


def _torch_cuda(card: Card) -> None:
    cuda: Any = torch.cuda
    cuda.is_available = cuda.is_initialized = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.init = cuda._lazy_init = lambda: None
    cuda.set_device = cuda.synchronize = lambda device=None: None
    cuda.get_device_name = lambda device=None: card.name
    cuda.get_device_properties = lambda device=None: _properties(card)
    cuda._get_device_properties = lambda index: _properties(card)  # what modules that hold the former call
    cuda.get_device_capability = lambda device=None: card.capability
    cuda.is_bf16_supported = lambda *_, **__: card.capability >= (8, 0)
    cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
    cuda.set_rng_state = lambda *_: None
    cuda._DeviceGuard = cuda.device = _Guard
    c: Any = torch._C
    c._cuda_getCurrentRawStream = lambda device: 0


def _convolutions() -> None:
    """Lay a convolution's result out as cuDNN does: NHWC if its input or its weight is."""

    def layout(x: torch.Tensor, weight: torch.Tensor, backend: object) -> torch.memory_format:
        nhwc = torch.channels_last
        found = any(t.is_contiguous(memory_format=nhwc) and not t.is_contiguous() for t in (x, weight))
        return nhwc if found else torch.contiguous_format

    c: Any = torch._C
    c._select_conv_backend = lambda *_, **__: None  # without cuDNN it would name a kernel of the CPU
    c._conv_determine_backend_memory_format = layout


def _inductor(card: Card) -> None:
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.fx_passes import fuse_attention, pad_mm
    from torch._inductor.runtime import triton_helpers
    from torch.utils import _triton

    major, minor = card.capability
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_triton_capable": lambda device=None: True,
        "raise_if_triton_unavailable": lambda device=None: None,
        "get_compute_capability": lambda device=None: 10 * major + minor,
        "get_raw_stream": lambda device=0: 0,
    }
    for name, answer in answers.items():
        setattr(CudaInterface, name, staticmethod(answer))
    worker: Any = CudaInterface.Worker
    worker.get_device_properties = staticmethod(lambda device=None: _properties(card))
    worker.current_device = staticmethod(lambda: 0)
    helpers: Any = triton_helpers
    helpers.set_driver_to_gpu = lambda: None
    triton: Any = _triton
    triton.has_triton = triton.has_triton_package = lambda *_, **__: True
    # Two passes that run on the card: one times padded matrix products (SDXL's sides are multiples of 8
    # already), one makes tensors of attention written out by hand, which diffusers does not do.
    padding: Any = pad_mm
    padding._pad_mm_init = lambda *_: None
    attention: Any = fuse_attention
    attention._sfdp_init = lambda *_: None


def _triton(card: Card) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    major, minor = card.capability

    class Driver:
        launcher_cls = None

        @staticmethod
        def is_active() -> bool:
            return True

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 10 * major + minor, 32)

        def get_current_device(self) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return CUDA

        def get_device_interface(self) -> Any:
            return torch.cuda

    driver.set_active(Driver())
