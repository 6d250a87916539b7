"""The stages before and after the step loop: from requests to rows, and from finished rows to pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from inpaint import cuda
from inpaint.batching.batcher import QueuedWork
from inpaint.canvas.crop import Canvas, paste
from inpaint.canvas.mask import latent_mask, latent_soft_mask
from inpaint.errors import CancelledError, PaintError
from inpaint.job import CANCELLED, CLOSED, Job
from inpaint.lora.cache import LoraCache
from inpaint.lora.spec import effective
from inpaint.model.denoise import Conditioning, Row, start_row
from inpaint.model.load import Model
from inpaint.model.prompt import CHUNK_TOKENS, MAX_CHUNKS, PromptEncoder
from inpaint.model.vae import Previewer, pictures, to_mask
from inpaint.model.vae_cache import PictureEncoder
from inpaint.pace import UNCHANGED
from inpaint.prompt_warnings import prompt_warnings
from inpaint.request import InpaintRequest, InpaintResult


@dataclass(slots=True, eq=False)
class RunningRequest:
    """A job with its canvas, its rows, and its finished pictures."""

    job: Job
    canvas: Canvas
    # The entries in the batcher → the number of each entry's first row.
    entries: dict[QueuedWork, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    fresh: bool = True  # the VAE encoded its pictures; they did not come from the cache
    # The latents as predicted so far, (1, 4, h, w) on the CPU, of watched samples.
    estimates: dict[int, torch.Tensor] = field(default_factory=dict)
    decoding: set[int] = field(default_factory=set)  # samples that left the step loop
    images: dict[int, Image.Image] = field(default_factory=dict)  # by sample
    warnings: tuple[str, ...] = ()
    reported: tuple[int, int] = (0, 0)  # ``steps`` at the last event
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage

    def spend(self, stage: str, seconds: float) -> None:
        """Add seconds to one stage of ``timings``."""
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds

    def download_estimate(self, row: Row) -> Callable[[], None]:
        """Start copying a row's estimate; return what puts it into ``estimates`` once its call has ended.

        So previews never wait for a call: on a GPU they show the call before the latest.
        """
        assert row.estimate is not None, "only of a watched row that was stepped"
        host, row.estimate = cuda.runtime.start_download(row.estimate), None
        return partial(self.estimates.__setitem__, self.rows.index(row), host)

    def row(self, entry: QueuedWork, sample: int) -> Row:
        """Return the row of a sample of an entry in the batcher."""
        return self.rows[self.entries[entry] + sample]

    @property
    def entry(self) -> QueuedWork:
        """The first entry; the others are rows that are painted again in fp32."""
        return next(iter(self.entries))

    @property
    def steps(self) -> tuple[int, int]:
        """The (taken, total) steps, averaged over the rows."""
        return sum(row.step for row in self.rows) // len(self.rows), self.rows[0].num_steps

    @property
    def complete(self) -> bool:
        """True once every sample has its picture."""
        return len(self.images) == len(self.rows)

    def result(self) -> InpaintResult:
        """Return the job's result; only once it is complete."""
        return InpaintResult(
            images=[self.images[i] for i in range(len(self.rows))],
            seeds=self.job.seeds,
            box=self.canvas.box,
            warnings=self.warnings,
            timings=dict(self.timings),
        )


class Stages:
    """An encoder and decoder of requests: a model with its prompt cache, its LoRAs and its previewer."""

    def __init__(self, model: Model, loras: Path | None = None, *, deep_cache: bool = False) -> None:
        """Start with empty caches.

        Args:
            model: encodes and decodes.
            loras: the folder of LoRA files.
            deep_cache: calls of ``model`` can take the UNet's deepest level from a cache.
        """
        self.model = model
        self._deep_cache = deep_cache
        rest = model.device if model.plan.unet == "resident" else torch.device("cpu")
        self._library = LoraCache(model.unet, model.text_encoders, rest, loras)
        self._prompts = PromptEncoder(model)
        self._pictures = PictureEncoder(model)
        self._previewer: Previewer | None = None
        self._stopped = False

    def stop(self) -> None:
        """Have :meth:`begin` give up between two rows, because the engine closes."""
        self._stopped = True

    def begin(self, task: RunningRequest) -> None:
        """Encode a request's prompts and pictures and start its rows.

        Raises:
            CancelledError: the job was cancelled, or the engine closes.
        """
        if self._previewer is None:  # not in __init__: the VAE belongs to the thread that encodes
            self._previewer = Previewer.fit(self.model)
        request, encoded = task.job.request, self._pictures.encoded
        conditioning = self._conditioning(request, task.canvas)
        task.fresh = self._pictures.encoded > encoded
        task.warnings = _warnings(request, conditioning, self.model, deep_cache=self._deep_cache)
        rows = []
        for seed in task.job.seeds:
            if self._stopped or task.job.cancelled:
                raise CancelledError(CLOSED if self._stopped else CANCELLED)
            rows.append(self._start(request, conditioning, seed))
        task.rows = rows

    def begin_again(self, task: RunningRequest, sample: int) -> None:
        """Start a row again in fp32, because half precision gave NaN."""
        conditioning, seed = task.rows[sample].conditioning, task.job.seeds[sample]
        task.rows[sample] = self._start(task.job.request, conditioning, seed, precise=True)

    def _start(
        self, request: InpaintRequest, conditioning: Conditioning, seed: int, *, precise: bool = False
    ) -> Row:
        return start_row(
            self.model,
            conditioning,
            scheduler=request.scheduler,
            num_inference_steps=request.num_inference_steps,
            strength=request.strength,
            guidance_scale=request.guidance_scale,
            guidance_interval=request.guidance_interval,
            guidance_rescale=request.guidance_rescale,
            pace=request.pace,
            deep_cache=self._deep_cache,
            seed=seed,
            precise=precise,
        )

    def _conditioning(self, request: InpaintRequest, canvas: Canvas) -> Conditioning:
        model = self.model
        loras = self._library.load(effective(request.loras))
        prompt, negative = self._prompts.pair(request.prompt, request.negative_prompt, loras)
        image, masked_image = self._pictures.pair(canvas.image, canvas.mask)
        mask = cuda.runtime.upload(to_mask(latent_mask(canvas.mask, model.vae_factor)), model.device)
        soft = canvas.soft_mask
        return Conditioning(
            prompt=prompt,
            negative=negative,
            image=image,
            masked_image=masked_image,
            mask=mask,
            soft_mask=None
            if soft is None
            else cuda.runtime.upload(to_mask(latent_soft_mask(soft, model.vae_factor)), model.device),
            loras=loras,
        )

    def decode(self, rows: Sequence[Row]) -> list[Any]:
        """Decode rows of one bucket to pictures (H, W, 3) in 0..1, with a PaintError in place of NaN."""
        found = pictures(self.model, torch.cat([row.latents for row in rows]))
        return [PaintError(_NAN) if picture is None else picture for picture in found]

    @staticmethod
    def finish(task: RunningRequest, sample: int, painted: Any) -> None:
        """Paste a decoded picture (H, W, 3) into the caller's picture."""
        task.images[sample] = paste(task.canvas, painted)

    def preview(self, task: RunningRequest) -> Image.Image | None:
        """Make a small rough picture of the first watched sample, one pixel for each latent pixel."""
        assert self._previewer is not None, "fitted before the first row"
        return self._previewer(task.estimates[min(task.estimates)]) if task.estimates else None


_ROUNDED = (
    "memory: the model's weights are rounded to 8 bit to fit into this GPU, which changes pictures a little; "
    "--memory streamed paints the exact ones, more slowly"
)
_NAN = "the model produced NaN instead of a picture; try another seed, or --dtype float32"


def _warnings(
    request: InpaintRequest, conditioning: Conditioning, model: Model, *, deep_cache: bool
) -> tuple[str, ...]:
    limit = MAX_CHUNKS * CHUNK_TOKENS
    named = (("prompt", conditioning.prompt.dropped), ("negative_prompt", conditioning.negative.dropped))
    warnings = [
        *prompt_warnings("prompt", request.prompt),
        *prompt_warnings("negative_prompt", request.negative_prompt),
    ]
    for name, text in named:
        if text:
            end = f"this end was ignored: {text!r}"
            warnings.append(f"{name}: only {limit} tokens fit, in {MAX_CHUNKS} chunks; {end}")
    if request.strength == 1.0:
        warnings.append("strength: SDXL's inpainting model paints noisy pictures at exactly 1; use 0.99")
    if request.call_plan.reason and not (deep_cache and request.call_plan.cached):
        warnings.append(UNCHANGED + request.call_plan.reason)
    warnings += conditioning.loras.warnings
    if model.plan.unet == "fp8":
        warnings.append(_ROUNDED)
    return tuple(warnings)
