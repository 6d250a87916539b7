"""Engines that paint near pictures with the deepest level from caches; the oracle is stock diffusers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inpaint import Engine, InpaintRequest
from inpaint.errors import CancelledError
from inpaint.fast.optimizations import ready
from inpaint.model.load import Model
from inpaint.model.vae import decode
from inpaint.pace import DEEP_LEVEL
from inpaint.runtime.faults import Faults
from inpaint.runtime.stages import RunningRequest
from server.engines.forecast import Engines
from tests.inpaint.model.test_forecast import Forecasting
from tests.inpaint.runtime.test_batch_independence import latents_of, relative
from tests.support.fast_rows import apart, own_model
from tests.support.lora_making import write_lora
from tests.support.stock import PLAIN, stock_picture, stock_pipeline

Make = Callable[..., InpaintRequest]
WAIT_S = 60
TOLERANCE = 1e-4
NEAR = {"num_inference_steps": 18, "strength": 0.9, "pace": "near"}


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    """An engine with caches, as a loaded one has them."""
    with Engine(model, fast=ready(model, (DEEP_LEVEL,))) as engine:
        yield engine


def running(engine: Engine, request: InpaintRequest) -> tuple[Any, RunningRequest]:
    job = engine.submit(request)
    with engine._loop._wake:
        (task,) = [task for task in engine._loop._in_flight.tasks.values() if task.job is job]
    return job, task


class Level:
    """The deepest level's last block, which answers some calls in a line through its last two answers."""

    def __init__(self, unet: Any, cached: frozenset[int]) -> None:
        self.unet_forward, self.block_forward = unet.forward, unet.up_blocks[0].forward
        self.cached, self.number, self.time = cached, 0, 0.0
        self.answers: list[tuple[float, torch.Tensor]] = []

    def unet(self, sample: torch.Tensor, timestep: torch.Tensor, **rest: Any) -> Any:
        self.time = float(timestep)
        return self.unet_forward(sample, timestep, **rest)

    def block(self, **inputs: Any) -> torch.Tensor:
        number, self.number = self.number, self.number + 1
        if number in self.cached:
            last, latest = self.answers[-1]
            before, older = next(pair for pair in reversed(self.answers) if pair[0] != last)
            return latest + (latest - older) * (self.time - last) / (last - before)
        out: torch.Tensor = self.block_forward(**inputs)
        self.answers.append((self.time, out))
        return out


@pytest.mark.parametrize(
    "scheduler", ["DPM2 Karras", "Euler a", pytest.param("Heun", marks=pytest.mark.slow)]
)
def test_it_is_stock_with_a_level_in_a_straight_line(
    scheduler: str, engine: Engine, model: Model, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cached call must get its own time's value of its own row's level, and no other call may."""
    request = request_for(scheduler=scheduler, guidance_scale=3.0, **NEAR, **PLAIN)
    plan = request.call_plan
    assert plan.cached
    level = Level(model.unet, plan.cached_calls)
    with monkeypatch.context() as patch:
        patch.setattr(model.unet, "forward", Forecasting(level.unet, plan.forecast))
        patch.setattr(model.unet.up_blocks[0], "forward", level.block)
        expected = stock_picture(stock_pipeline(model), model, request, seed=5)
    assert level.number == plan.made
    got = decode(model, latents_of(engine, request)[0])[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    without = decode(model, latents_of_plain(model, request))[0]
    assert (without - expected).abs().max() > 10 * TOLERANCE, "and the cache can be seen"


def latents_of_plain(model: Model, request: InpaintRequest) -> torch.Tensor:
    with Engine(model) as engine:
        return latents_of(engine, request)[0]


def test_exact_pictures_have_every_level_computed(engine: Engine, model: Model, request_for: Make) -> None:
    """The default of the API is the same to the last bit, on an engine with caches too."""
    request = request_for(num_inference_steps=18, strength=0.9)
    assert torch.equal(latents_of(engine, request)[0], latents_of_plain(model, request))


def test_nothing_is_kept_of_finished_rows_and_exact_ones(engine: Engine, request_for: Make) -> None:
    """20 MiB a slot at SDXL's size: a row has them only while a later call will read them."""
    job, task = running(engine, request_for(scheduler="Euler a", samples=2, **NEAR))
    steps = (event for event in job.events() if event.state == "step")
    held = [
        len([t for row in task.rows for t in (row.deep.value, row.deep.before) if t is not None])
        for _ in steps
    ]
    assert max(held) == 4, "two values a row"
    job.result(WAIT_S)
    assert all(row.deep.value is None and row.deep.before is None for row in task.rows)
    _, exact = running(engine, request_for(scheduler="Euler a", num_inference_steps=18))
    exact.job.result(WAIT_S)
    assert all(row.deep.value is None for row in exact.rows)


@pytest.mark.parametrize("fault", ["oom@5", pytest.param("oom@9,oom@10", marks=pytest.mark.slow)])
def test_a_call_that_is_retried_in_halves_keeps_the_caches_apart(
    fault: str, model: Model, request_for: Make
) -> None:
    """After an out-of-memory every row goes on with its own level, in whatever calls its neighbours are."""
    requests = [request_for(scheduler="Euler a", seed=seed, prompt=f"{seed}", **NEAR) for seed in range(3)]
    with Engine(model, fast=ready(model, (DEEP_LEVEL,))) as engine:
        expected = [latents_of(engine, request)[0] for request in requests]
    with Engine(model, fast=ready(model, (DEEP_LEVEL,)), faults=Faults.parse(fault)) as engine:
        found = [running(engine, request) for request in requests]
        for (job, task), wanted in zip(found, expected, strict=True):
            job.result(WAIT_S)
            assert relative(task.rows[0].latents, wanted) <= TOLERANCE
        assert engine.stats().out_of_memory >= 1


def test_one_that_is_cancelled_leaves_the_others_their_caches(engine: Engine, request_for: Make) -> None:
    """Rows leave in the middle of their cached calls."""
    request = request_for(scheduler="Euler a", **NEAR)
    (expected,) = latents_of(engine, request)
    left, _ = running(engine, request_for(scheduler="DPM2 Karras", seed=9, **NEAR))
    job, task = running(engine, request)
    for event in left.events():
        if event.state == "step" and event.step >= 3:
            left.cancel()
    with pytest.raises(CancelledError):
        left.result(WAIT_S)
    job.result(WAIT_S)
    assert relative(task.rows[0].latents, expected) <= TOLERANCE


def test_a_row_that_is_painted_again_in_fp32_computes_every_level(
    checkpoint: Callable[[int], Path], request_for: Make
) -> None:
    """Half precision overflows in a cached call; the fp32 row has no cache in 16 bit, and needs none."""
    request = request_for(scheduler="Euler a", **NEAR)
    model = own_model("tiny", checkpoint, torch.bfloat16)
    calls: list[tuple[torch.dtype, bool]] = []

    def overflow(unet: Any, args: tuple[Any, ...], out: Any) -> Any:
        half = args[0].dtype == torch.bfloat16
        calls.append((args[0].dtype, unet.mid_block is None))
        return (torch.full_like(out[0], torch.nan),) if half and unet.mid_block is None else out

    model.unet.register_forward_hook(overflow)
    with Engine(model, fast=ready(model, (DEEP_LEVEL,))) as engine:
        job, task = running(engine, request)
        assert job.result(WAIT_S).images
    assert (torch.bfloat16, True) in calls
    assert (torch.float32, True) not in calls
    assert sum(dtype == torch.float32 for dtype, _ in calls) == request.call_plan.made
    assert task.rows[0].precise
    with Engine(own_model("tiny", checkpoint)) as engine:
        assert apart(task.rows[0].latents, latents_of(engine, request)[0]) < 0.03  # the VAE is in 16 bit


def test_loras_are_switched_between_cached_calls(
    checkpoint: Callable[[int], Path], model: Model, tmp_path: Path, request_for: Make
) -> None:
    """Rows of two styles take turns; each keeps the level that its own style computed."""
    write_lora(tmp_path, "two", model, ["unet"], seed=2)
    own = own_model("tiny", checkpoint)
    requests = [request_for(scheduler="Euler a", loras=loras, **NEAR) for loras in ("", "two:4")]
    with Engine(own, fast=ready(own, ("qkv", "text-kv", DEEP_LEVEL)), loras=tmp_path) as engine:
        alone = [latents_of(engine, request)[0] for request in requests]
        found = [running(engine, request) for request in requests]
        for (job, task), expected in zip(found, alone, strict=True):
            job.result(WAIT_S)
            assert relative(task.rows[0].latents, expected) <= TOLERANCE
        assert engine.stats().lora_switches > 4
    assert relative(alone[1], alone[0]) > 0.01


def test_a_server_forecasts_with_the_cache_only_where_the_engine_has_one(
    engine: Engine, model: Model, request_for: Make
) -> None:
    """Its promises are made from the engine's description, in another process."""
    request = request_for(scheduler="Euler a", **NEAR)
    described = Engines.from_json(Engines.of(engine).to_json())
    assert described.work(request, "").cached == request.call_plan.cached_calls
    assert described.work(replace(request, pace="exact"), "").cached == frozenset()
    with Engine(model) as plain:
        assert Engines.of(plain).work(request, "").cached == frozenset()


def test_the_callers_are_told_the_truth(engine: Engine, request_for: Make) -> None:
    """With a cache ``near`` changes pictures of samplers that add noise, too."""
    assert not engine.paint(request_for(scheduler="Euler a", **NEAR)).warnings
    assert "near changed nothing" in str(engine.paint(request_for(scheduler="Euler a", pace="near")).warnings)
