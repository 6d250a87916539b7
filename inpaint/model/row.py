"""A row: one sample that is denoised, with latents, scheduler, position, conditioning and generator."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from inpaint import cuda
from inpaint.batching.work import Bucket
from inpaint.lora.cache import NO_LORAS, LoraSet
from inpaint.model.deep_level import DeepCache
from inpaint.model.load import Model
from inpaint.model.prompt import PromptEmbeds
from inpaint.model.samplers import make_sampler
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
    timesteps, num_steps = begin_at(sampler, num_inference_steps, strength)
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


def begin_at(sampler: Any, num_inference_steps: int, strength: float) -> tuple[torch.Tensor, int]:
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
    return noised(image_latents, noise, level)


def noised(picture: torch.Tensor, noise: torch.Tensor, level: tuple[float, float]) -> torch.Tensor:
    """Return a picture's latents (1, 4, h, w) with noise, as the row's scheduler adds it."""
    return level[0] * picture + level[1] * noise


def _time_ids(model: Model, conditioning: Conditioning, *, guided: bool) -> torch.Tensor:
    """Return SDXL's size conditioning (1 or 2, 6): original size, crop corner, target size, in pixels.

    Source: Podell et al., "SDXL", 2023, section 2.2. Refiner-like checkpoints that take an aesthetic
    score get (1 or 2, 5), 6.0 with the prompt and 2.5 without it, as in diffusers.
    """
    height, width = (side * model.vae_factor for side in conditioning.mask.shape[-2:])
    size: list[float] = [height, width, 0, 0]
    ids = [[*size, 2.5], [*size, 6.0]] if model.requires_aesthetics_score else [[*size, height, width]] * 2
    return cuda.runtime.upload(torch.tensor(ids if guided else ids[1:], dtype=torch.float32), model.device)
