"""Guidance between two fractions of the steps: half the cost outside, and the oracle's pictures."""

from collections.abc import Callable

import pytest
import torch

from inpaint import SCHEDULERS, InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.job import Job
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.row import Row
from inpaint.model.unet import UNetBatch, plain
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.schedulers import make_scheduler
from tests.support.stock import PLAIN, stock_pipeline

Make = Callable[..., InpaintRequest]


def rows_of(model: Model, request: InpaintRequest) -> list[Row]:
    """The rows of a request, as the engine starts them."""
    task = RunningRequest(Job(request, request.seeds), cut(request, 128))
    Stages(model).begin(task)
    return task.rows


def slots_of_calls(model: Model, rows: list[Row]) -> list[int]:
    """Step rows to their end; how many slots each UNet call had."""
    slots: list[int] = []
    run = plain(model.unet)

    def forward(batch: UNetBatch) -> torch.Tensor:
        assert batch.time_ids.shape[0] == batch.hidden.shape[0] == batch.sample.shape[0]
        slots.append(batch.sample.shape[0])
        return run(batch)

    while waiting := [row for row in rows if not row.done]:
        step(model, waiting, forward)
    return slots


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
def test_outside_the_interval_a_row_takes_one_slot(name: str, model: Model, request_for: Make) -> None:
    """Who narrows the interval pays less, by whole steps, whatever the sampler."""
    settings = {"num_inference_steps": 10, "strength": 0.8, "scheduler": name}
    (row,) = rows_of(model, request_for(**settings, guidance_interval=(0.25, 0.75)))
    spec = SCHEDULERS[name]
    # PNDM spreads its one call more over the steps.
    step_of = [
        8 * call // 9 if spec.extra_calls else call // spec.order for call in range(len(row.timesteps))
    ]
    expected = [2 if 2 <= taken < 6 else 1 for taken in step_of]
    assert slots_of_calls(model, [row]) == expected


def test_the_default_is_guidance_throughout(model: Model, request_for: Make) -> None:
    """Opt-in: without it no picture changes."""
    (row,) = rows_of(model, request_for(num_inference_steps=4))
    assert slots_of_calls(model, [row]) == [2] * len(row.timesteps)
    (row,) = rows_of(model, request_for(num_inference_steps=4, guidance_scale=1.0))
    assert slots_of_calls(model, [row]) == [1] * len(row.timesteps)


@pytest.mark.parametrize("scheduler", ["DDIM", "Euler a", "UniPC"])
def test_it_equals_stock_with_its_guidance_switched_off_on_the_way(
    scheduler: str, model: Model, request_for: Make
) -> None:
    """diffusers' own recipe for the same, a callback that drops half of everything, paints the same."""
    pipe = stock_pipeline(model)
    pipe.scheduler = make_scheduler(scheduler, model.scheduler_config)
    request = request_for(
        **PLAIN,
        scheduler=scheduler,
        num_inference_steps=10,
        strength=0.8,
        guidance_scale=7.5,
        guidance_interval=(0, 0.5),
    )

    def switch_off(pipe: object, index: int, _: object, tensors: dict[str, torch.Tensor]) -> object:
        if index != 3:  # the fourth of eight
            return {}
        pipe._guidance_scale = 1.0
        return {name: tensor.chunk(2)[-1] for name, tensor in tensors.items()}

    names = ["prompt_embeds", "add_text_embeds", "add_time_ids", "mask", "masked_image_latents"]
    expected = pipe(
        prompt=request.prompt,
        image=request.image,
        mask_image=request.mask,
        width=128,
        height=128,
        strength=0.8,
        num_inference_steps=10,
        guidance_scale=7.5,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
        callback_on_step_end=switch_off,
        callback_on_step_end_tensor_inputs=names,
    ).images
    (row,) = rows_of(model, request)
    assert slots_of_calls(model, [row]) == [2] * 4 + [1] * 4
    torch.testing.assert_close(row.latents, expected, rtol=0, atol=1e-4)


def test_neighbours_do_not_notice(model: Model, request_for: Make) -> None:
    """Rows whose guidance comes and goes at different steps share calls, and paint what they paint alone."""
    requests = [
        request_for(**PLAIN, num_inference_steps=4 + i, guidance_interval=interval, prompt="word " * (1 + i))
        for i, interval in enumerate([(0.0, 1.0), (0.3, 0.6), (0.5, 1.0), (0.0, 0.5)])
    ]
    together = [rows_of(model, request)[0] for request in requests]
    slots = slots_of_calls(model, together)
    assert len(set(slots[:3])) > 1, "the batch changes its size while its rows stay"
    for request, row in zip(requests, together, strict=True):
        (alone,) = rows_of(model, request)
        slots_of_calls(model, [alone])
        torch.testing.assert_close(row.latents, alone.latents, rtol=0, atol=1e-4)


def test_settings_that_came_as_json_are_the_same_request(request_for: Make) -> None:
    """Between processes a tuple becomes a list."""
    assert request_for(guidance_interval=[0, 0.5]).guidance_interval == (0.0, 0.5)
