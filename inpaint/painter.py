"""The stages around the step loop, in the engine's thread: a request to rows, finished rows to pictures."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from PIL import Image

from inpaint.canvas import Canvas, latent_mask, latent_soft_mask, paste
from inpaint.denoise import Conditioning, Row, start_row
from inpaint.encodes import PictureEncoder
from inpaint.errors import PaintError
from inpaint.job import Job
from inpaint.latents import Previewer, pictures, to_mask
from inpaint.models import Model
from inpaint.prompts import CHUNK_TOKENS, MAX_CHUNKS, PromptEncoder
from inpaint.request import InpaintRequest, InpaintResult


@dataclass(slots=True, eq=False)
class Task:
    """The engine's side of a job: its canvas, its rows, and the pictures that are ready."""

    job: Job
    canvas: Canvas
    rows: list[Row] = field(default_factory=list)
    images: dict[int, Image.Image] = field(default_factory=dict)  # by sample
    warnings: tuple[str, ...] = ()
    reported: tuple[int, int] = (0, 0)
    submitted_at: float = field(default_factory=time.monotonic)
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's seconds to ``timings``."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.monotonic() - started

    @property
    def steps(self) -> tuple[int, int]:
        """(taken, of) steps, averaged over the rows."""
        return sum(row.step for row in self.rows) // len(self.rows), self.rows[0].num_steps

    def result(self) -> InpaintResult:
        """What the caller gets, once every row has its picture."""
        return InpaintResult(
            images=[self.images[i] for i in range(len(self.rows))],
            seeds=self.job.seeds,
            box=self.canvas.box,
            warnings=self.warnings,
            timings=dict(self.timings),
        )


class Painter:
    """A model with its prompt cache and its previewer."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._prompts = PromptEncoder(model)
        self._pictures = PictureEncoder(model)
        self._previewer: Previewer | None = None

    def begin(self, task: Task) -> None:
        """Encode a task's prompts and pictures and start its rows."""
        request = task.job.request
        conditioning = self._conditioning(request, task.canvas)
        task.warnings = _warnings(request, conditioning)
        task.rows = [
            start_row(
                self.model,
                conditioning,
                scheduler=request.scheduler,
                num_inference_steps=request.num_inference_steps,
                strength=request.strength,
                guidance_scale=request.guidance_scale,
                guidance_interval=request.guidance_interval,
                seed=seed,
            )
            for seed in task.job.seeds
        ]

    def _conditioning(self, request: InpaintRequest, canvas: Canvas) -> Conditioning:
        model = self.model
        prompt, negative = self._prompts.pair(request.prompt, request.negative_prompt)
        image, masked_image = self._pictures.pair(canvas.image, canvas.mask)
        mask = to_mask(latent_mask(canvas.mask, model.vae_factor)).to(model.device)
        soft = canvas.soft_mask
        return Conditioning(
            prompt=prompt,
            negative=negative,
            image=image,
            masked_image=masked_image,
            mask=mask,
            soft_mask=None
            if soft is None
            else to_mask(latent_soft_mask(soft, model.vae_factor)).to(model.device),
        )

    def finish(self, task: Task, sample: int) -> None:
        """Decode one finished row and paste it into the caller's picture.

        Raises:
            PaintError: the model painted NaN.
        """
        (painted,) = pictures(self.model, task.rows[sample].latents)
        if painted is None:
            raise PaintError(
                "the model painted NaN instead of a picture; try another seed, or --dtype float32"
            )
        task.images[sample] = paste(task.canvas, painted)

    def preview(self, estimate: torch.Tensor) -> Image.Image:
        """A small rough picture of latents (1, 4, h, w), one pixel a cell."""
        if self._previewer is None:
            self._previewer = Previewer.fit(self.model)
        return self._previewer(estimate)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, which for torch's errors is the one that tells."""
    return (str(error).splitlines() or [""])[0]


def empty_cache(device: torch.device) -> None:
    """Give cached blocks back to the driver, after an out-of-memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _warnings(request: InpaintRequest, conditioning: Conditioning) -> tuple[str, ...]:
    limit = MAX_CHUNKS * CHUNK_TOKENS
    named = (("prompt", conditioning.prompt.dropped), ("negative_prompt", conditioning.negative.dropped))
    cut = [f"{name}: only {limit} tokens fit; this was cut off: {text!r}" for name, text in named if text]
    if request.strength == 1.0:
        cut.append("strength: at exactly 1 SDXL's inpainting model paints noisy pictures; 0.99 is better")
    return tuple(cut)
