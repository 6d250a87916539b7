"""Pixels to latents and back through the VAE, and the cheap latent → RGB preview."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from inpaint.errors import PaintError
from inpaint.memory import tiled, visiting
from inpaint.models import Model


def to_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB picture as a float tensor (1, 3, H, W) in -1 … 1."""
    array = np.asarray(image, dtype=np.float32) / 255.0
    return torch.from_numpy(array.transpose(2, 0, 1)[None] * 2.0 - 1.0)


def to_mask(mask: np.ndarray[Any, Any]) -> torch.Tensor:
    """A mask array (h, w) in 0 … 1 as a float tensor (1, 1, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]


def encode(model: Model, pixels: torch.Tensor) -> Any:
    """The VAE's posterior of pixels (1, 3, H, W) in -1 … 1, as a diffusers ``DiagonalGaussianDistribution``.

    Computed once a request; each sample draws its own latents from it with :func:`draw`.
    """
    with torch.inference_mode(), visiting(model.vae, model.device):
        return model.vae.encode(pixels.to(model.device, model.vae.dtype)).latent_dist


def draw(model: Model, posterior: Any, generator: torch.Generator) -> torch.Tensor:
    """Scaled latents (1, 4, h, w) in fp32, drawn from a posterior with a CPU generator."""
    # Drawn in fp32 whatever the model's dtype: torch's half-precision normals are other numbers, and a
    # seed would paint another picture on another device.
    noise = torch.randn(posterior.mean.shape, generator=generator, dtype=torch.float32)
    sample: torch.Tensor = posterior.mean.float() + posterior.std.float() * noise.to(posterior.mean.device)
    return sample * float(model.vae.config.scaling_factor)


def decode(model: Model, latents: torch.Tensor, *, smaller: bool = False) -> torch.Tensor:
    """Latents (1, 4, h, w) to pixels (1, 3, H, W) in 0 … 1, fp32.

    Args:
        model: whose VAE decodes.
        latents: as the UNet leaves them.
        smaller: in tiles, for when the whole picture did not fit into memory.

    Raises:
        PaintError: the pixels are not finite even when decoded in fp32.
    """
    in_tiles = smaller or model.plan.vae_tiled
    pixels = _decode(model, latents, model.vae.dtype, in_tiles)
    if not torch.isfinite(pixels).all() and model.vae.dtype != torch.float32:
        # SDXL's own VAE overflows in fp16 and gives a black picture: decode this one again in fp32.
        pixels = _decode(model, latents, torch.float32, in_tiles)
    if not torch.isfinite(pixels).all():
        raise PaintError("the model painted NaN instead of a picture; try another seed, or --dtype float32")
    return (pixels / 2 + 0.5).clamp(0, 1)


def _decode(model: Model, latents: torch.Tensor, dtype: torch.dtype, in_tiles: bool) -> torch.Tensor:
    z = _unscaled(model.vae.config, latents.float())
    with ExitStack() as settings:
        settings.enter_context(torch.inference_mode())
        settings.enter_context(visiting(model.vae, model.device))
        settings.enter_context(_computing_in(model.vae, dtype))
        if in_tiles:
            settings.enter_context(tiled(model.vae))
        pixels: torch.Tensor = model.vae.decode(z.to(model.device, dtype), return_dict=False)[0].float()
    return pixels


@contextmanager
def _computing_in(vae: Any, dtype: torch.dtype) -> Iterator[None]:
    """Have the VAE in another dtype for the length of the block."""
    home = vae.dtype
    if home == dtype:
        yield
        return
    vae.to(dtype=dtype)
    try:
        yield
    finally:
        vae.to(dtype=home)


def _unscaled(config: Any, latents: torch.Tensor) -> torch.Tensor:
    """Undo the scaling that the UNet works in, as stock diffusers does it for SDXL."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents / float(config.scaling_factor)
    shift, gain = (torch.tensor(v).view(1, 4, 1, 1).to(latents) for v in (mean, std))
    return latents * gain / float(config.scaling_factor) + shift


@dataclass(frozen=True, slots=True, eq=False)
class Previewer:
    """A linear map latent → RGB, good enough to watch a picture appear and free next to a decode."""

    matrix: np.ndarray[Any, Any]  # (5, 3): four latent channels and a constant

    @classmethod
    def fit(cls, model: Model) -> "Previewer":
        """Fit the map to this model's VAE by least squares on a chart of random colours."""
        side = 32
        rng = np.random.default_rng(0)
        chart = np.asarray(
            Image.fromarray(rng.integers(0, 256, (side // 2, side // 2, 3), dtype=np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
        )
        picture = Image.fromarray(chart).resize((side * model.vae_factor,) * 2, Image.Resampling.BICUBIC)
        latents = encode(model, to_pixels(picture)).mean * float(model.vae.config.scaling_factor)
        solution, *_ = np.linalg.lstsq(_with_one(latents), chart.reshape(-1, 3) / 255.0, rcond=None)
        return cls(solution)

    def __call__(self, latents: torch.Tensor) -> Image.Image:
        """Latents (1, 4, h, w) to an RGB picture of w × h pixels."""
        height, width = latents.shape[-2:]
        rgb = np.nan_to_num(_with_one(latents) @ self.matrix).clip(0, 1)
        return Image.fromarray((rgb.reshape(height, width, 3) * 255).round().astype(np.uint8))


def _with_one(latents: torch.Tensor) -> np.ndarray[Any, Any]:
    flat = latents[0].float().flatten(1).T.cpu().numpy()
    return np.concatenate([flat, np.ones((len(flat), 1), flat.dtype)], axis=1)
