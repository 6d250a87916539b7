"""The demo model's VAE: SDXL's architecture, tiny; trained on crops of scenes."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tools.train_demo.scenes import SIZE, make_scene

CONFIG: dict[str, Any] = {
    "sample_size": SIZE,
    "block_out_channels": (16, 32, 48, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "force_upcast": False,
}
_CROP = 64  # pixels; the VAE is convolutional except for one attention, so small crops train it
_LATENT_PENALTY = 2e-4


def pixels(image: Any) -> torch.Tensor:
    """Return an RGB picture as (3, H, W) in -1 … 1."""
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1)


def train_vae(
    steps: int, batch: int, seed: int, scenes: int, device: str, report: Callable[[int, float], None]
) -> AutoencoderKL:
    """Train a VAE; a quarter of the pictures are without their object.

    There are two cycles: L2 with some L1 for flat colours, then L2 alone, which decibels measure. A small
    penalty on the latents replaces the KL term, which with so little capacity only costs reconstruction.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL(**CONFIG).to(device, memory_format=torch.channels_last)
    data = _pictures(scenes)
    half = steps // 2
    run_cycle(vae, data, half, batch, seed, 1.5e-3, 0.3, report)
    run_cycle(vae, data, steps - half, batch, seed + 1, 1e-3, 0.0, lambda at, loss: report(half + at, loss))
    return settle(vae.eval(), data)


def run_cycle(
    vae: AutoencoderKL,
    data: torch.Tensor,
    steps: int,
    batch: int,
    seed: int,
    learning_rate: float,
    l1: float,
    report: Callable[[int, float], None],
) -> None:
    """Train for one learning-rate cycle on random crops of ``data`` (n, 3, SIZE, SIZE), uint8."""
    optimiser = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
    vae.train()
    for step, drawn in zip(range(steps), _crops(data, batch, seed), strict=False):
        crops = drawn.to(vae.device)
        mean = vae.encode(crops).latent_dist.mean
        out = vae.decode(mean + 0.02 * torch.randn_like(mean)).sample
        loss = F.mse_loss(out, crops) + l1 * F.l1_loss(out, crops) + _LATENT_PENALTY * mean.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        report(step + 1, loss.item())


def _pictures(scenes: int) -> torch.Tensor:
    """Return the pictures (scenes, 3, SIZE, SIZE) as uint8, to keep thousands in memory."""
    found = []
    for i in range(scenes):
        scene = make_scene(2 * i)
        found.append(np.asarray(scene.target if i % 4 else scene.clean))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def _crops(data: torch.Tensor, batch: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        at = torch.randint(0, SIZE - _CROP + 1, (batch, 2), generator=generator)
        which = torch.randint(0, len(data), (batch,), generator=generator)
        crops = [
            data[i, :, y : y + _CROP, x : x + _CROP] for i, (y, x) in zip(which, at.tolist(), strict=True)
        ]
        flipped = [c.flip(-1) if torch.rand((), generator=generator) < 0.5 else c for c in crops]
        yield (torch.stack(flipped).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def settle(vae: AutoencoderKL, data: torch.Tensor) -> AutoencoderKL:
    """Make the posterior nearly deterministic and give latents unit variance through ``scaling_factor``.

    Trained without a KL term, the encoder's log-variance means nothing; the pipelines sample from it.
    """
    vae.quant_conv.weight[4:].zero_()
    vae.quant_conv.bias[4:].fill_(-8.0)  # a spread of 0.02, with which the decoder was trained
    means = vae.encode((data[:256].float() / 127.5 - 1).to(vae.device)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / means.std().item(), 5))
    return vae


@torch.inference_mode()
def psnr(vae: AutoencoderKL, seeds: range) -> float:
    """Return the mean PSNR in dB of a round trip over the scenes of ``seeds``."""
    found = []
    for seed in seeds:
        picture = pixels(make_scene(seed).target)[None]
        out = vae.decode(vae.encode(picture).latent_dist.mode()).sample.clamp(-1, 1)
        found.append(-10 * torch.log10(((out - picture) / 2).square().mean()).item())
    return float(np.mean(found))
