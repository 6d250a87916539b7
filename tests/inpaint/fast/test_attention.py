"""The order of attention kernels: cuDNN's first while a call runs, and torch's own afterwards."""

import threading
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend

from inpaint.fast import attention
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch, plain
from tests.support.fast_rows import random_batch

GPU = torch.device("cuda", 0)


def order() -> list[SDPBackend]:
    """The process's order of attention kernels; torch has no public name for it."""
    return [SDPBackend(number) for number in torch._C._get_sdp_priority_order()]


@pytest.fixture(autouse=True)
def untouched() -> object:
    """Every test leaves torch as it found it."""
    before = order()
    assert before[0] != SDPBackend.CUDNN_ATTENTION, "torch has come round: this optimization can go"
    yield
    assert order() == before


def test_cudnn_is_first_for_the_length_of_a_call(model: Model) -> None:
    """Other code of the process, such as the stock pipeline of a bench, keeps torch's own order."""
    seen: list[SDPBackend] = []

    def watched(batch: UNetBatch) -> torch.Tensor:
        seen.extend(order())
        return plain(model.unet)(batch)

    batch = random_batch(model, "ab")
    painted = attention.wrap(watched, attention.Preferred())(batch)
    assert seen[0] == SDPBackend.CUDNN_ATTENTION
    assert set(seen) >= {SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH}
    assert torch.equal(painted, plain(model.unet)(batch))


def test_a_failed_call_restores_the_order(model: Model) -> None:
    """An out-of-memory in one call must not change the next one's kernels."""

    def failing(batch: UNetBatch) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    with pytest.raises(torch.OutOfMemoryError):
        attention.wrap(failing, attention.Preferred())(random_batch(model, "a"))


def test_one_thread_leaving_does_not_take_the_order_from_another() -> None:
    """Code compiled in the background keeps the kernels that it was traced with, whatever steps run."""
    preferred = attention.Preferred()
    inside, left = threading.Event(), threading.Event()
    seen: list[SDPBackend] = []

    def compile_in_background() -> None:
        with preferred:
            inside.set()
            left.wait(10)
            seen.extend(order())

    with preferred:
        compiling = threading.Thread(target=compile_in_background)
        compiling.start()
        assert inside.wait(10)
    left.set()
    compiling.join()
    assert seen[0] == SDPBackend.CUDNN_ATTENTION


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [
        ((8, 9), torch.float16, "before Hopper"),
        ((9, 0), torch.float16, ""),
        ((10, 0), torch.bfloat16, ""),
        ((9, 0), torch.float32, "16 bit"),
    ],
)
def test_only_from_hopper_on_and_in_16_bit(
    capability: tuple[int, int],
    dtype: torch.dtype,
    reason: str,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On older cards cuDNN's attention is the slower one."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    why = attention.can(replace(model, device=GPU, dtype=dtype))
    assert (reason in why) if reason else why == ""


def test_a_cpu_has_no_cudnn(model: Model) -> None:
    """Nothing is asked of a GPU that is not there."""
    assert "CUDA" in attention.can(model)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
    reason="needs a Hopper GPU or later",
)
def test_cudnn_computes_the_attention_on_hopper() -> None:
    """The order is worth something only if the kernel is really taken."""
    from torch.profiler import ProfilerActivity, profile

    q, k, v = (torch.randn(2, 10, 4096, 64, device=GPU, dtype=torch.float16) for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU]) as trace, attention.Preferred():
        torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert any("cudnn_attention" in event.key for event in trace.key_averages())
