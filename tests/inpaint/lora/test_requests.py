"""Requests with LoRAs: they paint as stock diffusers in any batch, and leave the base model unchanged."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inpaint import Engine, InpaintRequest, RequestError
from inpaint.errors import ModelError
from inpaint.fast.optimizations import Fast, choose, ready
from inpaint.lora.files import accept, find_lora
from inpaint.model.load import Model, load_model
from inpaint.model.vae import decode
from tests.inpaint.runtime.test_batch_independence import latents_of
from tests.support.fast_rows import apart, own_model
from tests.support.lora_making import LAYERS, fused, merged_by_hand, write_formats, write_lora
from tests.support.stock import PLAIN, PROMPTS, stock_picture, stock_pipeline

Checkpoint = Callable[[int], Path]
Make = Callable[..., InpaintRequest]
TOLERANCE = 1e-4  # of a picture in 0 … 1, fp32
WAIT_S = 60
SETS: dict[str, tuple[tuple[int, float], ...]] = {  # as requests write it → seeds and scales
    "": (),
    "one": ((1, 1.0),),
    "one:0.6,two:-0.5": ((1, 0.6), (2, -0.5)),
    "two:0.5,texts": ((2, 0.5), (3, 1.0)),
}


@pytest.fixture
def own(checkpoint: Checkpoint) -> Model:
    """Load a tiny model that may be changed."""
    return own_model("tiny", checkpoint)


@pytest.fixture
def folder(tmp_path: Path, model: Model) -> Path:
    """Make LoRAs for all parts of the model, for the UNet alone and for the text encoders alone."""
    write_lora(tmp_path, "one", model, seed=1)
    write_lora(tmp_path, "two", model, ["unet"], seed=2)
    write_lora(tmp_path, "texts", model, ["text_encoder", "text_encoder_2"], seed=3)
    return tmp_path


@pytest.fixture
def engine(own: Model, folder: Path) -> Iterator[Engine]:
    """Start an engine that finds these LoRAs."""
    with Engine(own, loras=folder) as engine:
        yield engine


def by_hand(model: Model, wanted: str) -> Model:
    """Return the model with a set of LoRAs merged."""
    parts = {1: tuple(LAYERS), 2: ("unet",), 3: ("text_encoder", "text_encoder_2")}
    for seed, scale in SETS[wanted]:
        model = merged_by_hand(model, [(seed, scale)], parts[seed])
    return model


def picture(engine: Engine, request: InpaintRequest) -> torch.Tensor:
    """Return the picture (3, H, W) in 0 … 1, before it is pasted and rounded."""
    return decode(engine.model, latents_of(engine, request)[0])[0]


def images(engine: Engine, *requests: InpaintRequest) -> list[np.ndarray[Any, Any]]:
    """Paint one after the other: in a batch sums have another order, and pixels another last bit."""
    return [np.asarray(engine.paint(request).images[0]) for request in requests]


@pytest.mark.parametrize("wanted", SETS)
def test_equals_the_stock_pipeline_with_the_loras_merged(
    wanted: str, engine: Engine, model: Model, request_for: Make
) -> None:
    """Several LoRAs of the UNet and both text encoders, each at its scale, paint as with ``fuse_lora``."""
    request = request_for(**PLAIN, **PROMPTS, loras=wanted, seed=11, num_inference_steps=5)
    merged = by_hand(model, wanted)
    expected = stock_picture(stock_pipeline(merged), merged, request, seed=11)
    torch.testing.assert_close(picture(engine, request), expected, rtol=0, atol=TOLERANCE)
    if wanted:
        plain = stock_picture(stock_pipeline(model), model, request, seed=11)
        assert (expected - plain).abs().max() > 0.02, "and the LoRAs change it"


@pytest.mark.slow
def test_pictures_are_the_same_in_company_of_other_sets(engine: Engine, request_for: Make) -> None:
    """Another request's style must never show, even if its steps run between this one's."""
    requests = [
        request_for(loras=wanted, seed=seed, num_inference_steps=6, guidance_scale=scale)
        for wanted in SETS
        for seed, scale in ((1, 7.5), (2, 1.0))
    ]
    alone = [latents_of(engine, request)[0] for request in requests]
    jobs = [engine.submit(request) for request in [*requests, *requests]]
    with engine._loop._wake:
        tasks = list(engine._loop._in_flight.tasks.values())
    for job, task, expected in zip(jobs, tasks, alone * 2, strict=True):
        job.result(WAIT_S)
        assert apart(task.rows[0].latents, expected) < TOLERANCE, job.request.loras


@pytest.mark.slow
def test_the_model_is_the_same_afterwards_to_the_last_bit(
    engine: Engine, own: Model, request_for: Make
) -> None:
    """A thousand requests later, a request without LoRAs still gets the original model."""
    before = {name: weight.clone() for name, weight in own.unet.state_dict().items()}
    (base,) = images(engine, request_for())
    for wanted in [wanted for wanted in SETS if wanted] * 2:
        images(engine, request_for(loras=wanted))
    changed = [
        name for name, weight in own.unet.state_dict().items() if not torch.equal(weight, before[name])
    ]
    assert len(changed) == len(LAYERS["unet"]), "the last set is still there"
    assert np.array_equal(images(engine, request_for())[0], base)
    assert all(torch.equal(weight, before[name]) for name, weight in own.unet.state_dict().items())


def test_an_engine_that_is_closed_leaves_the_model_as_it_was(
    own: Model, folder: Path, request_for: Make
) -> None:
    """In a notebook, the next engine on the same model must not paint in the last one's style."""
    before = {name: weight.clone() for name, weight in own.unet.state_dict().items()}
    with Engine(own, loras=folder) as engine:
        images(engine, request_for(loras="one"))
    assert all(torch.equal(weight, before[name]) for name, weight in own.unet.state_dict().items())


def test_a_scale_of_zero_is_no_lora(engine: Engine, request_for: Make) -> None:
    """A slider at its left end paints the base's picture and shares the base's calls."""
    off, base = images(engine, request_for(loras="one:0"), request_for())
    assert np.array_equal(off, base)
    assert engine.stats().lora_switches == 0


def test_tags_in_the_prompt_paint_as_the_field_does(engine: Engine, request_for: Make) -> None:
    """The text encoders must not read the tags."""
    typed = request_for(prompt="a red circle<lora:one:0.6><lora:two:-0.5>")
    field = request_for(prompt="a red circle", loras="one:0.6,two:-0.5")
    assert np.array_equal(*images(engine, typed, field))


LEVERED = {"exact": TOLERANCE, "fp8": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize("precision", LEVERED)
def test_optimizations_paint_a_loras_picture(
    precision: str, own: Model, model: Model, folder: Path, request_for: Make
) -> None:
    """Joined matrices, cached keys and values and 8-bit weights must follow when the weights change."""
    requests = [request_for(loras=wanted) for wanted in ("", "one:0.6,two:-0.5", "two:0.5,texts", "")]
    fast = ready(own, choose(own, precision=precision))
    assert {"qkv", "text-kv"} <= set(fast.optimizations)
    with Engine(own, fast=fast, loras=folder) as engine:
        ours = [latents_of(engine, request)[0] for request in requests]
    for request, got, wanted in zip(
        requests, ours, ("", "one:0.6,two:-0.5", "two:0.5,texts", ""), strict=True
    ):
        with Engine(by_hand(model, wanted)) as plain:
            expected = latents_of(plain, replace(request, loras=()))[0]
        assert apart(got, expected) < LEVERED[precision], wanted
    assert torch.equal(ours[0], ours[-1]), "the base's picture comes back to the last bit"


def test_cached_keys_and_values_are_never_those_of_another_set(
    own: Model, model: Model, folder: Path, request_for: Make
) -> None:
    """The same prompt is painted in turns with and without a LoRA of the UNet's cross-attention."""
    base, styled = request_for(num_inference_steps=6), request_for(num_inference_steps=6, loras="two:4")
    with Engine(model) as plain, Engine(merged_by_hand(model, [(2, 4.0)], ["unet"])) as merged:
        expected = [latents_of(plain, base)[0], latents_of(merged, base)[0]]
    with Engine(own, fast=ready(own, ("qkv", "text-kv")), loras=folder) as engine:
        alone = [latents_of(engine, request)[0] for request in (base, styled)]
        jobs = [engine.submit(request) for request in (base, styled)]
        with engine._loop._wake:
            tasks = list(engine._loop._in_flight.tasks.values())
        for job in jobs:
            job.result(WAIT_S)
    assert apart(alone, expected) < TOLERANCE
    assert apart([task.rows[0].latents for task in tasks], expected) < TOLERANCE


def test_a_lora_in_8_bit_is_not_rounded_away(
    own: Model, model: Model, folder: Path, request_for: Make
) -> None:
    """A small change is less than a step of 8 bit, but has an effect if merged before conversion."""
    base, styled = request_for(), request_for(loras="two:0.1")
    fast: Fast = ready(own, choose(own, precision="fp8"))
    with Engine(own, fast=fast, loras=folder) as engine:
        moved = latents_of(engine, styled)[0] - latents_of(engine, base)[0]
    with Engine(model) as plain, Engine(merged_by_hand(model, [(2, 0.1)], ["unet"])) as merged:
        expected = latents_of(merged, replace(styled, loras=()))[0] - latents_of(plain, base)[0]
    assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.5


def test_every_format_counts_in_all_parts_of_a_model(
    engine: Engine, model: Model, folder: Path, request_for: Make
) -> None:
    """Weights, biases and norm layers of the UNet are merged; text encoders compute next to theirs."""
    file = write_formats(folder, "formats", model)
    base, styled = request_for(), request_for(loras="formats:0.7")
    before, got = (latents_of(engine, request)[0] for request in (base, styled))
    assert torch.equal(latents_of(engine, base)[0], before)
    with Engine(fused(model, file, 0.7)) as plain:
        assert apart(got, latents_of(plain, base)[0]) < TOLERANCE
    assert apart(before, got) > 0.05, "and they change it"


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizations", [("qkv",), ("qkv", "text-kv"), ("channels-last",), ("qkv", "fp8")], ids="+".join
)
def test_optimizations_paint_every_format(
    optimizations: tuple[str, ...], own: Model, model: Model, folder: Path, request_for: Make
) -> None:
    """DoRA and OFT read the weight, which may be rows of a joined one, or kept in 8 bit."""
    file = write_formats(folder, "formats", model)
    with Engine(own, fast=ready(own, optimizations), loras=folder) as engine:
        before = latents_of(engine, request_for())[0]
        got = latents_of(engine, request_for(loras="formats"))[0]
        assert torch.equal(latents_of(engine, request_for())[0], before)
    with Engine(fused(model, file)) as plain:
        expected = latents_of(plain, request_for())[0]
    assert apart(got, expected) < (0.2 if "fp8" in optimizations else TOLERANCE)
    assert apart(got, expected) < 0.5 * apart(before, expected)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["offload-text", "fp8", "streamed"])
def test_smaller_memory_plans_have_every_format_too(
    memory: str, checkpoint: Checkpoint, model: Model, folder: Path, request_for: Make
) -> None:
    """Their weights are in another place or dtype when a formula reads them."""
    file = write_formats(folder, "formats", model)
    small = load_model(checkpoint(9), "tiny", torch.device("cpu"), torch.float32, memory)
    with Engine(small, loras=folder) as engine:
        before = latents_of(engine, request_for())[0]
        got = latents_of(engine, request_for(loras="formats"))[0]
        assert torch.equal(latents_of(engine, request_for())[0], before)
    with Engine(fused(model, file)) as plain:
        expected = latents_of(plain, request_for())[0]
    assert apart(got, expected) < (0.3 if memory == "fp8" else TOLERANCE)
    assert apart(got, expected) < 0.5 * apart(before, expected)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["offload-text", "fp8", "streamed"])
def test_smaller_memory_plans_have_loras_too(
    memory: str, checkpoint: Checkpoint, model: Model, folder: Path, request_for: Make
) -> None:
    """Their hooks move or cast the weights, so a LoRA is added by hooks of its own."""
    wanted = "one:0.6,two:-0.5"
    with Engine(
        load_model(checkpoint(9), "tiny", torch.device("cpu"), torch.float32, memory), loras=folder
    ) as small:
        before = latents_of(small, request_for())[0]
        got = latents_of(small, request_for(loras=wanted))[0]
        assert torch.equal(latents_of(small, request_for())[0], before)
    with Engine(by_hand(model, wanted)) as plain:
        expected = latents_of(plain, request_for())[0]
    assert apart(got, expected) < (0.3 if memory == "fp8" else TOLERANCE)
    assert apart(got, expected) < 0.5 * apart(before, expected)


@pytest.mark.slow
def test_a_row_that_is_painted_again_in_fp32_has_its_loras(
    checkpoint: Checkpoint, folder: Path, request_for: Make
) -> None:
    """Half precision overflows now and then, and two sets may need it at the same time."""

    def overflow(unet: torch.nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        return (torch.full_like(out[0], torch.nan),) if args[0].dtype == torch.bfloat16 else out

    requests = [request_for(loras=wanted) for wanted in ("one", "two:2", "")]
    with Engine.load(checkpoint(9), device="cpu", dtype="bfloat16", loras=folder) as engine:
        right = images(engine, *requests)
        handle = engine.model.unet.register_forward_hook(overflow)
        jobs = [engine.submit(request) for request in requests]
        again = [np.asarray(job.result(WAIT_S).images[0]) for job in jobs]
        handle.remove()
    for got, expected in zip(again, right, strict=True):
        distances = [np.abs(got.astype(int) - other).mean() for other in right]
        assert np.abs(got.astype(int) - expected).mean() == min(distances)


def test_an_unknown_name_is_refused_at_the_door(engine: Engine, request_for: Make) -> None:
    """The error lists the names that exist, and nothing is painted."""
    with pytest.raises(RequestError, match="there is no LoRA 'stile'; there are one, texts, two"):
        engine.submit(request_for(loras="stile:0"))
    assert engine.stats().waiting == 0


def test_what_a_lora_leaves_out_is_said_in_the_answer(
    engine: Engine, folder: Path, model: Model, request_for: Make
) -> None:
    """A trained word that is missing shows in the picture; the person must know why."""
    file = write_lora(folder, "riders", model, ["unet"], seed=4)
    tensors = load_file(file)
    save_file(tensors | {f"bundle_emb.word.clip_{x}": torch.ones(2, 8) for x in "lg"}, file)
    result = engine.paint(request_for(loras="riders,two"))
    said = f"riders: 2 of {len(tensors) + 2} tensors are not used (bundle_emb.word.clip_g, bundle_emb.word."
    assert any(warning.startswith(said) for warning in result.warnings)
    assert not any(warning.startswith("two") for warning in result.warnings)


def test_a_lora_for_another_model_fails_its_own_request(
    engine: Engine, checkpoint: Checkpoint, folder: Path, request_for: Make
) -> None:
    """It fails with one sentence about the shapes; the other requests are painted."""
    other = load_model(checkpoint(4), "tiny-4", torch.device("cpu"), torch.float32)
    other.unet.mid_block.attentions[0].proj_in = torch.nn.Linear(8, 8)
    write_lora(folder, "foreign", other, ["unet"])
    bad, good = engine.submit(request_for(loras="foreign")), engine.submit(request_for(loras="one"))
    with pytest.raises(ModelError, match=r"foreign\.safetensors is not a LoRA for this model: mid_block"):
        bad.result(WAIT_S)
    assert good.result(WAIT_S).images


def test_a_file_that_is_replaced_under_an_engine_is_refused(
    engine: Engine, model: Model, folder: Path, request_for: Make
) -> None:
    """Requests that share a batch must mean the same file by a name, even after the new one was accepted."""
    (before,) = images(engine, request_for(loras="two"))
    old = (folder / "two.safetensors").read_bytes()
    write_lora(folder, "two", model, ["unet"], seed=9)
    with pytest.raises(ModelError, match="has changed since it was first used"):
        engine.paint(request_for(loras="two"))
    accept(find_lora("two", folder))
    with pytest.raises(ModelError, match="was replaced since this program first used it"):
        engine.paint(request_for(loras="two"))
    (folder / "two.safetensors").write_bytes(old)
    accept(find_lora("two", folder))
    assert np.array_equal(images(engine, request_for(loras="two"))[0], before)


def test_loras_that_are_too_strong_fail_alone_and_leave_the_model_whole(
    checkpoint: Checkpoint, folder: Path, request_for: Make
) -> None:
    """Infinite weights would paint NaN for all later requests."""
    model = load_model(checkpoint(9), "tiny", torch.device("cpu"), torch.float16)
    before = {name: weight.clone() for name, weight in model.unet.state_dict().items()}
    write_lora(folder, "loud", model, ["unet"], strength=1e7)
    with Engine(model, loras=folder) as engine:
        with pytest.raises(ModelError, match="the LoRAs are too strong"):
            engine.paint(request_for(loras="loud"))
        assert all(torch.equal(weight, before[name]) for name, weight in model.unet.state_dict().items())
