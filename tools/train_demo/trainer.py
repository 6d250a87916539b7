"""Training of the UNet and both text encoders on encoded scenes; it can stop and go on at any step."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from transformers import CLIPTokenizer

from inpaint.schedulers import SDXL_SCHEDULE
from tools.train_demo.backdrop import SIZE
from tools.train_demo.data import Encoded
from tools.train_demo.scenes import BACKGROUND_CAPTIONS
from tools.train_demo.unet import Networks

_LEARNING_RATE = 1e-3
_EMA = 0.998  # of the weights; one in 500 steps counts
_OUTSIDE = (
    0.1  # weight of a latent pixel outside the mask: the UNet sees the picture there, and learns it soon
)
_THINGS = 0.48  # share of the scenes with a thing
_BACKGROUND = (0.35, 0.15)  # shares of the shapes' and the things' scenes with a prompt for the background
_NO_PROMPT, _EMPTY_PROMPT = 0.06, 0.05  # trained as all zeros, and as the encoded empty text
_PATCHES = 0.15  # share of the batches that are half as high or half as wide, as patches of real masks can be
_CELLS = SIZE // 8
_GAMMA, _LEAST = 5.0, 0.3  # of the timesteps' shares


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of the encoded scenes, whole or cut to patches."""

    index: torch.Tensor  # (batch,)
    things: torch.Tensor  # (batch,), whether they have a thing
    target: torch.Tensor  # (batch, 4, h, w)
    clean: torch.Tensor
    masked: torch.Tensor
    mask: torch.Tensor  # (batch, 1, h, w)


class Trainer:
    """A one-cycle epsilon training with an average of the weights (EMA)."""

    def __init__(
        self,
        networks: Networks,
        shapes: Encoded,
        things: Encoded,
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
        *,
        steps: int,
        batch: int,
        seed: int,
    ) -> None:
        self.networks, self.steps, self.batch, self.step = networks, steps, batch, 0
        self.average = copy.deepcopy(networks)
        for parameter in self.average.parameters():
            parameter.requires_grad_(False)
        self._data, self._first_thing = Encoded.joined((shapes, things)), len(shapes)
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
        self._device = self._data.mask.device
        self._optimiser = torch.optim.AdamW(
            networks.parameters(), lr=_LEARNING_RATE, weight_decay=1e-3, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, _LEARNING_RATE, total_steps=steps, pct_start=0.05
        )
        self._noising = DDPMScheduler(**{k: v for k, v in SDXL_SCHEDULE.items() if k.startswith("beta")})
        self._timesteps = timestep_shares(self._noising.alphas_cumprod)
        self._fitting = {axis: self._that_fit(axis) for axis in (2, 3)}
        padded = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
        texts = list(dict.fromkeys(("", *BACKGROUND_CAPTIONS, *self._data.captions)))
        numbers = {text: i for i, text in enumerate(texts)}
        self._which = torch.tensor([numbers[text] for text in self._data.captions])
        self._ids = tuple(tokenizer(texts, **padded).input_ids.to(self._device) for tokenizer in tokenizers)

    def run_step(self) -> float:
        """Take one optimiser step and return its loss."""
        part = self._draw()
        shares = torch.where(part.things, _BACKGROUND[1], _BACKGROUND[0])
        empty = torch.rand(self.batch, generator=self._generator) < shares
        target = torch.where(empty[:, None, None, None].to(self._device), part.clean, part.target)
        noise = torch.randn(target.shape, generator=self._generator).to(self._device)
        timesteps = torch.multinomial(self._timesteps, self.batch, True, generator=self._generator)
        noisy = self._noising.add_noise(target, noise, timesteps.to(self._device))
        hidden, pooled = self._conditioning(part.index, empty)
        out = self.networks.unet(
            torch.cat([noisy, part.mask, part.masked], dim=1),
            timesteps.to(self._device),
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": self._time_ids(*target.shape[2:])},
        ).sample
        weight = part.mask + _OUTSIDE * (1 - part.mask)
        loss = ((out - noise).square() * weight / weight.mean()).mean()
        self._optimise(loss)
        return loss.item()

    def _optimise(self, loss: torch.Tensor) -> None:
        parameters = self.networks.parameters()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self._optimiser.step()
        self._schedule.step()
        self.step += 1
        decay = min(_EMA, (1 + self.step) / (20 + self.step))  # the first steps must not weigh on the average
        with torch.no_grad():
            torch._foreach_lerp_(self.average.parameters(), parameters, 1 - decay)

    def _draw(self) -> Batch:
        """Draw rows, half of them with things; now and then only ones whose masks fit a patch, cut to it."""
        things = torch.rand(self.batch, generator=self._generator) < _THINGS
        chance, which = torch.rand(2, generator=self._generator).tolist()
        axis = 2 + (which < 0.5)
        if chance < _PATCHES and all(len(rows) for rows in self._fitting[axis]):
            return self._cut(self._pick(things, self._fitting[axis]), things, axis)
        groups = torch.arange(len(self._data)).tensor_split([self._first_thing])
        return self._batch(self._pick(things, groups), things)

    def _pick(self, things: torch.Tensor, groups: tuple[torch.Tensor, ...]) -> torch.Tensor:
        picked = [
            group[torch.randint(0, len(group), (self.batch,), generator=self._generator)] for group in groups
        ]
        return torch.where(things, picked[1], picked[0])

    def _batch(self, index: torch.Tensor, things: torch.Tensor) -> Batch:
        data = self._data
        return Batch(
            index, things, data.target[index], data.clean[index], data.masked[index], data.mask[index]
        )

    def _cut(self, index: torch.Tensor, things: torch.Tensor, axis: int) -> Batch:
        """Cut each scene to half along an axis, at a random place that leaves its mask whole."""
        first, last = _extent(self._data.mask[index], axis)
        least, most = (last - _CELLS // 2 + 1).clamp(min=0), first.clamp(max=_CELLS // 2)
        chance = torch.rand(self.batch, generator=self._generator).to(least.device)
        start = least + (chance * (most - least + 1)).long()
        cells = start[:, None] + torch.arange(_CELLS // 2, device=start.device)
        cells = cells[:, None, :, None] if axis == 2 else cells[:, None, None, :]
        whole = self._batch(index, things)

        def cut(rows: torch.Tensor) -> torch.Tensor:
            sizes = list(rows.shape)
            sizes[axis] = _CELLS // 2
            return rows.gather(axis, cells.expand(sizes))

        parts = (cut(part) for part in (whole.target, whole.clean, whole.masked, whole.mask))
        return Batch(index, things, *parts)

    def _that_fit(self, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of shapes and of things whose mask is at most half as long as the scene."""
        first, last = _extent(self._data.mask, axis)
        rows = torch.nonzero(last - first < _CELLS // 2)[:, 0].cpu()
        return rows[rows < self._first_thing], rows[rows >= self._first_thing]

    def _conditioning(self, index: torch.Tensor, empty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the captions; drop some, in both ways in which a request can lack a prompt."""
        nothing = torch.randint(1, 1 + len(BACKGROUND_CAPTIONS), (self.batch,), generator=self._generator)
        chance = torch.rand(self.batch, generator=self._generator)
        which = torch.where(empty, nothing, self._which[index]).masked_fill(chance > 1 - _EMPTY_PROMPT, 0)
        unique, inverse = which.unique(return_inverse=True)
        hidden, pooled = self.networks.embed((self._ids[0][unique], self._ids[1][unique]))
        keep = (chance >= _NO_PROMPT).float().to(self._device)
        return hidden[inverse] * keep[:, None, None], pooled[inverse] * keep[:, None]

    def _time_ids(self, h: int, w: int) -> torch.Tensor:
        """Return time ids (batch, 6): 70 % the patch's size, 30 % others, because working sizes vary."""
        size = [8.0 * h, 8.0 * w]
        ids = torch.tensor([[*size, 0.0, 0.0, *size]]).repeat(self.batch, 1)
        other = torch.rand(self.batch, generator=self._generator) < 0.3
        sizes = 64.0 * torch.randint(1, 5, (self.batch, 2), generator=self._generator)
        ids[other] = torch.cat([sizes, torch.zeros_like(sizes), sizes], dim=1)[other]
        return ids.to(self._device)

    def state(self) -> dict[str, Any]:
        """Return the state from which :meth:`resume` goes on."""
        return {
            "step": self.step,
            "modules": self.networks.state(),
            "average": self.average.state(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generator": self._generator.get_state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.step = state["step"]
        self.networks.load(state["modules"])
        self.average.load(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["generator"])


def timestep_shares(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Return how often each timestep is drawn: seldom where there is little noise, which is learnt soon.

    In proportion to the min-SNR weights min(SNR, γ) / SNR with γ = 5, but never below 0.3. Source: Hang et
    al., 2023, https://arxiv.org/abs/2303.09556, who weigh the loss instead.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return (snr.clamp(max=_GAMMA) / snr).clamp(min=_LEAST)


def _extent(mask: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first and the last row (axis 2) or column (axis 3) of each mask (n, 1, h, w)."""
    there = mask.amax((1, 5 - axis)) > 0
    return there.float().argmax(1), _CELLS - 1 - there.flip(1).float().argmax(1)
