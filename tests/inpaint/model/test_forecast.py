"""Pace ``near``: rows of which some predictions are forecast; the oracle is stock diffusers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from inpaint import SCHEDULERS, Engine, InpaintRequest
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch, plain
from inpaint.model.vae import pictures
from tests.inpaint.model.test_guidance_interval import rows_of, slots_of_calls
from tests.support.stock import PLAIN, stock_picture, stock_pipeline

Make = Callable[..., InpaintRequest]
FORESEEABLE = [name for name, spec in SCHEDULERS.items() if not spec.adds_noise and spec.near_from]


class Forecasting:
    """A UNet's forward that answers the calls of some positions in a line through its last two answers."""

    def __init__(self, forward: Callable[..., Any], positions: frozenset[int]) -> None:
        self.unet_forward, self.positions = forward, positions
        self.position = 0
        self.answers: list[tuple[float, torch.Tensor]] = []

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **rest: Any) -> tuple[torch.Tensor]:
        at, t = self.position, float(timestep)
        self.position += 1
        if at in self.positions:
            last, latest = self.answers[-1]
            before, older = next(pair for pair in reversed(self.answers) if pair[0] != last)
            return (latest + (latest - older) * (t - last) / (last - before),)
        out: torch.Tensor = self.unet_forward(sample, timestep, **rest)[0]
        self.answers.append((t, out))
        return (out,)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("DPM2 Karras", "Heun") else pytest.mark.slow)
        for name in FORESEEABLE
    ],
)
def test_near_is_stock_with_a_unet_that_forecasts(
    name: str, model: Model, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sampler gets must be the line's value at its own time, whatever its order and its history."""
    request = request_for(
        scheduler=name, num_inference_steps=18, strength=0.9, guidance_scale=3.0, pace="near", **PLAIN
    )
    plan = request.call_plan
    assert plan.forecast
    forecasting = Forecasting(model.unet.forward, plan.forecast)
    with monkeypatch.context() as patch:
        patch.setattr(model.unet, "forward", forecasting)
        expected = stock_picture(stock_pipeline(model), model, request, seed=5)
    assert forecasting.position == plan.calls
    rows = rows_of(model, request)
    slots_of_calls(model, rows)
    got = pictures(model, rows[0].latents)[0]
    assert got is not None
    assert float((torch.from_numpy(got).permute(2, 0, 1) - expected).abs().max()) <= 1e-4


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_unet_is_called_as_often_as_planned(name: str, model: Model, request_for: Make) -> None:
    """Work, prices and waiting times are reckoned from the plan."""
    request = request_for(scheduler=name, num_inference_steps=16, strength=1.0, pace="near")
    rows = rows_of(model, request)
    assert len(slots_of_calls(model, rows)) == request.call_plan.made
    assert all(row.position == request.call_plan.calls for row in rows)


def test_guidance_that_ends_is_not_forecast_across(model: Model, request_for: Make) -> None:
    """A row whose guidance ends half way takes one slot from there on, and as many calls as planned."""
    request = request_for(num_inference_steps=24, strength=1.0, pace="near", guidance_interval=(0.0, 0.5))
    slots = slots_of_calls(model, rows_of(model, request))
    assert len(slots) == request.call_plan.made
    assert slots == sorted(slots, reverse=True)


def test_an_exact_row_keeps_no_predictions(model: Model, request_for: Make) -> None:
    """Two predictions a row are memory that only forecasts need."""
    exact, near = (
        rows_of(model, request_for(num_inference_steps=20, strength=1.0, pace=pace))[0]
        for pace in ("exact", "near")
    )
    run = plain(model.unet)

    def forward(batch: UNetBatch) -> torch.Tensor:
        return run(batch)

    for _ in range(5):
        step(model, [exact, near], forward)
    assert (len(exact.made), len(near.made)) == (0, 2)


def test_the_caller_is_told_when_near_changes_nothing(model: Model, request_for: Make) -> None:
    """Who asked for half the time wants to know why it was not."""
    with Engine(model) as engine:
        result = engine.paint(request_for(scheduler="Euler a", pace="near"))
    assert any("pace: near changed nothing: Euler a adds noise" in warning for warning in result.warnings)
