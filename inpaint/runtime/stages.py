"""The stages before and after the step loop: from requests to rows, and from finished rows to pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from inpaint import cuda
from inpaint.batching.batcher import QueuedWork
from inpaint.canvas.crop import Canvas, Cut, assembled, patch
from inpaint.canvas.mask import latent_mask, latent_soft_mask
from inpaint.canvas.mosaic import Mosaic
from inpaint.errors import CancelledError, PaintError
from inpaint.job import CANCELLED, CLOSED, Job
from inpaint.lora.cache import LoraCache
from inpaint.lora.spec import effective
from inpaint.model.load import Model
from inpaint.model.prompt import CHUNK_TOKENS, MAX_CHUNKS, PromptEncoder
from inpaint.model.row import Conditioning, Row, start_row
from inpaint.model.vae import Previewer, pictures, to_mask
from inpaint.model.vae_cache import PictureEncoder
from inpaint.pace import UNCHANGED
from inpaint.prompt_warnings import prompt_warnings
from inpaint.request import InpaintRequest, InpaintResult


@dataclass(slots=True, eq=False)
class RunningRequest:
    """A job with its boxes, its rows, and its finished pictures.

    Rows are numbered: those of the first box, one for each sample, then those of the next.
    """

    job: Job
    cut: Cut
    # The entries in the batcher → the number of each entry's first row.
    entries: dict[QueuedWork, int] = field(default_factory=dict)
    begun: dict[int, list[Row]] = field(default_factory=dict)  # by box, once it is encoded
    # The latents as predicted so far, (1, 4, h, w) on the CPU, of watched rows, by number.
    estimates: dict[int, torch.Tensor] = field(default_factory=dict)
    decoding: set[int] = field(default_factory=set)  # rows that left the step loop
    patches: dict[int, Image.Image] = field(default_factory=dict)  # finished boxes, by row
    images: dict[int, Image.Image] = field(default_factory=dict)  # by sample
    done: set[int] = field(default_factory=set)  # rows whose patches the loop knows of
    warnings: tuple[str, ...] = ()
    reported: tuple[int, int] = (0, 0)  # ``steps`` at the last event
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage
    mosaic: Mosaic | None = None  # of the previews of several boxes

    def spend(self, stage: str, seconds: float) -> None:
        """Add seconds to one stage of ``timings``."""
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds

    def download_estimate(self, row: Row) -> Callable[[], None]:
        """Start copying a row's estimate; return what puts it into ``estimates`` once its call has ended.

        So previews never wait for a call: on a GPU they show the call before the latest.
        """
        assert row.estimate is not None, "only of a watched row that was stepped"
        host, row.estimate = cuda.runtime.start_download(row.estimate), None
        number = next(number for number, other in self.numbered() if other is row)
        return partial(self.estimates.__setitem__, number, host)

    @property
    def samples(self) -> int:
        """The number of pictures."""
        return len(self.job.seeds)

    @property
    def rows(self) -> list[Row]:
        """The rows of all boxes that are encoded."""
        return [row for _, row in self.numbered()]

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """Yield the rows of all boxes that are encoded, with their numbers."""
        for box in range(len(self.cut.canvases)):
            yield from enumerate(self.begun.get(box, ()), box * self.samples)

    def row(self, number: int) -> Row:
        """Return a row by its number; its box must be encoded."""
        box, sample = divmod(number, self.samples)
        return self.begun[box][sample]

    def row_of(self, entry: QueuedWork, sample: int) -> Row:
        """Return the row of a sample of an entry in the batcher."""
        return self.row(self.entries[entry] + sample)

    def box(self, entry: QueuedWork) -> int:
        """Return the number of the box of an entry in the batcher."""
        return self.entries[entry] // self.samples

    @property
    def entry(self) -> QueuedWork:
        """The first entry; the others are further boxes, and rows that are painted again in fp32."""
        return next(iter(self.entries))

    @property
    def steps(self) -> tuple[int, int]:
        """The (taken, total) steps, averaged over the rows of all boxes."""
        taken = sum(row.step for row in self.rows)
        return taken // (self.samples * len(self.cut.canvases)), self.job.request.steps_to_run

    def pasted(self, number: int) -> bool:
        """Note that a row's patch is there; return True if it was the last of its sample."""
        self.done.add(number)
        return self.done.issuperset(self._rows_of(number % self.samples))

    @property
    def complete(self) -> bool:
        """True once every sample has its picture."""
        return len(self.done) == self.samples * len(self.cut.canvases)

    def paste(self, number: int, finished: Image.Image) -> None:
        """Keep a row's patch, and make the picture of its sample if it was the last."""
        self.patches[number] = finished
        sample = number % self.samples
        rows = self._rows_of(sample)
        # Two threads paste: the later of the last two sees both. If each does, they make the same picture.
        if all(row in self.patches for row in rows):
            boxes = [canvas.box for canvas in self.cut.canvases]
            pairs = zip(boxes, [self.patches[row] for row in rows], strict=True)
            self.images[sample] = assembled(self.cut.canvases[0].original, pairs)

    def _rows_of(self, sample: int) -> range:
        return range(sample, self.samples * len(self.cut.canvases), self.samples)

    def result(self) -> InpaintResult:
        """Return the job's result; only once it is complete."""
        boxes = tuple(canvas.box for canvas in self.cut.canvases)
        return InpaintResult(
            images=[self.images[i] for i in range(self.samples)],
            seeds=self.job.seeds,
            box=self.cut.box,
            warnings=self.warnings,
            timings=dict(self.timings),
            boxes=boxes if len(boxes) > 1 else (),
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

    def begin(self, task: RunningRequest, box: int = 0) -> bool:
        """Encode a request's prompts and the pictures of one box, and start its rows.

        Returns:
            True if the VAE encoded the pictures, so that they did not come from the cache.

        Raises:
            CancelledError: the job was cancelled, or the engine closes.
        """
        if self._previewer is None:  # not in __init__: the VAE belongs to the thread that encodes
            self._previewer = Previewer.fit(self.model)
        request, encoded = task.job.request, self._pictures.encoded
        conditioning = self._conditioning(request, task.cut.canvases[box])
        fresh = self._pictures.encoded > encoded
        about_request = _warnings(request, conditioning, self.model, deep_cache=self._deep_cache)
        task.warnings = (*task.cut.warnings, *about_request)
        rows = []
        for seed in task.job.seeds:
            if self._stopped or task.job.cancelled:
                raise CancelledError(CLOSED if self._stopped else CANCELLED)
            # Each box has the seed itself, so that it is painted as it would be alone.
            rows.append(self._start(request, conditioning, seed))
        task.begun[box] = rows
        return fresh

    def begin_again(self, task: RunningRequest, number: int) -> None:
        """Start a row again in fp32, because half precision gave NaN."""
        box, sample = divmod(number, task.samples)
        conditioning, seed = task.begun[box][sample].conditioning, task.job.seeds[sample]
        task.begun[box][sample] = self._start(task.job.request, conditioning, seed, precise=True)

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
    def finish(task: RunningRequest, number: int, painted: Any) -> None:
        """Paste a row's decoded picture (H, W, 3) into the caller's picture."""
        task.paste(number, patch(task.cut.canvases[number // task.samples], painted))

    def preview(self, task: RunningRequest) -> Image.Image | None:
        """Make a small rough picture of the first watched sample, one pixel for each latent pixel.

        Of several boxes it is the part around the whole mask, with the boxes in their places.
        """
        assert self._previewer is not None, "fitted before the first row"
        if not task.estimates:
            return None
        sample = min(number % task.samples for number in task.estimates)
        shown = {
            number // task.samples: self._previewer(estimate)
            for number, estimate in sorted(task.estimates.items())
            if number % task.samples == sample
        }
        if len(task.cut.canvases) == 1:
            return shown[0]
        if task.mosaic is None:
            task.mosaic = Mosaic(task.cut)
        return task.mosaic.with_previews(shown)


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
        *model.about.doubts(model.name, request.prompt),
        *prompt_warnings("prompt", request.prompt),
        *prompt_warnings("negative_prompt", request.negative_prompt),
    ]
    for name, text in named:
        if text:
            end = f"this end was ignored: {text!r}"
            warnings.append(f"{name}: only {limit} tokens fit, in {MAX_CHUNKS} chunks; {end}")
    if request.strength == 1.0 and model.in_channels == 9:
        warnings.append("strength: SDXL's inpainting model paints noisy pictures at exactly 1; use 0.99")
    if request.call_plan.reason and not (deep_cache and request.call_plan.cached):
        warnings.append(UNCHANGED + request.call_plan.reason)
    warnings += conditioning.loras.warnings
    if model.plan.unet == "fp8":
        warnings.append(_ROUNDED)
    return tuple(warnings)
