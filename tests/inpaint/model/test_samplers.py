"""The rows' samplers against stock diffusers, step by step, and against its ``add_noise``."""

from typing import Any

import pytest
import torch

from inpaint import SCHEDULERS
from inpaint.model.denoise import _begin_at
from inpaint.model.samplers import LMS, UniPC, make_sampler, take_step
from inpaint.schedulers import make_scheduler, noise_levels

SIZE = (1, 4, 6, 8)
# (num_inference_steps, strength): one step, two, warm-up alone, begun in the middle, and the API's default.
RUNS = [(1, 1.0), (2, 1.0), (4, 1.0), (9, 0.5), (25, 0.9)]


def both(name: str, steps: int, strength: float, config: dict[str, Any]) -> tuple[Any, Any, torch.Tensor]:
    """Our sampler, stock's, and the timesteps that are left."""
    ours, stock = make_sampler(name, config, steps), make_scheduler(name, config)
    stock.set_timesteps(steps)
    timesteps, _ = _begin_at(stock, steps, strength)
    assert torch.equal(_begin_at(ours, steps, strength)[0], timesteps)
    return ours, stock, timesteps


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("steps", "strength"), RUNS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_is_stocks(name: str, steps: int, strength: float, prediction_type: str) -> None:
    """What a step costs may change, not what it computes: the picture of diffusers, seed by seed."""
    ours, stock, timesteps = both(name, steps, strength, {"prediction_type": prediction_type})
    takes_generator = SCHEDULERS[name].step_takes_generator
    draws = [torch.Generator().manual_seed(7) for _ in range(2)]
    source = torch.Generator().manual_seed(1)
    latents = torch.randn(SIZE, generator=source) * float(stock.init_noise_sigma)
    for timestep in timesteps:
        prediction = torch.randn(SIZE, generator=source)
        for sampler in (ours, stock):
            sampler.scale_model_input(latents, timestep)
        extra = {"generator": draws[1]} if takes_generator else {}
        expected = stock.step(prediction, timestep, latents, **extra, return_dict=False)[0]
        found = take_step(name, ours, prediction, timestep, latents, draws[0])
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
        latents = expected.float()
    assert torch.equal(draws[0].get_state(), draws[1].get_state())


@pytest.mark.parametrize(("steps", "strength"), RUNS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_levels_are_stocks_add_noise(name: str, steps: int, strength: float) -> None:
    """4-channel checkpoints and soft masks get the original at exactly the noise that stock gives it."""
    _, stock, timesteps = both(name, steps, strength, {})
    levels = noise_levels(name, {}, steps)[-len(timesteps) :]
    assert len(levels) == len(timesteps)
    picture, noise, latents = torch.randn(3, *SIZE).unbind()
    for timestep, (of_picture, of_noise) in zip(timesteps, levels, strict=True):
        # As stock's pipeline does between two steps: the scheduler has taken those before.
        expected = stock.add_noise(picture, noise, timestep[None])
        assert torch.equal(of_picture * picture + of_noise * noise, expected)
        stock.scale_model_input(latents, timestep)
        stock.step(torch.randn(SIZE), timestep, latents)


def test_only_what_waits_is_not_stocks() -> None:
    """The fewer classes of our own, the less can differ from diffusers."""
    own = {name: type(make_sampler(name, {}, 3)) for name in SCHEDULERS}
    module = "inpaint.model.samplers"
    assert {name: cls for name, cls in own.items() if cls.__module__ == module} == {
        "LMS": LMS,
        "UniPC": UniPC,
    }


def test_weights_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To find them takes 24 ms for 25 steps: later rows copy what the first one found."""
    make_sampler("UniPC", {}, 12)
    monkeypatch.setattr(UniPC, "_prediction_of", None)
    make_sampler("UniPC", {}, 12)
