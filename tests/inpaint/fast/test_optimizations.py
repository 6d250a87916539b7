"""Each optimization, and all of them together, paint what diffusers' own way through the UNet paints."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from inpaint.batching.work import Bucket
from inpaint.errors import RequestError
from inpaint.fast import compiled, cross_attention_cache, fp8, fused_qkv
from inpaint.fast.optimizations import NAMES, OPTIMIZATIONS, PRECISIONS, choose, ready
from inpaint.memory import PLANS
from inpaint.model.load import Model, load_model
from inpaint.model.unet import UNetBatch, plain
from tests.support.fast_rows import MODELS, apart, mixed_rows, own_model, random_batch, run

Checkpoint = Callable[[int], Path]
REQUIRED = 1e-3  # what "exact" promises on any device
TOLERANCE = 5e-5  # in fp32 on a CPU; measured: 5.1e-6 with NHWC, 0 with the others
ALONE = [(name,) for name in ("channels-last", "qkv", "text-kv")]


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> Callable[[str], list[torch.Tensor]]:
    """A model's name → the latents of the mixed rows, the plain way; painted once."""
    painted: dict[str, list[torch.Tensor]] = {}

    def paint(name: str) -> list[torch.Tensor]:
        if name not in painted:
            model = own_model(name, checkpoint)
            painted[name] = run(model, mixed_rows(model))
        return painted[name]

    return paint


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizations", [*ALONE, ("channels-last", "qkv", "text-kv")], ids="+".join)
def test_a_mixed_batch_is_painted_as_without_optimizations(
    name: str,
    optimizations: tuple[str, ...],
    checkpoint: Checkpoint,
    expected: Callable[[str], list[torch.Tensor]],
) -> None:
    """Every scheduler, guided and not, short prompts and long, in one batch: speed must not show."""
    model = own_model(name, checkpoint)
    ours = run(model, mixed_rows(model), ready(model, optimizations))
    assert all(latents.std() > 0.05 for latents in ours)
    distance = apart(ours, expected(name))
    assert distance < TOLERANCE < REQUIRED


def test_diffusers_still_finds_its_unet(checkpoint: Checkpoint) -> None:
    """Other users of ``model.unet``, such as the stock pipeline of a bench, get the same prediction."""
    model = own_model("tiny", checkpoint)
    one, other = random_batch(model, "ab"), random_batch(model, "cd", seed=1)
    before = plain(model.unet)(other)
    ready(model, choose(model))(one)
    assert apart(plain(model.unet)(other), before) < TOLERANCE


def test_optimizations_applied_twice_are_applied_once(checkpoint: Checkpoint) -> None:
    """Two engines one after the other on one loaded model, as in a notebook, do not spoil each other."""
    model = own_model("tiny", checkpoint)
    batches = [random_batch(model, prompts) for prompts in ("ab", "cd")]
    right = [plain(model.unet)(batch) for batch in batches]
    first, second = ready(model, choose(model)), ready(model, choose(model))
    for batch, expected in zip(batches, right, strict=True):
        assert apart(first(batch), expected) < TOLERANCE
    # The second has filled the buffers with other text than the first remembers.
    assert apart(second(batches[0]), right[0]) < TOLERANCE
    assert apart(first(batches[1]), right[1]) < TOLERANCE
    assert apart(second(batches[0]), right[0]) < TOLERANCE


def test_half_precision_keeps_its_precision(checkpoint: Checkpoint) -> None:
    """On a GPU everything is in 16 bit: no optimization may compute in less, or hand on another dtype."""
    model = own_model("tiny", checkpoint, torch.bfloat16)
    batch = random_batch(model, "abc")
    expected = plain(model.unet)(batch)
    painted = ready(model, choose(model))(batch)
    assert painted.dtype == torch.bfloat16
    assert apart(painted, expected) < 1e-2


def test_a_cpu_goes_without_the_optimizations_of_a_gpu(checkpoint: Checkpoint) -> None:
    """What brings nothing here is not done, and says why."""
    model = own_model("tiny", checkpoint)
    assert choose(model) == ("qkv", "text-kv", "deep-level")
    reasons = {optimization.name: optimization.why_not(model) for optimization in OPTIMIZATIONS}
    assert [name for name, reason in reasons.items() if not reason] == ["qkv", "text-kv", "deep-level", "fp8"]


def test_torch_keeps_its_own_order_of_attention_kernels(checkpoint: Checkpoint) -> None:
    """The order is the whole process's: a text encoder in another thread would meet one it cannot use."""
    model = own_model("tiny", checkpoint)
    order = torch._C._get_sdp_priority_order
    orders = [order()]
    model.unet.mid_block.register_forward_pre_hook(lambda *_: orders.append(order()))
    forward = ready(model, [name for name in NAMES if name not in ("compile", "graphs", "fp8")])
    forward(random_batch(model, "ab"))
    assert orders == [orders[0]] * 2


def test_an_optimization_is_left_out_by_name(model: Model) -> None:
    """An operator who suspects one of them starts the server without it."""
    assert choose(model, frozenset({"qkv"})) == ("text-kv", "deep-level")
    assert choose(model, frozenset(NAMES)) == ()


def test_an_unknown_optimization_is_refused_with_the_names_there_are(model: Model) -> None:
    """A mistyped name must not silently leave the optimization in."""
    with pytest.raises(RequestError) as refused:
        choose(model, frozenset({"qvk"}))
    assert refused.value.field == "without"
    assert "'qvk'" in str(refused.value)
    assert all(name in str(refused.value) for name in NAMES)


def test_what_loses_quality_is_only_done_when_it_is_asked_for(model: Model) -> None:
    """Pictures are painted in 8 bits only for callers who asked for it, and always for them."""
    lossy = [optimization.name for optimization in OPTIMIZATIONS if optimization.kind == "lossy"]
    assert not set(lossy) & set(choose(model))
    assert ("exact", *lossy) == PRECISIONS
    assert choose(model, precision="fp8") == (*choose(model), "fp8")


def test_an_unknown_precision_is_refused_with_those_there_are(model: Model) -> None:
    """As above, for the other option."""
    with pytest.raises(RequestError, match="one of exact, fp8, not 'fp4'") as refused:
        choose(model, precision="fp4")
    assert refused.value.field == "precision"


def test_a_precision_that_cannot_be_is_refused_with_the_reason(model: Model) -> None:
    """A caller who asked for a mode gets it or an error that says why not, never another mode silently."""
    streamed = next(plan for plan in PLANS if plan.name == "streamed")
    with pytest.raises(RequestError, match="fp8 is not possible here: the memory plan streamed"):
        choose(replace(model, plan=streamed), precision="fp8")


def test_8_bit_works_with_the_other_optimizations(checkpoint: Checkpoint) -> None:
    """Joined matrices can be quantised, quantised ones cannot be joined: not the caller's to know."""
    model = own_model("tiny", checkpoint)
    batch = random_batch(model, "ab")
    expected = plain(model.unet)(batch)
    distance = apart(ready(model, choose(model, precision="fp8"))(batch), expected)
    assert 1e-4 < distance < 0.2  # of a random UNet's prediction: no rounding of fp32, and no other picture
    kinds = {type(attn.to_qkv) for attn in fused_qkv.attentions(model.unet) if not attn.is_cross_attention}
    assert kinds == {fp8.Fp8Linear}


@pytest.mark.slow
def test_text_kv_and_compiled_code_go_together(checkpoint: Checkpoint) -> None:
    """Compiled calls read the keys and values that their caller has filled in, of whatever prompts."""
    model = own_model("tiny", checkpoint)
    batches = [random_batch(model, names, seed=i) for i, names in enumerate(("ab", "cd", "ab"))]
    expected = [plain(model.unet)(batch) for batch in batches]
    compilation = compiled.wrap(
        model,
        plain(model.unet),
        buckets=[Bucket(8, 8)],
        slots=(2,),
        text_width=0,
        backend=lambda graph, inputs: graph.forward,  # tracing is what is at stake, not the code made of it
    )
    forward = cross_attention_cache.wrap(model.unet, model.dtype, compilation, slots=4, sizes=(2,))
    compilation.start()
    try:
        assert compilation.wait(200) == "whole"
        assert apart([forward(batch) for batch in batches], expected) < TOLERANCE
        assert compilation.state == "whole", "none of the calls was passed over"
    finally:
        compilation.close()


def test_without_compiling_there_is_nothing_to_wait_for(checkpoint: Checkpoint) -> None:
    """A CPU's engine starts, waits and closes as a GPU's does."""
    model = own_model("tiny", checkpoint)
    fast = ready(model, choose(model))
    fast.start()
    assert (fast.state, fast.wait(), fast.optimizations) == (
        "eager",
        "eager",
        ("qkv", "text-kv", "deep-level"),
    )
    fast.close()


def test_compiling_waits_until_it_is_started(checkpoint: Checkpoint) -> None:
    """Built before the engine's thread runs; until then, and with compiling called off, calls are as ever."""
    model = own_model("tiny", checkpoint)
    batch = random_batch(model, "abc")
    expected = plain(model.unet)(batch)
    fast = ready(model, ("channels-last", "qkv", "text-kv", "compile"))
    assert apart(fast(batch), expected) < TOLERANCE
    assert fast.state == "eager"
    fast.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_paints_the_same_with_every_optimization_it_has(checkpoint: Checkpoint) -> None:
    """In fp16, compiled and recorded, over prompts that change; the first calls eager, the last replayed."""
    model = load_model(checkpoint(9), "tiny", torch.device("cuda"), torch.float16)
    calls = [on_gpu(random_batch(model, names, seed=i)) for i, names in enumerate(("ab", "cd", "abcd") * 4)]
    expected = [plain(model.unet)(call) for call in calls]
    fast = ready(model, choose(model), buckets=[Bucket(8, 8)])
    assert "compile" in fast.optimizations
    fast.start()
    try:
        assert apart([fast(call) for call in calls], expected) < 1e-2
        assert fast.wait(500) == "whole"
        assert apart([fast(call) for call in calls], expected) < 1e-2
    finally:
        fast.close()


def on_gpu(batch: UNetBatch) -> UNetBatch:
    """The same call on the first GPU."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "prompts"}
    return replace(batch, **{name: None if t is None else t.cuda() for name, t in tensors.items()})


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.unet != "resident"], ids=lambda p: p.name)
def test_a_plan_that_hooks_the_modules_keeps_them(plan: object, model: Model) -> None:
    """On a small card the UNet is cast or moved block by block; a rewritten one would be missed by that."""
    assert choose(replace(model, plan=plan)) == ()
    for optimization in OPTIMIZATIONS:
        assert plan.name in optimization.why_not(replace(model, plan=plan))


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.unet == "resident"], ids=lambda p: p.name)
def test_offloaded_encoders_keep_the_optimizations(plan: object, model: Model) -> None:
    """A plan that only moves the text encoders leaves the UNet as quick as ever."""
    assert choose(replace(model, plan=plan)) == ("qkv", "text-kv", "deep-level")
