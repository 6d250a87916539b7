"""Soft inpainting: grey is strength. The oracle is the paper's rule, written with stock diffusers' parts.

Levin & Fried, "Differential Diffusion: Giving Each Pixel Its Strength", 2023: before step i of n, whatever is
to change by less than 1 - i/n is put back to the original at that step's noise.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.job import Job
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.vae import decode
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.schedulers import make_scheduler
from tests.support.examples import gated
from tests.support.stock import PLAIN, stock_pipeline

TOLERANCE = 1e-4
STEPS, STRENGTH, TAKEN = 7, 0.9, 6
GREYS = (0, 30, 110, 180, 255)  # none of them a multiple of 255 / TAKEN, where rounding would decide


@pytest.fixture(scope="session")
def bands() -> Image.Image:
    """A mask of upright bands, each a multiple of the latent cell wide and of one grey."""
    mask = np.zeros((128, 128), np.uint8)
    for i, grey in enumerate(GREYS):
        mask[:, 24 * i : 24 * (i + 1)] = grey
    return Image.fromarray(mask)


@torch.inference_mode()
def differential(model: Model, request: InpaintRequest) -> torch.Tensor:
    """(3, H, W) in 0 … 1 by the paper's rule."""
    pipe = stock_pipeline(model)
    sampler = pipe.scheduler = make_scheduler(request.scheduler, model.scheduler_config)
    fresh = make_scheduler(request.scheduler, model.scheduler_config)  # only ever adds noise
    for scheduler in (sampler, fresh):
        scheduler.set_timesteps(request.num_inference_steps)
    timesteps, _ = pipe.get_timesteps(request.num_inference_steps, request.strength, "cpu")
    generator = torch.Generator("cpu").manual_seed(request.seed)
    pixels = pipe.image_processor.preprocess(request.image)
    strength = torch.from_numpy(np.asarray(request.mask)[::8, ::8].astype(np.float32) / 255)[None, None]
    hole = torch.from_numpy(np.asarray(request.mask) >= 8)[None, None]
    original = pipe._encode_vae_image(pixels, generator)
    noise = torch.randn(original.shape, generator=generator)
    masked = pipe._encode_vae_image(pixels * ~hole, generator)
    predict = guided(pipe, request, (strength > 0).float(), masked)
    extra = pipe.prepare_extra_step_kwargs(generator, 0.0)

    of = -(-len(timesteps) // sampler.order)
    latents = fresh.add_noise(original, noise, timesteps[:1])
    for i in range(of):
        calls = timesteps[i * sampler.order : (i + 1) * sampler.order]
        back = fresh.add_noise(original, noise, calls[:1])
        latents = torch.where((1 - strength) > i / of, back, latents)
        for timestep in calls:
            latents = sampler.step(predict(latents, timestep), timestep, latents, **extra)[0].float()
    latents = torch.where(strength == 0, original, latents)
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample[0]
    return (decoded / 2 + 0.5).clamp(0, 1)


def guided(
    pipe: Any, request: InpaintRequest, mask: torch.Tensor, masked: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(latents, timestep) → the UNet's prediction, with classifier-free guidance."""
    prompt, negative, pooled, negative_pooled = pipe.encode_prompt(
        request.prompt, num_images_per_prompt=1, negative_prompt=None
    )
    height, width = request.image.size[::-1]
    sizes = torch.tensor([[height, width, 0, 0, height, width]] * 2, dtype=torch.float32)
    added = {"text_embeds": torch.cat([negative_pooled, pooled]), "time_ids": sizes}
    shown = [mask, masked] if pipe.unet.config.in_channels == 9 else []

    def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([pipe.scheduler.scale_model_input(latents, timestep), *shown], 1)
        hidden = torch.cat([negative, prompt])
        without, with_ = pipe.unet(
            torch.cat([seen] * 2), timestep, encoder_hidden_states=hidden, added_cond_kwargs=added
        ).sample.chunk(2)
        return without + request.guidance_scale * (with_ - without)

    return predict


def ours(model: Model, request: InpaintRequest) -> torch.Tensor:
    task = RunningRequest(Job(request, [request.seed]), cut(request, model.native_size))
    Stages(model).begin(task)
    (row,) = task.rows
    while not row.done:
        step(model, [row])
    return decode(model, row.latents)[0]


# One of each kind: first order in alphas and in sigmas, with history, second order, with fresh noise.
KINDS = ("DDIM", "Euler", "DPM Multi", "UniPC", "Heun", "DPM2 Karras", "DPM2 a Karras", "Euler a", "DDPM")


@pytest.mark.slow
@pytest.mark.parametrize("in_channels", [9, 4])
@pytest.mark.parametrize("scheduler", gated(KINDS, "Euler a"))
def test_grey_is_strength_as_the_paper_has_it(
    scheduler: str,
    in_channels: int,
    models: Callable[[int], Model],
    request_for: Callable[..., InpaintRequest],
    bands: Image.Image,
) -> None:
    """A user of A1111's or ComfyUI's soft inpainting gets the strength that the grey stands for."""
    request = request_for(
        **PLAIN,
        mask=bands,
        soft=True,
        scheduler=scheduler,
        num_inference_steps=STEPS,
        strength=STRENGTH,
        guidance_scale=4.0,
    )
    model = models(in_channels)
    expected = differential(model, request)
    assert expected.std() > 0.05, "the oracle must paint something"
    torch.testing.assert_close(ours(model, request), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("in_channels", [9, 4])
@pytest.mark.parametrize("scheduler", ["DPM2 Karras", "DDIM"])
def test_lighter_grey_changes_more_and_black_nothing(
    scheduler: str,
    in_channels: int,
    models: Callable[[int], Model],
    request_for: Callable[..., InpaintRequest],
    bands: Image.Image,
) -> None:
    """Four greys, four strengths; and where the mask is black the file's own bytes."""
    request = request_for(
        **PLAIN, mask=bands, soft=True, scheduler=scheduler, num_inference_steps=10, strength=1.0, samples=3
    )
    with Engine(models(in_channels)) as engine:
        pictures = engine.paint(request).images
    own = np.asarray(request.image, int)
    changed = np.mean([np.abs(np.asarray(picture, int) - own) for picture in pictures], (0, 1, 3))
    levels = [changed[24 * i : 24 * (i + 1)].mean() for i in range(len(GREYS))]
    assert levels[0] == 0
    assert all(less < more for less, more in pairwise(levels)), levels
