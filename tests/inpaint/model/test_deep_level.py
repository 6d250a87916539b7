"""The deepest level kept and skipped: the same prediction from its true output, and a third of the work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from inpaint.fast import channels_last, cross_attention_cache, fp8, fused_qkv
from inpaint.memory import PLANS
from inpaint.model import deep_level
from inpaint.model.deep_level import DeepCache
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain
from tests.support.fast_rows import MODELS, apart, own_model, random_batch
from tools.full_size.make import UNET

META = torch.device("meta")
Checkpoint = Callable[[int], Path]


def kept(forward: Forward, batch: UNetBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The prediction and the level's output of one full call."""
    found: list[torch.Tensor] = []
    out = forward(replace(batch, take_deep=found.append))
    (deep,) = found
    return out, deep


@pytest.mark.parametrize("side", [(8, 8), (11, 7)])
@pytest.mark.parametrize("name", MODELS)
def test_a_call_is_the_same_with_the_level_kept_or_brought(
    name: str, side: tuple[int, int], checkpoint: Checkpoint
) -> None:
    """A full call of a near picture is the exact one's, and the only error of the others is their level's."""
    model = own_model(name, checkpoint)
    batch = random_batch(model, "abc")
    batch = replace(batch, sample=torch.randn(3, 9, *side, generator=torch.Generator().manual_seed(1)))
    forward = deep_level.wrap(model.unet, plain(model.unet))
    with torch.inference_mode():
        expected = plain(model.unet)(batch)
        out, deep = kept(forward, batch)
        assert torch.equal(out, expected)
        assert torch.equal(forward(batch), expected)
        assert deep.shape == (3, *deep_level.value_shape(model.unet, *side))
        assert torch.equal(forward(replace(batch, deep=deep)), expected)
        assert apart(forward(replace(batch, deep=torch.zeros_like(deep))), expected) > 1e-3, "it is used"


def everything(model: Model) -> Forward:
    """The optimizations that rewrite the UNet or its calls, around calls with the level kept or brought."""
    fused_qkv.convert(model.unet)
    fp8.convert(model.unet)
    channels_last.convert(model.unet)

    def build(unet: Any) -> Forward:
        return channels_last.wrap(plain(unet))

    forward = deep_level.wrap(model.unet, build(model.unet), build)
    return cross_attention_cache.wrap(model.unet, model.dtype, forward, slots=4)


def test_it_goes_with_every_rewritten_layer(checkpoint: Checkpoint) -> None:
    """Joined and 8-bit matrices, NHWC and cached text: a full-size model on a GPU has them all."""
    model = own_model("demo", checkpoint)
    forward, batch = everything(model), random_batch(model, "ab")
    with torch.inference_mode():
        expected = forward(batch)
        out, deep = kept(forward, batch)
        assert torch.equal(out, expected)
        assert apart(forward(replace(batch, deep=deep)), expected) < 1e-6


def test_weights_that_are_changed_later_hold_for_all_calls(checkpoint: Checkpoint) -> None:
    """A LoRA is merged in place between two calls, after the calls were prepared."""
    model = own_model("tiny", checkpoint)
    forward, batch = deep_level.wrap(model.unet, plain(model.unet)), random_batch(model, "ab")
    with torch.inference_mode():
        before = forward(batch)
        for parameter in model.unet.parameters():
            parameter.mul_(1.05)
        expected = plain(model.unet)(batch)
        out, deep = kept(forward, batch)
        assert apart(expected, before) > 1e-3
        assert torch.equal(out, expected)
        assert torch.equal(forward(replace(batch, deep=deep)), expected)


def test_a_failed_call_leaves_no_tensor(model: Model) -> None:
    """A call that fails is tried again in halves; what the first attempt left would be megabytes a slot."""
    forward, batch = deep_level.wrap(model.unet, plain(model.unet)), random_batch(model, "ab")

    def fail(deep: torch.Tensor) -> None:
        raise RuntimeError("no memory")

    with torch.inference_mode():
        expected, deep = kept(forward, batch)
        with pytest.raises(RuntimeError, match="no memory"):
            forward(replace(batch, take_deep=fail))
        with pytest.raises(RuntimeError):
            forward(replace(batch, deep=deep[:, :1]))
        assert torch.equal(forward(batch), expected)
        assert torch.equal(forward(replace(batch, deep=deep)), expected)


def test_the_cache_is_linear_in_time() -> None:
    """From values at 800 and 600, the one at 500 is half the way further."""
    cache = DeepCache()
    first, second = torch.full((2, 1, 1, 1), 1.0), torch.full((2, 1, 1, 1), 3.0)
    cache.keep(800.0, first)
    assert torch.equal(cache.at(700.0, 2), first), "of one value"
    cache.keep(600.0, second)
    assert torch.allclose(cache.at(500.0, 2), torch.full((2, 1, 1, 1), 4.0))
    assert cache.at(500.0, 1).shape[0] == 1, "guidance has ended"
    cache.keep(600.0, 2 * second)
    assert torch.allclose(cache.at(600.0, 2), 2 * second), "Heun's two calls of one time"
    cache.clear()
    assert (cache.value, cache.before) == (None, None)


def test_the_last_slot_is_the_one_with_the_prompt() -> None:
    """Slots are negative, then positive; without guidance only the positive one is left."""
    cache = DeepCache()
    cache.keep(800.0, torch.tensor([1.0, 10.0]).view(2, 1, 1, 1))
    cache.keep(600.0, torch.tensor([2.0, 20.0]).view(2, 1, 1, 1))
    assert cache.at(400.0, 1).flatten().tolist() == [30.0]
    cache.keep(400.0, torch.tensor([40.0]).view(1, 1, 1, 1))
    assert cache.at(200.0, 1).flatten().tolist() == [60.0]


def test_a_plan_without_memory_for_it_does_without(model: Model, sdxl: Any) -> None:
    """A GPU that SDXL just fits into has no room; a plan that moves weights cannot share its blocks."""
    full = replace(model, unet=sdxl)
    assert deep_level.can(full) == deep_level.can(model) == ""
    small = next(plan for plan in PLANS if plan.name == "resident-8")
    assert "resident-8" in deep_level.can(replace(full, plan=small, device=torch.device("cuda", 0)))
    assert "streamed" in deep_level.can(
        replace(full, plan=replace(full.plan, name="streamed", unet="streamed"))
    )


@pytest.mark.parametrize(("side", "share"), [(128, 0.307), (64, 0.278)])
def test_a_call_without_the_level_has_a_third_of_sdxls_work(side: int, share: float, sdxl: Any) -> None:
    """The gain that near painting promises for a full-size model: counted, not measured."""
    forward = deep_level.wrap(sdxl, plain(sdxl))
    batch = _one_slot(side)
    work = {}
    with torch.inference_mode():
        deep = torch.empty(1, *deep_level.value_shape(sdxl, side, side), dtype=torch.float16, device=META)
        for name, call in {"full": batch, "cached": replace(batch, deep=deep)}.items():
            with FlopCounterMode(display=False) as counter:
                forward(call)
            work[name] = counter.get_total_flops()
    assert work["cached"] / work["full"] == pytest.approx(share, abs=0.01)
    if side == 128:
        assert deep.nbytes == 10 * 2**20, "as the memory plans count it"


@pytest.fixture(scope="module")
def sdxl() -> Any:
    """The UNet of SDXL's inpainting checkpoint; no memory, no values."""
    from diffusers import UNet2DConditionModel

    with META:
        return UNet2DConditionModel(in_channels=9, **UNET).to(torch.float16).eval().requires_grad_(False)


def _one_slot(side: int) -> UNetBatch:
    def made(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    return UNetBatch(
        sample=made(1, 9, side, side),
        timesteps=made(1, dtype=torch.float32),
        hidden=made(1, 77, 2048),
        keep=None,
        pooled=made(1, 1280),
        time_ids=made(1, 6),
        prompts=(object(),),
    )
