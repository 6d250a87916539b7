"""Stock diffusers on the modules of a loaded model: the oracle of the engine's tests."""

from typing import Any

import torch

from bench.lib.stock import Stock
from inpaint import InpaintRequest
from inpaint.model.load import Model
from inpaint.schedulers import make_scheduler

# With these our pictures are stock's: no growing, blending or fitting of colours, which stock does not do.
PLAIN: dict[str, Any] = {"area": "whole", "grow": 0, "feather": 0, "color_match": False}
PROMPTS = {"prompt": "A man with black sun glasses", "negative_prompt": "bad quality, painting, blur"}


def stock_pipeline(model: Model) -> Any:
    """Stock's pipeline on the very modules that our model holds."""
    return Stock(model).pipe


def stock_picture(pipe: object, model: Model, request: InpaintRequest, seed: int) -> torch.Tensor:
    """(3, H, W) in 0 … 1, painted by the pipeline's own ``__call__``."""
    return stock_pictures(pipe, model, request, [seed])[0]


def stock_pictures(pipe: Any, model: Model, request: InpaintRequest, seeds: list[int]) -> torch.Tensor:
    """(len(seeds), 3, H, W) in 0 … 1, painted by one ``__call__`` with a generator for each seed.

    A list of pictures, not ``num_images_per_prompt``: that encodes the picture once, with the first
    generator's draws, so that every later seed paints another picture than it does alone.
    """
    pipe.scheduler = make_scheduler(request.scheduler, model.scheduler_config)
    width, height = request.image.size
    pictures: torch.Tensor = pipe(
        prompt=[request.prompt] * len(seeds),
        negative_prompt=None if request.negative_prompt is None else [request.negative_prompt] * len(seeds),
        image=[request.image] * len(seeds),
        mask_image=[request.mask] * len(seeds),
        width=width,
        height=height,
        strength=request.strength,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="pt",
    ).images
    return pictures
