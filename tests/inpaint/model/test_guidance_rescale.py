"""Guidance that is scaled back to the prompt's own contrast: diffusers' formula, a factor for each row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import rescale_noise_cfg

from inpaint import Engine, InpaintRequest
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.vae import decode
from tests.inpaint.model.test_guidance_interval import rows_of, slots_of_calls
from tests.support.stock import PLAIN, stock_picture, stock_pipeline

Make = Callable[..., InpaintRequest]


@contextmanager
def rescaling(unet: Any, guidance_scale: float, factor: float) -> Iterator[None]:
    """Let stock's inpainting pipeline, which has no ``guidance_rescale``, do what its img2img pipeline does.

    Both halves of the UNet's output become diffusers' rescaled prediction, of which guidance makes itself.
    """
    forward = unet.forward

    def rescaled(*args: Any, **options: Any) -> tuple[torch.Tensor]:
        negative, positive = forward(*args, **options)[0].chunk(2)
        guided = negative + guidance_scale * (positive - negative)
        return (rescale_noise_cfg(guided, positive, guidance_rescale=factor).repeat(2, 1, 1, 1),)

    unet.forward = rescaled
    try:
        yield
    finally:
        del unet.forward


@pytest.mark.parametrize(
    ("scheduler", "in_channels"),
    [
        ("DPM2 Karras", 9),
        ("Euler", 4),
        *(pytest.param(name, 9, marks=pytest.mark.slow) for name in ("Euler", "UniPC", "Euler a")),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0])
def test_it_is_diffusers_formula_in_stocks_loop(
    factor: float, scheduler: str, in_channels: int, models: Callable[[int], Model], request_for: Make
) -> None:
    """Zero paints stock's picture, which is the default; 0.7 is what the paper uses."""
    model = models(in_channels)
    request = request_for(
        **PLAIN,
        scheduler=scheduler,
        num_inference_steps=6,
        guidance_scale=7.5,
        guidance_rescale=factor,
        seed=5,
    )
    (row,) = rows_of(model, request)
    while not row.done:
        step(model, [row])
    ours = decode(model, row.latents)[0]
    pipe = stock_pipeline(model)
    plain = stock_picture(pipe, model, request, seed=5)
    with rescaling(model.unet, 7.5, factor):
        expected = stock_picture(pipe, model, request, seed=5)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert ((ours - plain).abs().max() < 1e-4) == (factor == 0)


def test_rows_of_one_call_each_have_their_own(model: Model, request_for: Make) -> None:
    """A neighbour with another factor, or without guidance, changes no picture."""
    factors = [(7.5, 0.0), (7.5, 0.7), (12.0, 1.0), (1.0, 1.0), (3.0, 0.3)]
    requests = [
        request_for(**PLAIN, num_inference_steps=4, guidance_scale=scale, guidance_rescale=factor, seed=i)
        for i, (scale, factor) in enumerate(factors)
    ]
    together = [rows_of(model, request)[0] for request in requests]
    assert slots_of_calls(model, together)[0] == 9
    for request, row in zip(requests, together, strict=True):
        (alone,) = rows_of(model, request)
        slots_of_calls(model, [alone])
        torch.testing.assert_close(row.latents, alone.latents, rtol=0, atol=1e-4)


def test_without_guidance_there_is_nothing_to_scale(model: Model, request_for: Make) -> None:
    """One slot a call, and the same picture."""
    latents = []
    for factor in (0.0, 1.0):
        (row,) = rows_of(
            model, request_for(guidance_scale=1.0, guidance_rescale=factor, num_inference_steps=4, seed=5)
        )
        assert set(slots_of_calls(model, [row])) == {1}
        latents.append(row.latents)
    assert torch.equal(*latents)


@pytest.mark.parametrize("scheduler", ["Euler", "DPM2 Karras", "Euler a"])
def test_it_goes_with_the_pace_near(scheduler: str, engine: Engine, request_for: Make) -> None:
    """A forecast continues predictions that are scaled already, so near pictures stay near exact ones."""
    request = {"num_inference_steps": 24, "scheduler": scheduler, "guidance_rescale": 0.7, "seed": 5}
    (near,) = rows_of(engine.model, request_for(**request, pace="near"))
    (exact,) = rows_of(engine.model, request_for(**request))
    (unscaled,) = rows_of(engine.model, request_for(**{**request, "guidance_rescale": 0.0}))
    calls = [len(slots_of_calls(engine.model, [row])) for row in (near, exact, unscaled)]
    assert calls[0] <= calls[1]
    assert (near.latents - exact.latents).std() < (unscaled.latents - exact.latents).std()
