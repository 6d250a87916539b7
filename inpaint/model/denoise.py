"""The step that advances a batch of rows.

:func:`step` makes one UNet call for rows of any requests, schedulers, step counts and guidance, as long as
their latents have one size; then each row takes its own scheduler's step. A row's picture does not depend on
its neighbours, to within rounding.
"""

from collections.abc import Sequence
from functools import partial

import torch

from inpaint.model.load import Model
from inpaint.model.prompt import PromptEmbeds
from inpaint.model.row import Row, noised
from inpaint.model.samplers import take_step
from inpaint.model.unet import Forward, UNetBatch, plain


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
        original = noised(original, row.noise, row.levels[row.position])
    return torch.as_tensor((1 - mask) * original + mask * latents)
