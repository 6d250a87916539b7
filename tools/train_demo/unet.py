"""The demo model's UNet and both text encoders, trained together on pre-encoded scenes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from inpaint.schedulers import SDXL_SCHEDULE
from tools.train_demo.scenes import BACKGROUND_CAPTIONS, COLOURS, SHAPES, SIZE, make_scene
from tools.train_demo.vae import pixels

WIDTHS = (64, 80)  # of the two text encoders: different, so that single-file loaders can distinguish them
_LATENT = SIZE // 8
CONFIG: dict[str, Any] = {
    "sample_size": _LATENT,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (48, 96, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 3, 4),
    "norm_num_groups": 16,
    "cross_attention_dim": sum(WIDTHS),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 6 * 16 + WIDTHS[1],
}
_LEARNING_RATE = 1e-3
_OUTSIDE = (
    0.1  # weight of a latent pixel outside the mask: the UNet sees the picture there and learns it soon
)
_BACKGROUND = 0.35  # share of the scenes with a prompt for the background
_NO_PROMPT, _EMPTY_PROMPT = 0.06, 0.05  # trained as all zeros, and as the encoded empty text


def merges() -> tuple[str, ...]:
    """Return BPE merges that make each word of the captions one token; every other text stays bytes."""
    words = {
        word
        for text in (*BACKGROUND_CAPTIONS, *COLOURS, *SHAPES, "a", "an", "something", "small", "big")
        for word in re.findall(r"\w+", text)
    }
    found: dict[str, None] = {}
    for word in sorted(words, key=lambda word: (-len(word), word)):  # else "an" would split "cyan"
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            found[f"{parts[0]} {parts[1]}"] = None
            parts[:2] = [parts[0] + parts[1]]
    return tuple(found)


@dataclass(slots=True)
class Networks:
    """The networks that are trained together."""

    unet: UNet2DConditionModel
    encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection]

    @classmethod
    def fresh(cls, tokenizer: CLIPTokenizer) -> "Networks":
        """Make untrained networks, from the torch seed."""
        first, second = (_text_config(tokenizer, side) for side in (0, 1))
        return cls(
            UNet2DConditionModel(**CONFIG), (CLIPTextModel(first), CLIPTextModelWithProjection(second))
        )

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the modules by the names of a diffusers folder."""
        return {"unet": self.unet, "text_encoder": self.encoders[0], "text_encoder_2": self.encoders[1]}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters of all modules."""
        return [p for module in self.modules().values() for p in module.parameters()]

    def embed(self, ids: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed token ids (n, 77) of both tokenizers, as SDXL does: hidden (n, 77, 144), pooled (n, 80)."""
        outs = [encoder(i, output_hidden_states=True) for encoder, i in zip(self.encoders, ids, strict=True)]
        return torch.cat([out.hidden_states[-2] for out in outs], dim=-1), outs[1].text_embeds


def _text_config(tokenizer: CLIPTokenizer, side: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTHS[side],
        intermediate_size=2 * WIDTHS[side],
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTHS[1],
        hidden_act="gelu" if side else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0 if side else tokenizer.eos_token_id,
    )


@dataclass(frozen=True, slots=True)
class Encoded:
    """Scenes as inputs of the UNet."""

    target: torch.Tensor  # (n, 4, 16, 16), scaled latents, with the object
    clean: torch.Tensor  # (n, 4, 16, 16), without it
    masked: torch.Tensor  # (n, 4, 16, 16)
    mask: torch.Tensor  # (n, 1, 16, 16)
    captions: list[str]


@torch.inference_mode()
def encode_scenes(vae: AutoencoderKL, count: int, report: Callable[[int], None]) -> Encoded:
    """Encode training scenes with the VAE, the hole grey and the mask max-pooled, as the engine does it."""
    latents, masks, captions = [], [], []
    for start in range(0, count, 64):
        scenes = [make_scene(2 * i) for i in range(start, min(start + 64, count))]
        target, clean = (
            torch.stack([pixels(getattr(s, what)) for s in scenes]) for what in ("target", "clean")
        )
        holes = torch.stack([torch.from_numpy(np.asarray(s.mask) >= 128) for s in scenes])[:, None]
        pictures = torch.cat([target, clean, clean.masked_fill(holes, 0)]).to(vae.device)
        scaled = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor
        latents.append(scaled.unflatten(0, (3, len(scenes))))
        masks.append(F.max_pool2d(holes.float(), 8).to(vae.device))
        captions += [s.caption for s in scenes]
        report(start + len(scenes))
    return Encoded(*torch.cat(latents, dim=1), torch.cat(masks), captions)


class Trainer:
    """A one-cycle epsilon training that can stop and go on at any step."""

    def __init__(
        self,
        networks: Networks,
        data: Encoded,
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
        *,
        steps: int,
        batch: int,
        seed: int,
    ) -> None:
        self.networks, self.data, self.steps, self.batch, self.step = networks, data, steps, batch, 0
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
        self._device = data.mask.device
        self._optimiser = torch.optim.AdamW(
            networks.parameters(), lr=_LEARNING_RATE, weight_decay=1e-3, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, _LEARNING_RATE, total_steps=steps, pct_start=0.05
        )
        self._noising = DDPMScheduler(**{k: v for k, v in SDXL_SCHEDULE.items() if k.startswith("beta")})
        padded = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
        texts = list(dict.fromkeys(("", *BACKGROUND_CAPTIONS, *data.captions)))
        numbers = {text: i for i, text in enumerate(texts)}
        self._which = torch.tensor([numbers[text] for text in data.captions])
        self._ids = tuple(tokenizer(texts, **padded).input_ids.to(self._device) for tokenizer in tokenizers)

    def run_step(self) -> float:
        """Take one optimiser step and return its loss."""
        index = torch.randint(0, len(self._which), (self.batch,), generator=self._generator)
        empty = torch.rand(self.batch, generator=self._generator) < _BACKGROUND
        target = torch.where(
            empty[:, None, None, None].to(self._device), self.data.clean[index], self.data.target[index]
        )
        noise = torch.randn(target.shape, generator=self._generator).to(self._device)
        timesteps = torch.randint(0, 1000, (self.batch,), generator=self._generator).to(self._device)
        noisy = self._noising.add_noise(target, noise, timesteps)
        hidden, pooled = self._conditioning(index, empty)
        mask = self.data.mask[index]
        out = self.networks.unet(
            torch.cat([noisy, mask, self.data.masked[index]], dim=1),
            timesteps,
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": self._time_ids()},
        ).sample
        weight = mask + _OUTSIDE * (1 - mask)
        loss = ((out - noise).square() * weight / weight.mean()).mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self._optimiser.step()
        self._schedule.step()
        self.step += 1
        return loss.item()

    def _conditioning(self, index: torch.Tensor, empty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the captions; drop some, in both ways in which a request can lack a prompt."""
        nothing = torch.randint(1, 1 + len(BACKGROUND_CAPTIONS), (self.batch,), generator=self._generator)
        chance = torch.rand(self.batch, generator=self._generator)
        which = torch.where(empty, nothing, self._which[index]).masked_fill(chance > 1 - _EMPTY_PROMPT, 0)
        unique, inverse = which.unique(return_inverse=True)
        hidden, pooled = self.networks.embed((self._ids[0][unique], self._ids[1][unique]))
        keep = (chance >= _NO_PROMPT).float().to(self._device)
        return hidden[inverse] * keep[:, None, None], pooled[inverse] * keep[:, None]

    def _time_ids(self) -> torch.Tensor:
        """Return time ids (batch, 6): 70 % the native size, 30 % others, because working sizes vary."""
        ids = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32).repeat(self.batch, 1)
        other = torch.rand(self.batch, generator=self._generator) < 0.3
        sizes = 64.0 * torch.randint(1, 5, (self.batch, 2), generator=self._generator)
        ids[other] = torch.cat([sizes, torch.zeros_like(sizes), sizes], dim=1)[other]
        return ids.to(self._device)

    def state(self) -> dict[str, Any]:
        """Return the state from which :meth:`resume` goes on."""
        return {
            "step": self.step,
            "modules": {name: module.state_dict() for name, module in self.networks.modules().items()},
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generator": self._generator.get_state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.step = state["step"]
        for name, module in self.networks.modules().items():
            module.load_state_dict(state["modules"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["generator"])
