"""Stock diffusers is the oracle: same weights, same seed, same pixels."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint import SCHEDULERS, Engine, InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.job import Job
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.row import Row
from inpaint.model.vae import decode
from inpaint.runtime.stages import RunningRequest, Stages
from tests.support.stock import PLAIN, PROMPTS, stock_picture, stock_pictures, stock_pipeline

TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def stock(models: Callable[[int], Model]) -> Callable[[int], object]:
    """in_channels → stock's pipeline on the very modules that our model holds."""
    return lambda in_channels: stock_pipeline(models(in_channels))


def begin(model: Model, request: InpaintRequest) -> RunningRequest:
    """A task with its rows, as the engine starts it."""
    task = RunningRequest(Job(request, request.seeds), cut(request, model.native_size))
    Stages(model).begin(task)
    return task


def run(model: Model, rows: list[Row]) -> list[torch.Tensor]:
    """Step rows together, each leaving when it is done; their pictures (3, H, W) in 0 … 1."""
    while waiting := [row for row in rows if not row.done]:
        step(model, waiting)
    return [decode(model, row.latents)[0] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_channels", "strength"),
    [(9, 0.3), pytest.param(9, 0.9, marks=pytest.mark.gate), (9, 1.0), (4, 0.3), (4, 0.9), (4, 1.0)],
)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_equals_the_stock_pipeline(
    scheduler: str,
    in_channels: int,
    strength: float,
    models: Callable[[int], Model],
    stock: Callable[[int], object],
    request_for: Callable[..., InpaintRequest],
) -> None:
    """A user who moves from diffusers to us gets the same picture, with every scheduler."""
    model = models(in_channels)
    request = request_for(
        **PLAIN,
        **PROMPTS,
        scheduler=scheduler,
        strength=strength,
        seed=11,
        num_inference_steps=7 if strength < 0.5 else 5,
        guidance_scale=7.5,
    )
    expected = stock_pictures(stock(in_channels), model, request, [11, 12, 13])
    assert min(picture.std() for picture in expected) > 0.05, "the oracle must paint something"
    for samples in (1, 3):
        ours = run(model, begin(model, replace(request, samples=samples)).rows)
        assert len(ours) == samples
        for picture, oracle in zip(ours, expected, strict=False):
            torch.testing.assert_close(picture, oracle, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("guidance_scale", [1.0, 0.0, 3.0])
@pytest.mark.parametrize("negative_prompt", [None, "", "blur"])
def test_equals_stock_at_any_guidance_and_negative(
    guidance_scale: float,
    negative_prompt: str | None,
    model: Model,
    stock: Callable[[int], object],
    request_for: Callable[..., InpaintRequest],
) -> None:
    """None and an empty negative prompt differ, and guidance up to 1 is none: as diffusers has it."""
    request = request_for(**PLAIN, guidance_scale=guidance_scale, negative_prompt=negative_prompt)
    expected = stock_picture(stock(9), model, request, seed=5)
    torch.testing.assert_close(run(model, begin(model, request).rows)[0], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_a_mixed_batch_equals_its_rows_one_by_one(
    model: Model, request_for: Callable[..., InpaintRequest]
) -> None:
    """A picture does not depend on who else is being served: schedulers, steps, guidance, strength, seeds."""
    variety = [
        {"scheduler": name, "num_inference_steps": 3 + i % 4, "strength": (0.5, 0.9, 1.0)[i % 3], "seed": i}
        for i, name in enumerate(SCHEDULERS)
    ]
    requests = [
        request_for(
            **PLAIN, **settings, guidance_scale=(7.5, 1.0, 3.0, 12.0)[i % 4], prompt="word " * (i * 9 + 1)
        )
        for i, settings in enumerate(variety)
    ]
    alone = [run(model, begin(model, request).rows)[0] for request in requests]
    together = run(model, [begin(model, request).rows[0] for request in requests])
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_the_engine_pastes_what_the_oracle_paints(
    engine: Engine, stock: Callable[[int], object], request_for: Callable[..., InpaintRequest]
) -> None:
    """Through the public door: inside the mask stock's pixels, to the rounding; outside the caller's own."""
    request = request_for(**PLAIN, **PROMPTS)
    expected = stock_picture(stock(9), engine.model, request, seed=5)
    ours = np.asarray(engine.paint(request).images[0], dtype=np.int16)
    theirs = (expected.permute(1, 2, 0) * 255).round().numpy().astype(np.int16)
    inside = np.asarray(request.mask) > 0
    assert np.abs(ours - theirs)[inside].max() <= 1
    assert (ours == np.asarray(request.image))[~inside].all()


@pytest.mark.parametrize("soft", [False, True])
def test_sample_i_of_seed_s_is_seed_s_plus_i(
    soft: bool, engine: Engine, request_for: Callable[..., InpaintRequest]
) -> None:
    """Four variations can be had again one at a time, by the seeds that came with them."""
    several = engine.paint(request_for(samples=3, seed=40, scheduler="Euler a", soft=soft))
    assert several.seeds == [40, 41, 42]
    for seed, image in zip(several.seeds, several.images, strict=True):
        alone = engine.paint(request_for(seed=seed, scheduler="Euler a", soft=soft)).images[0]
        assert pixel_difference(image, alone) <= 1


def pixel_difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures, in 8-bit levels."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())
