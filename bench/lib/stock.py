"""The stock diffusers pipeline as a contender: unchanged (A), and with its documentation's recipe (B)."""

import io
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from bench.lib.device import synchronize
from bench.lib.jobs import Upload
from inpaint.model.load import Model
from inpaint.request import InpaintRequest
from inpaint.schedulers import make_scheduler

# From "Accelerate inference" of diffusers' documentation: channels-last, one matrix for q, k and v, compiled.
RECIPES = ("max-autotune", "regional", "eager")


class Stock:
    """Diffusers' own ``StableDiffusionXLInpaintPipeline`` on the modules of a model."""

    def __init__(self, model: Model, recipe: str | None = None) -> None:
        """Args: recipe: one of ``RECIPES``, which changes the model's modules; None changes nothing."""
        from diffusers import StableDiffusionXLInpaintPipeline

        self.model = model
        self.pipe = StableDiffusionXLInpaintPipeline(
            vae=model.vae,
            text_encoder=model.text_encoders[0],
            text_encoder_2=model.text_encoders[1],
            tokenizer=model.tokenizers[0],
            tokenizer_2=model.tokenizers[1],
            unet=model.unet,
            scheduler=make_scheduler("DDIM", model.scheduler_config),
            force_zeros_for_empty_prompt=model.force_zeros_for_empty_prompt,
            add_watermarker=False,
        )
        self.pipe.set_progress_bar_config(disable=True)
        if recipe is not None:
            _follow(self.pipe, recipe)

    def paint(self, request: InpaintRequest, **extra: Any) -> Image.Image:
        """Paint one sample of the whole picture, PIL in, PIL out."""
        self.pipe.scheduler = make_scheduler(request.scheduler, self.model.scheduler_config)
        picture: Image.Image = self.pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            image=request.image,
            mask_image=request.mask,
            width=request.image.width,
            height=request.image.height,
            strength=request.strength,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            **extra,
        ).images[0]
        return picture

    def paint_upload(self, upload: Upload) -> bytes:
        """Paint from files to a JPEG, as a server around the pipeline would."""
        opened = (Image.open(io.BytesIO(data)) for data in (upload.image, upload.mask))
        picture, hole = (file.convert(mode) for file, mode in zip(opened, ("RGB", "L"), strict=True))
        painted = self.paint(InpaintRequest(image=picture, mask=hole, **upload.settings))
        file = io.BytesIO()
        painted.save(file, "JPEG", quality=95, subsampling=0)
        return file.getvalue()

    def stages(self, request: InpaintRequest) -> dict[str, float]:
        """Return the milliseconds before, in and after the step loop, from marks at the ends of its steps.

        No mark shows where the first step began: it is taken to be as long as the mean of the others, so at
        least two calls are needed.
        """
        marks: list[Mark] = [_mark(self.model.device)]
        self.paint(request, callback_on_step_end=_marking(marks, self.model.device))
        marks.append(_mark(self.model.device))
        synchronize(self.model.device)
        start, first, *_, last, end = marks
        steps = len(marks) - 2
        loop = _ms(first, last) * steps / (steps - 1)
        return {"encode": _ms(start, last) - loop, "denoise": loop, "decode": _ms(last, end)}


Mark = float | torch.cuda.Event


def _mark(device: torch.device) -> Mark:
    """Mark the time: on a GPU by an event in its queue, which waits for nothing; on a CPU in seconds."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _ms(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return 1000 * (end - begin)
    assert isinstance(begin, torch.cuda.Event)
    return float(begin.elapsed_time(end))


def _marking(marks: list[Mark], device: torch.device) -> Callable[..., dict[str, Any]]:
    def mark(pipe: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        marks.append(_mark(device))
        return tensors

    return mark


def _follow(pipe: Any, recipe: str) -> None:
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    pipe.fuse_qkv_projections()
    if recipe == "regional":
        pipe.unet.compile_repeated_blocks(fullgraph=True)
    elif recipe == "max-autotune":
        import torch._inductor.config as inductor

        inductor.conv_1x1_as_mm = True
        inductor.coordinate_descent_tuning = True
        inductor.coordinate_descent_check_all_directions = True
        inductor.epilogue_fusion = False
        pipe.unet = torch.compile(pipe.unet, mode="max-autotune", fullgraph=True)
        pipe.vae.decode = torch.compile(pipe.vae.decode, mode="max-autotune", fullgraph=True)
