"""Matrices in 8 bit: which ones, how near, and what must not go wrong with them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inpaint import Engine, InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.errors import DeviceError, OutOfMemoryError
from inpaint.fast import fp8
from inpaint.fast.fp8 import Fp8Linear, convert, quantise
from inpaint.fast.optimizations import ready
from inpaint.job import Job
from inpaint.memory import PLANS
from inpaint.model.denoise import step
from inpaint.model.load import Model, load_model
from inpaint.model.row import Row
from inpaint.runtime.stages import RunningRequest, Stages

CPU = torch.device("cpu")
SCALED_MM = torch._scaled_mm
pytestmark = pytest.mark.skipif(bool(fp8.can(CPU)), reason=f"CPU: {fp8.can(CPU)}")


@pytest.fixture(scope="module")
def converted(checkpoint: Callable[[int], Path]) -> Model:
    """The tiny model, its large matrices in fp8."""
    model = load_model(checkpoint(9), "tiny-9", CPU, torch.float32)
    convert(model.unet)
    return model


def latents(model: Model, request: InpaintRequest) -> torch.Tensor:
    """(1, 4, h, w), finished."""
    task = RunningRequest(Job(request, [request.seed]), cut(request, 128))
    Stages(model).begin(task)
    (row,) = task.rows
    while not row.done:
        step(model, [row])
    return row.latents


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative error."""
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4])
def test_quantising_keeps_each_value_to_a_sixteenth(size: float) -> None:
    """Whatever a token's size: its scale is its own, so a loud neighbour does not silence it."""
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * size
    x[::2] *= 1000
    x[3] = 0
    quantised, scale = quantise(x)
    assert (quantised.dtype, scale.shape) == (torch.float8_e4m3fn, (64, 1))
    back = quantised.float() * scale
    limit = x.abs() / 16 + 2.2e-6 * x.abs().amax(dim=1, keepdim=True)
    assert ((back - x).abs() <= limit).all()
    assert back[3].eq(0).all(), "a line of zeros stays one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_its_matrix_to_eight_bits(bias: bool, dtype: torch.dtype) -> None:
    """Same shape and dtype out, whatever stands before the last axis; the error is rounding's."""
    torch.manual_seed(0)
    linear = nn.Linear(96, 160, bias=bias, dtype=dtype).requires_grad_(False)
    linear.weight *= torch.logspace(-3, 3, 160)[:, None].to(dtype)  # channels of very unlike size
    x = torch.randn(2, 50, 96).to(dtype)
    out = Fp8Linear(linear.weight, linear.bias)(x)
    expected = x.float() @ linear.weight.float().T + (linear.bias.float() if bias else 0)
    assert (out.shape, out.dtype) == ((2, 50, 160), dtype)
    by_channel = (out.float() - expected).norm(dim=(0, 1)) / expected.norm(dim=(0, 1))
    assert by_channel.max() < 0.06
    assert 1e-3 < by_channel.mean() < 0.045, "and it was in fact rounded"


def test_an_input_in_any_layout_gives_the_same() -> None:
    """Attention passes views with strides of their own; the kernel takes rows that lie in a row."""
    layer = Fp8Linear(torch.randn(32, 48), None)
    x = torch.randn(48, 6, 4)
    assert torch.equal(layer(x.permute(2, 1, 0)), layer(x.permute(2, 1, 0).contiguous()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_token_stays_bad_and_alone(bad: float) -> None:
    """NaN must be seen by the check at the end, and only in the row that has it."""
    layer = Fp8Linear(torch.randn(32, 48), torch.zeros(32))
    x = torch.randn(3, 48)
    clean = layer(x)
    x[1, 7] = bad
    out = layer(x)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])


def test_only_the_large_matrices_of_transformer_blocks_are_replaced(converted: Model) -> None:
    """Prompt keys and values, ways into a stack, time embeddings, convolutions keep their precision."""
    names = {name for name, module in converted.unet.named_modules() if isinstance(module, Fp8Linear)}
    kinds = {name.split("transformer_blocks.0.")[-1] for name in names if "transformer_blocks.0" in name}
    assert kinds == {
        *(f"attn1.to_{part}" for part in ("q", "k", "v", "out.0")),
        *(f"attn2.to_{part}" for part in ("q", "out.0")),
        "ff.net.0.proj",
        "ff.net.2",
    }
    assert all(".transformer_blocks." in name for name in names)


def test_a_matrix_that_the_kernel_cannot_take_stays() -> None:
    """Both sides must be multiples of 16."""

    def unet() -> nn.Module:
        root = nn.Module()
        root.attentions = nn.ModuleList([nn.Linear(32, 40), nn.Linear(40, 32), nn.Linear(32, 48)])
        holder = nn.Module()
        holder.mid = root
        return holder

    tiny = unet()
    assert convert(tiny) == 1
    assert [type(layer) for layer in tiny.mid.attentions] == [nn.Linear, nn.Linear, Fp8Linear]


def test_converting_twice_is_converting_once(converted: Model) -> None:
    """A reload must not quantise what is quantised."""
    before = {name: tensor.clone() for name, tensor in converted.unet.state_dict().items()}
    assert convert(converted.unet) == 0
    after = converted.unet.state_dict()
    assert all(torch.equal(before[name].float(), after[name].float()) for name in before)


def test_weights_take_a_byte_each(model: Model, converted: Model) -> None:
    """Nothing of the old matrices is kept next to the new ones."""

    def held(unet: nn.Module) -> int:
        tensors = {id(t): t for t in [*unet.parameters(), *unet.buffers()]}.values()
        return sum(t.numel() * t.element_size() for t in tensors)

    layers = [m for m in converted.unet.modules() if isinstance(m, Fp8Linear)]
    saved = sum(3 * layer.weight.numel() for layer in layers)  # four bytes to one
    spent = sum(4 * layer.out_features for layer in layers)  # the scales
    halved = sum(2 * layer.out_features for layer in layers if layer.bias is not None)
    assert held(converted.unet) == held(model.unet) - saved + spent - halved


def test_a_cast_of_the_unet_spares_them(converted: Model) -> None:
    """A row that gave NaN is computed again in fp32; the way there and back must not touch 8-bit weights."""
    unet = copy.deepcopy(converted.unet)
    (layer, *_) = (m for m in unet.modules() if isinstance(m, Fp8Linear))
    before = layer.weight.view(torch.uint8).clone(), layer.scale.clone()
    for dtype in (torch.float16, torch.float32):
        unet.to(dtype)
        assert unet.conv_in.weight.dtype == dtype
        assert (layer.weight.dtype, layer.scale.dtype) == (torch.float8_e4m3fn, torch.float32)
    assert torch.equal(layer.weight.view(torch.uint8), before[0])
    assert torch.equal(layer.scale, before[1])
    assert layer.to("meta").weight.device.type == "meta", "a move does move them"


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["DDIM", "Euler a", "DPM2 Karras"])
def test_whole_pictures_are_near_the_exact_ones(
    scheduler: str, model: Model, converted: Model, request_for: Callable[..., InpaintRequest]
) -> None:
    """A lossy mode may differ, but not arbitrarily; random weights are the worst case, see bench/lossy.py."""
    request = request_for(scheduler=scheduler, num_inference_steps=8)
    exact, near = latents(model, request), latents(converted, request)
    assert 1e-5 < apart(near, exact) < 0.1


def test_it_does_not_depend_on_the_neighbours(
    converted: Model, request_for: Callable[..., InpaintRequest]
) -> None:
    """Scales are by token, so a batch of two paints what each paints alone."""
    requests = [request_for(seed=1), request_for(seed=2, guidance_scale=1.0)]
    rows: list[Row] = []
    for request in requests:
        task = RunningRequest(Job(request, [request.seed]), cut(request, 128))
        Stages(converted).begin(task)
        rows += task.rows
    while waiting := [row for row in rows if not row.done]:
        step(converted, waiting)
    for request, row in zip(requests, rows, strict=True):
        # Not bit for bit: an activation at the edge of two 8-bit values may fall to either side.
        assert apart(row.latents, latents(converted, request)) < 1e-2


def test_an_engine_paints_with_it(converted: Model, request_for: Callable[..., InpaintRequest]) -> None:
    """Through the public door."""
    with Engine(converted) as engine:
        assert engine.paint(request_for()).images[0].size == (128, 128)


def test_compiled_code_is_one_graph() -> None:
    """fp8 pays only where the quantising is fused into the rest; a break would end that."""
    torch._dynamo.reset()
    layer = Fp8Linear(torch.randn(32, 48), torch.randn(32))
    x = torch.randn(2, 5, 48)
    with torch.inference_mode():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x))


def test_why_a_device_or_a_plan_cannot_is_said() -> None:
    """In words for the person who asked for it."""
    by_name = {plan.name: plan for plan in PLANS}
    assert fp8.can(CPU) == ""
    assert fp8.can(CPU, by_name["offload-text"]) == ""
    for name in ("fp8", "streamed"):
        assert f"the memory plan is {name}" in fp8.can(CPU, by_name[name])


def test_on_an_older_gpu_the_error_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An RTX 3090 has no fp8 units; torch's own error names neither card nor cause."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert "RTX 40" in fp8.can(torch.device("cuda"))


def test_a_build_without_the_kernel_is_found_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every build has it for every GPU; the first picture is too late to learn that."""

    def absent(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(torch, "_scaled_mm", absent)
    assert fp8.can(CPU) == "this build of torch has no fp8 product for it (no kernel image)"


def refusing_rows(tensor: torch.Tensor, *args: object, **kwargs: Any) -> torch.Tensor:
    """torch's product on an RTX 50 of 2026: one scale for each matrix, or none."""
    if kwargs["scale_a"].numel() > 1:
        raise RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`"
        )
    return SCALED_MM(tensor, *args, **kwargs)


def test_where_scales_by_row_are_refused_fp8_still_works(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README promises fp8 on newer GPUs, and the RTX 50 is the newest."""
    monkeypatch.setattr(torch, "_scaled_mm", refusing_rows)
    assert fp8.can(CPU) == ""
    model = load_model(checkpoint(9), "tiny-9", CPU, torch.float32)
    ready(model, ["fp8"])
    layers = [m for m in model.unet.modules() if isinstance(m, Fp8Linear)]
    assert layers
    assert layers[0](torch.randn(2, 5, layers[0].in_features)).isfinite().all()


def worst(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error of the worst token."""
    return ((out - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


@pytest.mark.parametrize("bias", [True, False])
def test_scaling_after_the_product_costs_no_precision(bias: bool) -> None:
    """Cards without scales by row paint as well as the others."""
    torch.manual_seed(0)
    linear = nn.Linear(96, 160, bias=bias).requires_grad_(False)
    x = torch.randn(50, 96) * torch.logspace(-4, 3, 50)[:, None]
    by_row, after = (Fp8Linear(linear.weight, linear.bias, by_row=rows)(x) for rows in (True, False))
    assert worst(after, linear(x)) < 1.1 * worst(by_row, linear(x)) < 0.1


def test_one_scale_for_all_tokens_would_silence_the_quiet_ones() -> None:
    """Or there would be a simpler way than to scale after the product."""
    torch.manual_seed(0)
    weight, x = torch.randn(160, 96), torch.randn(50, 96) * torch.logspace(-4, 3, 50)[:, None]
    scale = x.abs().max() / 448
    whole = (x / scale).to(torch.float8_e4m3fn).float() * scale @ weight.T
    assert worst(whole, x @ weight.T) > 0.9
    assert worst(Fp8Linear(weight, None, by_row=False)(x), x @ weight.T) < 0.1


def test_neighbours_do_not_matter_where_scales_are_applied_after() -> None:
    """A picture is the same in any batch, and a neighbour's NaN stays the neighbour's."""
    layer = Fp8Linear(torch.randn(32, 48), torch.zeros(32), by_row=False)
    x = torch.randn(3, 48)
    alone = layer(x[:1])
    x[1], x[2] = x[1] * 1e4, torch.nan
    out = layer(x)
    assert torch.equal(out[:1], alone)
    assert out[2].isnan().all()
    assert out[1].isfinite().all()


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceError),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasLtMatmul`"),
            DeviceError,
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), OutOfMemoryError),
    ],
)
def test_an_attempt_that_breaks_the_gpu_is_not_a_missing_kernel(
    error: RuntimeError, ours: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the engine would go on with a GPU that computes nothing any more, and blame the build."""

    def breaks(*_: object, **__: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(torch, "_scaled_mm", breaks)
    with pytest.raises(ours):
        fp8.can(CPU)


def test_the_attempt_has_tokens_that_fill_no_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel for Ada read beyond its input only where the tokens were no multiple of 256."""
    tried: list[int] = []

    def counted(tokens: torch.Tensor, *args: object, **kwargs: Any) -> torch.Tensor:
        tried.append(len(tokens))
        return SCALED_MM(tokens, *args, **kwargs)

    monkeypatch.setattr(torch, "_scaled_mm", counted)
    assert fp8.can(CPU) == ""
    assert {count % 256 == 0 for count in tried} == {True, False}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU with fp8 units")
def test_the_gpu_agrees_with_the_cpu() -> None:
    """The same numbers from the same code, up to the order of the additions."""
    cuda = torch.device("cuda")
    if reason := fp8.can(cuda):
        pytest.skip(reason)
    torch.manual_seed(0)
    layer, x = Fp8Linear(torch.randn(640, 1280), torch.randn(640)), torch.randn(2, 77, 1280)
    here = layer(x)
    for dtype in (torch.float16, torch.bfloat16):
        there = layer.to(cuda)(x.to(cuda, dtype)).cpu().float()
        assert apart(there, here) < 0.02
