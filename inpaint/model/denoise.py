"""Rows, and the step that advances a batch of them.

A row is one sample being denoised: its latents, its own scheduler object and position, conditioning and
generator. :func:`step` makes one UNet call for rows of any requests, schedulers, step counts and guidance,
as long as their latents have one size; then each row takes its own scheduler's step. A row's picture does
not depend on its neighbours, to within rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from inpaint import cuda
from inpaint.batching.work import Bucket
from inpaint.lora.cache import NO_LORAS, LoraSet
from inpaint.model.deep_level import DeepCache
from inpaint.model.load import Model
from inpaint.model.prompt import PromptEmbeds
from inpaint.model.samplers import make_sampler, take_step
from inpaint.model.unet import Forward, UNetBatch, plain
from inpaint.model.vae import Posterior, draw
from inpaint.pace import CallPlan, call_plan
from inpaint.schedulers import noise_levels


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """The tensors that all rows of one request share."""

    prompt: PromptEmbeds
    negative: PromptEmbeds
    image: Posterior  # the picture's
    masked_image: Posterior | None  # of the picture with its hole grey; 9 channels only
    mask: torch.Tensor  # (1, 1, h, w), 1 = repaint
    soft_mask: torch.Tensor | None = None  # (1, 1, h, w), strength per latent pixel
    loras: LoraSet = NO_LORAS  # the caller of ``step`` puts them into the UNet for these rows


@dataclass(slots=True, eq=False)
class Row:
    """The state of one sample while it is denoised."""

    conditioning: Conditioning
    scheduler: Any  # this row's own diffusers scheduler
    scheduler_name: str
    timesteps: torch.Tensor  # (calls,), on the CPU so that indexing with them never waits for the GPU
    levels: Sequence[
        tuple[float, float]
    ]  # (calls,), how much picture and how much noise a call's latents hold
    times: torch.Tensor  # (calls,), the timesteps on the device in fp32, as the UNet takes them
    time_ids: torch.Tensor  # (1 or 2, 6 or 5), SDXL's size conditioning; the prompt's is the last
    num_steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]  # the fractions of num_steps between which guidance is on
    guidance_rescale: float  # 0 to 1, see ``_guided``
    generator: torch.Generator
    latents: torch.Tensor  # (1, 4, h, w), fp32
    noise: torch.Tensor  # (1, 4, h, w), fp32, the initial noise
    image_latents: torch.Tensor | None  # (1, 4, h, w), for blending the original back
    masked_latents: torch.Tensor | None  # (1, 4, h, w), 9 channels only
    plan: CallPlan
    precise: bool = False  # computed in fp32, not in the model's dtype
    position: int = 0  # predictions used, made or forecast
    # The latest two predictions (1, 4, h, w) that the UNet made, by their timesteps; only for a forecast.
    made: dict[float, torch.Tensor] = field(default_factory=dict)
    deep: DeepCache = field(default_factory=DeepCache)  # for the positions in ``plan.cached``
    watched: bool = False  # the next step keeps an estimate
    estimate: torch.Tensor | None = None  # (1, 4, h, w), the finished latents as predicted so far

    @property
    def done(self) -> bool:
        """True if every step is taken."""
        return self.position >= len(self.timesteps)

    @property
    def step(self) -> int:
        """Steps taken of ``num_steps``; the two UNet calls of an order-2 sampler's step count as one."""
        return self.num_steps * self.position // len(self.timesteps)

    @property
    def slots(self) -> int:
        """Slots that the row takes in the next UNet call."""
        return 2 if self.guided else 1

    def tensors(self) -> list[torch.Tensor | None]:
        """Return the tensors that the row holds on the device from the start."""
        shared = self.conditioning
        prompts = [shared.prompt, shared.negative]
        texts = [tensor for embeds in prompts for tensor in (embeds.hidden, embeds.pooled)]
        own = [self.times, self.time_ids, self.latents, self.noise, self.image_latents, self.masked_latents]
        return [*texts, *own, shared.mask, shared.soft_mask]

    @property
    def needs_deep(self) -> bool:
        """True if a call from here on takes the deepest level from the cache."""
        return max(self.plan.cached, default=-1) >= self.position

    @property
    def guided(self) -> bool:
        """True if the row's next step takes two slots of a batch, with and without its prompt.

        Guidance is needed least in the first and the last steps. Source: Kynkäänniemi et al., "Applying
        Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models", 2024.
        """
        # By the step, not by the call: both calls of an order-2 step must mean the same model.
        begin, end = self.guidance_interval
        return self.guidance_scale > 1.0 and begin <= self.step / self.num_steps < end

    @property
    def bucket(self) -> Bucket:
        """The properties that rows must have in common to share a UNet call."""
        height, width = self.latents.shape[-2:]
        cached = self.position in self.plan.cached
        return Bucket(height, width, self.precise, self.conditioning.loras.uses, cached)


def start_row(
    model: Model,
    conditioning: Conditioning,
    *,
    scheduler: str,
    num_inference_steps: int,
    strength: float,
    guidance_scale: float,
    seed: int,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    guidance_rescale: float = 0.0,
    pace: str = "exact",
    deep_cache: bool = False,
    precise: bool = False,
) -> Row:
    """Return a row ready for its first step.

    Args:
        model: the model that will denoise the row.
        conditioning: shared by all rows of the request.
        scheduler: a name from ``SCHEDULERS``.
        num_inference_steps: steps at strength 1.
        strength: above 0, at most 1; the fraction of the steps that is taken.
        guidance_scale: of classifier-free guidance; none at 1 or below.
        seed: of the row's CPU generator, which the scheduler draws from as well.
        guidance_interval: the fractions of the steps between which guidance is on.
        guidance_rescale: how far a guided prediction is scaled back to the prompt's own deviation, 0 to 1.
        pace: one of ``PACES``: whether each prediction is made by the UNet.
        deep_cache: ``step`` gets a forward pass that keeps the deepest level and takes it from a cache.
        precise: compute the row in fp32, with every level.
    """
    plan = call_plan(scheduler, num_inference_steps, strength, pace, guidance_interval)
    generator = torch.Generator("cpu").manual_seed(seed)
    sampler = make_sampler(scheduler, model.scheduler_config, num_inference_steps)
    timesteps, num_steps = _begin_at(sampler, num_inference_steps, strength)
    levels = noise_levels(scheduler, model.scheduler_config, num_inference_steps)[-len(timesteps) :]
    image_latents, noise, masked_latents = _draws(model, conditioning, generator, strength)
    return Row(
        conditioning=conditioning,
        scheduler=sampler,
        scheduler_name=scheduler,
        timesteps=timesteps,
        levels=levels,
        # One dtype for all schedulers (theirs: int64, fp32, fp64), so that compiled code is not retraced;
        # copied once, not in each step.
        times=cuda.runtime.upload(timesteps.float(), model.device),
        time_ids=_time_ids(model, conditioning, guided=guidance_scale > 1.0),
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        guidance_rescale=guidance_rescale,
        generator=generator,
        latents=_initial_latents(sampler, image_latents, noise, levels[0], strength),
        noise=noise,
        image_latents=image_latents,
        masked_latents=masked_latents if model.in_channels == 9 else None,
        plan=plan if deep_cache and not precise else replace(plan, cached=frozenset()),
        precise=precise,
    )


def _begin_at(sampler: Any, num_inference_steps: int, strength: float) -> tuple[torch.Tensor, int]:
    """Return the timesteps left at ``strength`` and the number of steps, as diffusers' ``get_timesteps``."""
    num_steps = min(int(num_inference_steps * strength), num_inference_steps)
    begin = (num_inference_steps - num_steps) * sampler.order
    if hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(begin)
    return sampler.timesteps[begin:], num_steps


def _draws(
    model: Model, conditioning: Conditioning, generator: torch.Generator, strength: float
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Draw the picture's latents (if they are used), the noise and the masked picture's latents.

    Each is (1, 4, h, w). The order is diffusers', so that a seed gives the same picture.
    """
    image_latents = None
    if strength < 1.0 or model.in_channels == 4:
        image_latents = draw(model, conditioning.image, generator)
    size = (1, 4, *conditioning.mask.shape[-2:])
    drawn = torch.randn(size, generator=generator, dtype=torch.float32)
    noise = cuda.runtime.upload(drawn, model.device)
    # diffusers draws masked latents for 4 channels too and never uses them, but the draw moves the generator.
    masked_latents = draw(model, conditioning.masked_image or conditioning.image, generator)
    if image_latents is None and conditioning.soft_mask is not None:
        # Drawn last, so that a soft mask leaves the draws of a hard one unchanged.
        image_latents = draw(model, conditioning.image, generator)
    return image_latents, noise, masked_latents


def _initial_latents(
    sampler: Any,
    image_latents: torch.Tensor | None,
    noise: torch.Tensor,
    level: tuple[float, float],
    strength: float,
) -> torch.Tensor:
    """Return the first step's latents (1, 4, h, w): noise alone at strength 1, else the noised picture."""
    if image_latents is None or strength == 1.0:
        return noise * float(sampler.init_noise_sigma)
    return _noised(image_latents, noise, level)


def _noised(picture: torch.Tensor, noise: torch.Tensor, level: tuple[float, float]) -> torch.Tensor:
    """Return a picture's latents (1, 4, h, w) with noise, as the row's scheduler adds it."""
    return level[0] * picture + level[1] * noise


def step(model: Model, rows: Sequence[Row], forward: Forward | None = None) -> None:
    """Advance every row by one UNet call: its next timestep, its guidance, its scheduler.

    A row whose next prediction is to be forecast takes that step, too. Rows must share a bucket and must not
    be done.

    Args:
        model: the call is on its device and in its dtype; precise rows are computed in fp32.
        rows: at least one.
        forward: the UNet's forward pass; diffusers' own if None.
    """
    with torch.inference_mode():
        out = (forward or plain(model.unet))(_batch(model, rows)).float()
        for row, prediction in zip(rows, _guided(rows, out), strict=True):
            if row.plan.forecast:
                _remember(row, prediction)
            _advance(model, row, prediction)
            if row.position in row.plan.forecast:
                _advance(model, row, _forecast(row))
            if not row.needs_deep:
                row.deep.clear()


def _batch(model: Model, rows: Sequence[Row]) -> UNetBatch:
    """Return the UNet's inputs. A guided row takes two slots, the negative prompt first; others take one."""
    dtype = torch.float32 if rows[0].precise else model.dtype
    prompts = [embeds for row in rows for embeds in _slots(row)]
    cached, keeps = rows[0].bucket.cached, any(row.needs_deep for row in rows)
    hidden, keep = _stacked([embeds.hidden for embeds in prompts])
    return UNetBatch(
        sample=torch.cat([_unet_input(row) for row in rows for _ in _slots(row)]).to(model.device, dtype),
        timesteps=torch.cat(
            [row.times[row.position : row.position + 1] for row in rows for _ in _slots(row)]
        ),
        hidden=hidden.to(model.device, dtype),
        keep=None if keep is None else keep.to(model.device),
        pooled=torch.stack([embeds.pooled for embeds in prompts]).to(model.device, dtype),
        time_ids=torch.cat([row.time_ids[-len(_slots(row)) :] for row in rows]).to(dtype),
        prompts=tuple(prompts),
        deep=_deep(rows) if cached else None,
        take_deep=partial(_keep_deep, rows) if keeps and not cached else None,
    )


def _deep(rows: Sequence[Row]) -> torch.Tensor:
    """Return the deepest level's outputs (n, C, H, W) from the rows' caches."""
    return torch.cat([row.deep.at(float(row.timesteps[row.position]), row.slots) for row in rows])


def _keep_deep(rows: Sequence[Row], deep: torch.Tensor) -> None:
    """Keep each row's part of the deepest level's outputs (n, C, H, W), if a later call will take it."""
    end = 0
    for row in rows:
        first, end = end, end + row.slots
        if row.needs_deep:
            # Copied: a part would hold the memory of the whole, also once its neighbours are done.
            row.deep.keep(float(row.timesteps[row.position]), deep[first:end].clone())


def _slots(row: Row) -> tuple[PromptEmbeds, ...]:
    shared = row.conditioning
    return (shared.negative, shared.prompt) if row.guided else (shared.prompt,)


def _unet_input(row: Row) -> torch.Tensor:
    """Return (1, 9 or 4, h, w): the scaled latents, then mask and masked picture if the UNet has them."""
    latents = row.scheduler.scale_model_input(row.latents, row.timesteps[row.position])
    if row.masked_latents is None:
        return torch.as_tensor(latents)
    return torch.cat([latents, row.conditioning.mask.to(latents), row.masked_latents], dim=1)


def _stacked(hidden: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return embeddings as one tensor (slots, T, width), and a mask (slots, T) of the real tokens.

    There is no mask if all have one length, which is nearly always: attention is faster without.
    """
    longest = max(h.shape[0] for h in hidden)
    if all(h.shape[0] == longest for h in hidden):
        return torch.stack(hidden), None
    padded = [torch.nn.functional.pad(h, (0, 0, 0, longest - h.shape[0])) for h in hidden]
    keep = torch.stack([torch.arange(longest, device=h.device) < h.shape[0] for h in hidden])
    return torch.stack(padded), keep


def _time_ids(model: Model, conditioning: Conditioning, *, guided: bool) -> torch.Tensor:
    """Return SDXL's size conditioning (1 or 2, 6): original size, crop corner, target size, in pixels.

    Source: Podell et al., "SDXL", 2023, section 2.2. Refiner-like checkpoints that take an aesthetic
    score get (1 or 2, 5), 6.0 with the prompt and 2.5 without it, as in diffusers.
    """
    height, width = (side * model.vae_factor for side in conditioning.mask.shape[-2:])
    size: list[float] = [height, width, 0, 0]
    ids = [[*size, 2.5], [*size, 6.0]] if model.requires_aesthetics_score else [[*size, height, width]] * 2
    return cuda.runtime.upload(torch.tensor(ids if guided else ids[1:], dtype=torch.float32), model.device)


def _guided(rows: Sequence[Row], out: torch.Tensor) -> list[torch.Tensor]:
    """Apply classifier-free guidance. Source: Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022."""
    predictions, slot = [], 0
    for row in rows:
        if row.guided:
            negative, positive = out[slot : slot + 1], out[slot + 1 : slot + 2]
            guided = negative + row.guidance_scale * (positive - negative)
            predictions.append(_rescaled(guided, positive, row.guidance_rescale))
        else:
            predictions.append(out[slot : slot + 1])
        slot += 2 if row.guided else 1
    return predictions


def _rescaled(guided: torch.Tensor, positive: torch.Tensor, factor: float) -> torch.Tensor:
    """Scale a guided prediction (1, 4, h, w) towards the standard deviation of the one with the prompt.

    Guidance raises the contrast, which zero terminal SNR shows as burnt colours. Source: Lin et al., "Common
    Diffusion Noise Schedules and Sample Steps are Flawed", 2024, section 3.4; diffusers'
    ``rescale_noise_cfg``.
    """
    if factor == 0:
        return guided
    return guided * (factor * positive.std() / guided.std() + 1 - factor)


def _remember(row: Row, prediction: torch.Tensor) -> None:
    """Keep a prediction for forecasts: one for each timestep, and of those the latest two."""
    timestep = float(row.timesteps[row.position])
    # Heun and PNDM call the UNet twice at one timestep; a line needs two.
    row.made.pop(timestep, None)
    row.made[timestep] = prediction
    while len(row.made) > 2:
        del row.made[next(iter(row.made))]


def _forecast(row: Row) -> torch.Tensor:
    """Return the prediction (1, 4, h, w) at the row's position, in a straight line through the latest two."""
    (before, older), (last, latest) = row.made.items()
    ahead = (float(row.timesteps[row.position]) - last) / (last - before)
    return latest + ahead * (latest - older)


def _advance(model: Model, row: Row, prediction: torch.Tensor) -> None:
    """Take the row's scheduler step with ``prediction`` (1, 4, h, w)."""
    timestep = row.timesteps[row.position]
    row.estimate = _estimate(row, prediction) if row.watched else None
    stepped = take_step(row.scheduler_name, row.scheduler, prediction, timestep, row.latents, row.generator)
    row.position += 1
    row.latents = _blend(model, row, stepped)


def _estimate(row: Row, prediction: torch.Tensor) -> torch.Tensor:
    """Return the clean latents that a noise (or velocity) prediction stands for.

    ``scale_model_input`` gives every sampler's latents in the variance-preserving form that the UNet was
    trained on, so one formula serves all. Source: Ho et al., "DDPM", 2020, eq. 15; Salimans & Ho, 2022.
    """
    timestep = row.timesteps[row.position]
    noisy = row.scheduler.scale_model_input(row.latents, timestep)
    signal = row.scheduler.alphas_cumprod[int(timestep)]
    if row.scheduler.config.prediction_type == "v_prediction":
        return torch.as_tensor(signal.sqrt() * noisy - (1 - signal).sqrt() * prediction)
    return torch.as_tensor((noisy - (1 - signal).sqrt() * prediction) / signal.sqrt())


def _blend(model: Model, row: Row, latents: torch.Tensor) -> torch.Tensor:
    """Put the original, re-noised to the row's level, where the mask does not (yet) repaint.

    A 4-channel UNet does not see the mask and needs this each step. With a soft mask this makes grey mean
    strength: a latent pixel of strength s is repainted in the last fraction s of the steps, and one of
    strength 0 ends as the original.
    Source: Levin & Fried, "Differential Diffusion: Giving Each Pixel Its Strength", 2023.
    """
    shared = row.conditioning
    if shared.soft_mask is not None:
        order = row.scheduler.order
        if row.position % order and not row.done:
            # Between the two calls of a step the sample has a noise level of its own, which ``levels``
            # does not have: the original would get the next step's noise.
            return latents
        taken, of = (-(-calls // order) for calls in (row.position, len(row.timesteps)))
        mask = ((shared.soft_mask > 0) & (shared.soft_mask >= 1 - taken / of)).to(latents)
    elif model.in_channels == 4:
        mask = shared.mask.to(latents)
    else:
        return latents
    assert row.image_latents is not None
    original = row.image_latents
    if not row.done:
        original = _noised(original, row.noise, row.levels[row.position])
    return torch.as_tensor((1 - mask) * original + mask * latents)
