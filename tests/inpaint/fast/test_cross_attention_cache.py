"""The text's keys and values: computed when the prompts change, never read when they are another's."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from inpaint.fast import cross_attention_cache, fused_qkv
from inpaint.fast.shared_copy import shared_copy
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain
from tests.support.fast_rows import apart, own_model, random_batch

TOLERANCE = 1e-6
SLOTS = 4


@pytest.fixture(params=["separate", "joined"])
def own(request: pytest.FixtureRequest, checkpoint: Callable[[int], Path]) -> Model:
    """A model to rewrite, its keys' and values' matrices separate or joined by ``qkv``."""
    model = own_model("tiny", checkpoint)
    if request.param == "joined":
        fused_qkv.convert(model.unet)
    return model


def held(model: Model, *, sizes: tuple[int, ...] = ()) -> Forward:
    return cross_attention_cache.wrap(model.unet, model.dtype, plain(model.unet), slots=SLOTS, sizes=sizes)


def layers_of(model: Model) -> list[object]:
    return [attn for attn in fused_qkv.attentions(model.unet) if attn.is_cross_attention]


@contextmanager
def computed(model: Model) -> Iterator[list[int]]:
    """The numbers of slots of which the first layer's keys and values were computed in the block."""
    attn, counts = layers_of(model)[0], []
    layer = attn.to_kv if attn.fused_projections else attn.to_k
    hook = layer.register_forward_hook(lambda _, inputs, out: counts.append(len(inputs[0])))
    try:
        yield counts
    finally:
        hook.remove()


def same_step(batch: UNetBatch, seed: int) -> UNetBatch:
    """The next step of the same rows: other latents, the same prompts."""
    return replace(
        batch, sample=torch.randn(batch.sample.shape, generator=torch.Generator().manual_seed(seed))
    )


def test_they_are_computed_once_a_request(own: Model) -> None:
    """Twenty-five steps of one request compute them once, and each step's prediction is right."""
    batch = random_batch(own, ["cat", "dog"])
    steps = [same_step(batch, seed) for seed in range(5)]
    expected = [plain(own.unet)(step) for step in steps]
    forward = held(own)
    with computed(own) as counts:
        predictions = [forward(step) for step in steps]
    assert counts == [2]
    assert apart(predictions, expected) < TOLERANCE


def test_rows_may_join_and_leave_between_any_two_calls(own: Model) -> None:
    """Continuous batching: whichever rows join or leave, each is painted with its own prompt."""
    comings = ["ab", "abcd", "cd", "c", "cd", "abc", "bc", "dcba", "ab"]
    batches = [random_batch(own, tuple(names), seed=i) for i, names in enumerate(comings)]
    expected = [plain(own.unet)(batch) for batch in batches]
    forward = held(own)
    assert apart([forward(batch) for batch in batches], expected) < TOLERANCE


def test_only_the_slots_that_changed_are_computed(own: Model) -> None:
    """A row that joins costs its own keys and values, not those of everybody in the batch."""
    forward = held(own)
    with computed(own) as counts:
        for names in ("ab", "abcd", "abd", "abc", "ab"):
            forward(random_batch(own, tuple(names)))
    assert counts == [2, 2, 1, 1]


@pytest.mark.parametrize("lengths", [(77, 154), (154, 77, 77), (20, 77)])
def test_padded_text_is_masked(lengths: tuple[int, ...], own: Model) -> None:
    """A long prompt in the batch must not change the pictures of the short ones."""
    full = random_batch(own, [f"{length} {i}" for i, length in enumerate(lengths)], tokens=max(lengths))
    keep = torch.stack([torch.arange(max(lengths)) < length for length in lengths])
    batch = replace(full, keep=keep, hidden=full.hidden * keep[..., None])
    short = random_batch(own, ["short"], tokens=77)
    expected = [plain(own.unet)(call) for call in (short, batch, short)]
    unmasked = plain(own.unet)(replace(batch, keep=None))
    forward = held(own)
    assert apart([forward(call) for call in (short, batch, short)], expected) < TOLERANCE
    assert apart(unmasked, expected[1]) > 100 * TOLERANCE, "the mask must matter for this test"


def test_the_same_prompts_at_another_length_are_computed_anew(own: Model) -> None:
    """Padding to a longer neighbour that has left moves every slot's place in the buffers."""
    prompts = ["cat", "dog"]
    batches = [random_batch(own, prompts, tokens=tokens) for tokens in (77, 154, 77)]
    expected = [plain(own.unet)(batch) for batch in batches]
    forward = held(own)
    assert apart([forward(batch) for batch in batches], expected) < TOLERANCE


class Text:
    """A prompt that is equal to every other of its kind, as no two different prompts should be."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def test_a_prompt_is_known_by_what_it_is_not_by_what_it_equals(own: Model) -> None:
    """Two requests whose prompts compare equal, or whose addresses are one after the other's end."""
    batches = [random_batch(own, [Text("cat")]), random_batch(own, [Text("dog")])]
    expected = [plain(own.unet)(batch) for batch in batches]
    forward = held(own)
    assert apart([forward(batch) for batch in batches], expected) < TOLERANCE


@pytest.mark.slow
def test_held_prompts_stay_alive(own: Model) -> None:
    """Python gives a dead object's address to the next one, which would then be taken for it."""
    forward = held(own)
    prompts = [Text("cat")]
    forward(random_batch(own, prompts))
    alive = weakref.ref(prompts[0])
    del prompts
    gc.collect()
    assert alive() is not None
    forward(random_batch(own, ["dog"]))
    gc.collect()
    assert alive() is None, "and no longer than they are held"


def test_a_batch_without_names_is_computed_every_time(own: Model) -> None:
    """A warm-up's random batches name no prompts; nothing is known of their text."""
    nameless = [replace(random_batch(own, [name]), prompts=()) for name in ("cat", "dog")]
    batches = [random_batch(own, ["cat"]), *nameless, random_batch(own, ["cat"])]
    expected = [plain(own.unet)(batch) for batch in batches]
    forward = held(own)
    assert apart([forward(batch) for batch in batches], expected) < TOLERANCE


@pytest.mark.parametrize(
    ("names", "tokens", "sizes", "passed_on"),
    [
        ("abcd", 77, (), False),
        ("abcde", 77, (), True),
        ("ab", 154, (), False),
        ("abc", 154, (), True),
        ("abc", 77, (1, 2, 4), False),
        ("abc", 77, (1, 2, 8), True),
    ],
)
def test_what_does_not_fit_is_passed_on_with_its_text(
    names: str, tokens: int, sizes: tuple[int, ...], passed_on: bool, own: Model
) -> None:
    """A batch larger than was planned for, or padded to such a one, is right and merely slower."""
    batch = random_batch(own, tuple(names), tokens=tokens)
    expected = plain(own.unet)(batch)
    seen: list[UNetBatch] = []

    def watched(call: UNetBatch) -> torch.Tensor:
        seen.append(call)
        return plain(own.unet)(call)

    forward = cross_attention_cache.wrap(own.unet, own.dtype, watched, slots=SLOTS, sizes=sizes)
    assert apart(forward(batch), expected) < TOLERANCE
    assert seen[0].hidden.shape == (*batch.hidden.shape[:2], batch.hidden.shape[2] if passed_on else 0)


def test_rows_in_another_precision_bring_their_text(checkpoint: Callable[[int], Path]) -> None:
    """A row computed again in fp32, because 16 bit gave NaN, must not get keys of 16 bit."""
    model = own_model("tiny", checkpoint, torch.bfloat16)
    batch = random_batch(model, ["cat", "dog"])
    forward = held(model)
    forward(batch)
    precise = replace(
        batch, **{name: getattr(batch, name).float() for name in ("sample", "hidden", "pooled")}
    )
    seen: list[UNetBatch] = []
    cross_attention_cache.wrap(
        model.unet, model.dtype, lambda call: seen.append(call) or call.sample, slots=SLOTS
    )(precise)
    assert seen[0].hidden is precise.hidden


def test_buffers_never_move(own: Model) -> None:
    """Compiled code and CUDA graphs hold on to addresses: they must stay, whatever is painted."""

    def addresses() -> list[int]:
        return [buffer.data_ptr() for attn in layers_of(own) for buffer in attn.processor.buffers()]

    forward = held(own)
    before = addresses()
    for names, tokens in (("ab", 77), ("abcd", 77), ("a", 154), ("abcdef", 77), ("ab", 77)):
        with torch.inference_mode():
            forward(random_batch(own, tuple(names), tokens=tokens))
    assert addresses() == before
    assert not own.unet.state_dict().keys() & {name for name, _ in own.unet.named_buffers()}


def test_buffers_made_in_inference_mode_can_be_written_outside(own: Model) -> None:
    """An engine may build its ways through the UNet anywhere."""
    batch = random_batch(own, ["cat"])
    expected = plain(own.unet)(batch)
    with torch.inference_mode():
        forward = held(own)
    assert apart(forward(batch), expected) < TOLERANCE


def test_a_failure_half_way_leaves_nothing_held(own: Model) -> None:
    """After an out-of-memory the same rows are tried again: half-filled buffers must not be trusted."""
    batches = [random_batch(own, [name]) for name in ("cat", "dog")]
    expected = [plain(own.unet)(batch) for batch in batches]
    forward = held(own)
    forward(batches[0])
    last = layers_of(own)[-1]
    layer = last.to_kv if last.fused_projections else last.to_k

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    hook = layer.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        forward(batches[1])
    hook.remove()
    assert apart(forward(batches[0]), expected[0]) < TOLERANCE
    assert apart(forward(batches[1]), expected[1]) < TOLERANCE


def test_one_graph_serves_every_prompt(own: Model) -> None:
    """Compiled code has no break in these layers, and is not compiled again when the prompts change."""
    import torch._dynamo

    batches = [random_batch(own, names, seed=i) for i, names in enumerate((("a", "b"), ("c", "d")))]
    expected = [plain(own.unet)(batch) for batch in batches]
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    forward = held(own)
    torch._dynamo.reset()
    block = own.unet.mid_block.attentions[0].transformer_blocks[0]
    block.forward = torch.compile(block.forward, backend=count, fullgraph=True, dynamic=False)
    with torch.inference_mode():
        assert apart([forward(batch) for batch in batches], expected) < TOLERANCE
    assert len(graphs) == 1


def test_isolated_copies_read_nothing_that_is_being_written(own: Model) -> None:
    """A comparison in the background must not fail because the step loop changed the prompts meanwhile."""
    forward = held(own)
    copies = [shared_copy(own.unet) for _ in range(3)]
    cross_attention_cache.isolate(*copies[:2])
    call = random_batch(own, ["cat", "dog"])
    textless = replace(call, hidden=call.hidden[..., :0])
    before = [plain(copy)(textless) for copy in copies]
    expected = forward(call)
    after = [plain(copy)(textless) for copy in copies]
    assert torch.equal(before[0], before[1])
    assert torch.equal(before[0], after[1])
    assert apart(after[2], expected) < TOLERANCE, "while one not set apart shares what is held"


def test_a_layer_unlike_sdxls_is_left_alone(own: Model) -> None:
    """A patched model goes without, instead of losing its patch; a converted one can be converted."""
    assert cross_attention_cache.can(own) == ""
    held(own)
    assert cross_attention_cache.can(own) == ""
    attn = layers_of(own)[-1]
    attn.set_processor(AttnProcessor())
    assert "a processor of its own (AttnProcessor)" in cross_attention_cache.can(own)
