"""The rows' samplers against stock diffusers, step by step, and against its ``add_noise``."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from inpaint import SCHEDULERS
from inpaint.model.row import begin_at
from inpaint.model.samplers import LMS, UniPC, make_sampler, take_step
from inpaint.schedulers import make_scheduler, noise_levels

SIZE = (1, 4, 6, 8)
# (num_inference_steps, strength): one step, two, warm-up alone, begun in the middle, and the API's default.
RUNS = [(1, 1.0), (2, 1.0), (4, 1.0), (9, 0.5), (25, 0.9)]


def both(name: str, steps: int, strength: float, config: dict[str, Any]) -> tuple[Any, Any, torch.Tensor]:
    """Our sampler, stock's, and the timesteps that are left."""
    ours, stock = make_sampler(name, config, steps), make_scheduler(name, config)
    stock.set_timesteps(steps)
    timesteps, _ = begin_at(stock, steps, strength)
    assert torch.equal(begin_at(ours, steps, strength)[0], timesteps)
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


KARRAS_2M = ["DPM Multi Karras", "DPM Multi SDE Karras"]


@pytest.mark.parametrize("name", [*KARRAS_2M, "DPM Single Karras"])
def test_karras_noise_levels_are_the_papers(name: str) -> None:
    """Equation 5 of Karras et al. (2022), rho 7, between the model's own levels, as k-diffusion has it."""
    sampler = make_sampler(name, {}, 12)
    table = ((1 - sampler.alphas_cumprod) / sampler.alphas_cumprod).sqrt()
    ramp = torch.linspace(0, 1, 12, dtype=torch.float64)
    low, high = float(table[0]) ** (1 / 7), float(table[-1]) ** (1 / 7)
    expected = torch.cat([(high + ramp * (low - high)) ** 7, torch.zeros(1)])
    torch.testing.assert_close(sampler.sigmas.double(), expected.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", [*KARRAS_2M, "DPM Single Karras"])
def test_timesteps_that_occur_twice_are_two_steps(name: str) -> None:
    """From 50 steps on the last of Karras's levels round to one timestep; none of them may be skipped."""
    timesteps = make_sampler(name, {}, 100).timesteps.tolist()
    assert len(set(timesteps)) < len(timesteps)
    test_every_step_is_stocks(name, 100, 0.3, "epsilon")


def denoised_by_steps(name: str, x: torch.Tensor, spread: float, steps: int) -> torch.Tensor:
    """The end of our sampler for data of one Gaussian, whose denoiser is known, from noise ``x``."""
    sampler, draws = make_sampler(name, {}, steps), torch.Generator().manual_seed(7)
    latents = x
    for sigma, timestep in zip(sampler.sigmas.tolist(), sampler.timesteps, strict=False):
        scale = (1 + sigma**2) ** 0.5  # diffusers keeps x / scale
        noise = latents * scale * sigma / (spread**2 + sigma**2)
        latents = take_step(name, sampler, noise, timestep, latents, draws)
    return latents


def k_diffusions_2m_sde(
    sigmas: list[float], x: torch.Tensor, spread: float, draws: torch.Generator
) -> torch.Tensor:
    """``sample_dpmpp_2m_sde`` of k-diffusion with its default eta of 1, midpoint, for the same data."""
    old, h_last = None, 0.0
    for sigma, following in pairwise(sigmas):
        noise = torch.randn(x.shape, generator=draws)
        denoised = x * spread**2 / (spread**2 + sigma**2)
        if following == 0:
            return denoised
        h = math.log(sigma) - math.log(following)
        x = following / sigma * math.exp(-h) * x - math.expm1(-2 * h) * denoised
        if old is not None:
            x = x - 0.5 * math.expm1(-2 * h) * h / h_last * (denoised - old)
        x = x + noise * following * math.sqrt(-math.expm1(-2 * h))
        old, h_last = denoised, h
    return x


@pytest.mark.parametrize("name", ["DPM Multi SDE", "DPM Multi SDE Karras"])
def test_dpm_multi_sde_is_k_diffusions(name: str) -> None:
    """A user of "DPM++ 2M SDE" gets that sampler; ours draws its noise from the row's generator alone."""
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    sigmas = make_sampler(name, {}, 12).sigmas.tolist()
    theirs = k_diffusions_2m_sde(
        sigmas, x * (1 + sigmas[0] ** 2) ** 0.5, 0.8, torch.Generator().manual_seed(7)
    )
    ours = denoised_by_steps(name, x, 0.8, 12)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert torch.equal(ours, denoised_by_steps(name, x, 0.8, 12))


@pytest.mark.parametrize("name", [*KARRAS_2M, "DPM Single Karras", "DPM Multi SDE"])
def test_a_gaussian_comes_out_as_wide_as_it_is(name: str) -> None:
    """Too much or too little noise at each step shows as grain or as smear in every picture."""
    x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    assert float(denoised_by_steps(name, x, 0.8, 50).std()) == pytest.approx(0.8, rel=0.03)


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
