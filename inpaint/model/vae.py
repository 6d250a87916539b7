"""Pixels to latents and back through the VAE, and the cheap latent → RGB preview.

The caller's pictures are copied to the device as bytes; painted ones come back as floats. The VAE belongs to
one thread at a time: it may be moved, cast or tiled for the length of a call.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inpaint import cuda
from inpaint.errors import PaintError
from inpaint.gpu_errors import is_out_of_memory
from inpaint.memory import computing_in, empty_cache, tiled, visiting
from inpaint.model.load import Model

DECODED_TOGETHER = 2  # rows in one decode: one row fills a GPU, and memory grows with each


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The VAE's encoding of n pictures: a normal distribution of latents each, on the model's device."""

    mean: torch.Tensor  # (n, 4, h, w), fp32, not yet scaled
    std: torch.Tensor  # (n, 4, h, w), fp32

    @property
    def size_bytes(self) -> int:
        """Size of both tensors."""
        return self.mean.nbytes + self.std.nbytes

    def split(self) -> list["Posterior"]:
        """Return n posteriors of one picture, each with memory of its own, so that one can be freed."""
        return [
            Posterior(mean.clone(), std.clone())
            for mean, std in zip(_parts(self.mean), _parts(self.std), strict=True)
        ]


def to_pixels(image: Image.Image, device: torch.device | None = None) -> torch.Tensor:
    """Return an RGB picture as a float tensor (1, 3, H, W) in -1 … 1, on ``device`` (the CPU if None)."""
    array = np.array(image)  # a copy: Pillow's own pixels are read-only, which torch warns about
    pixels = cuda.runtime.upload(torch.from_numpy(array), device or torch.device("cpu"))
    return _scaled(pixels.permute(2, 0, 1)[None].contiguous())


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 255.0 * 2.0 - 1.0


def to_mask(mask: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return a mask array (h, w) in 0 … 1 as a float tensor (1, 1, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]


def encode(model: Model, pixels: torch.Tensor) -> Posterior:
    """Encode n pictures in one VAE call; samples draw their latents from the posterior with :func:`draw`.

    If the n pictures do not fit into memory together, they are encoded one by one.

    Args:
        model: the model whose VAE encodes.
        pixels: (n, 3, H, W), uint8 in 0 … 255 or float in -1 … 1, on any device.

    Raises:
        PaintError: the latents are not finite even when encoded in fp32.
    """
    pixels = cuda.runtime.upload(pixels, model.device) if pixels.device.type == "cpu" else pixels
    if pixels.dtype == torch.uint8:
        pixels = _scaled(pixels)
    posterior = _encode(model, pixels, model.vae.dtype)
    if not _finite(posterior) and model.vae.dtype != torch.float32:
        posterior = _encode(model, pixels, torch.float32)
    if not _finite(posterior):
        raise PaintError(
            "the VAE encoded the picture to NaN; try --dtype float32, or check the model with: "
            "inpaint models verify NAME --deep"
        )
    return posterior


def _encode(model: Model, pixels: torch.Tensor, dtype: torch.dtype) -> Posterior:
    if 1 < len(pixels) <= _together(model, dtype):
        try:
            return _encode_together(model, pixels, dtype)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except block, so that the failed attempt's tensors are free before the next.
        empty_cache(model.device)
    parts = [_encode_together(model, one, dtype) for one in _parts(pixels)]
    return Posterior(torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts]))


def _together(model: Model, dtype: torch.dtype) -> int:
    """Return how many pictures may share a VAE call in this dtype."""
    # A plan that decodes in tiles has no memory for two whole pictures. In fp32 two take 6 GB of a GPU.
    alone = model.plan.vae_tiled or (dtype == torch.float32 and cuda.runtime.on(model.device))
    return 1 if alone else DECODED_TOGETHER


def _encode_together(model: Model, pixels: torch.Tensor, dtype: torch.dtype) -> Posterior:
    with _vae_ready(model, dtype):
        found = model.vae.encode(pixels.to(dtype)).latent_dist
        return Posterior(found.mean.float(), found.std.float())


def _parts(batch: torch.Tensor, size: int = 1) -> list[torch.Tensor]:
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def _finite(posterior: Posterior) -> bool:
    return bool((torch.isfinite(posterior.mean) & torch.isfinite(posterior.std)).all())


def draw(model: Model, posterior: Posterior, generator: torch.Generator) -> torch.Tensor:
    """Draw scaled latents (1, 4, h, w) in fp32 from one picture's posterior with a CPU generator."""
    # Always drawn in fp32: torch's half-precision normals are other numbers, and a seed would paint another
    # picture on another device.
    noise = torch.randn(posterior.mean.shape, generator=generator, dtype=torch.float32)
    sample = posterior.mean + posterior.std * cuda.runtime.upload(noise, posterior.mean.device)
    return sample * float(model.vae.config.scaling_factor)


def pictures(model: Model, latents: torch.Tensor) -> list[NDArray[np.float32] | None]:
    """Decode latents (n, 4, h, w) to n pictures (H, W, 3) on the CPU, 0 … 1.

    None stands for a picture that is not finite even when decoded in fp32; the others are not affected.
    At most ``DECODED_TOGETHER`` share a call; if they do not fit into memory, each is decoded alone, then in
    tiles.
    """
    return [picture for part in _parts(latents, DECODED_TOGETHER) for picture in _pictures(model, part)]


def _pictures(model: Model, latents: torch.Tensor) -> list[NDArray[np.float32] | None]:
    try:
        return _to_cpu(decode(model, latents))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    empty_cache(model.device)
    if len(latents) > 1:
        return [picture for one in _parts(latents) for picture in _pictures(model, one)]
    return _to_cpu(decode(model, latents, smaller=True))


def _to_cpu(pixels: torch.Tensor) -> list[NDArray[np.float32] | None]:
    good = torch.isfinite(pixels).flatten(1).all(1).tolist()
    # Floats, not bytes: the colour fit has a gain, and rounding before it would shift whole patches.
    found = cuda.runtime.download(pixels.permute(0, 2, 3, 1).contiguous()).numpy()
    return [picture if finite else None for picture, finite in zip(found, good, strict=True)]


def decode(model: Model, latents: torch.Tensor, *, smaller: bool = False) -> torch.Tensor:
    """Decode latents (n, 4, h, w) to pixels (n, 3, H, W) in 0 … 1, fp32, on the device; NaN if not finite.

    Args:
        model: the model whose VAE decodes.
        latents: scaled, as the UNet gives them.
        smaller: decode in tiles, because the whole picture did not fit into memory.
    """
    in_tiles = smaller or model.plan.vae_tiled
    pixels = _decode(model, latents, model.vae.dtype, in_tiles)
    if model.vae.dtype != torch.float32:
        # SDXL's own VAE overflows in fp16 and gives a black picture: decode such a picture again in fp32.
        overflown = ~torch.isfinite(pixels).flatten(1).all(1) & torch.isfinite(latents).flatten(1).all(1).to(
            pixels.device
        )
        again = overflown.nonzero().flatten().tolist()
        if again:
            with torch.inference_mode():
                pixels[again] = _decode(model, latents[again], torch.float32, in_tiles)
    # The clamp would turn an infinity into white or black, which looks like a picture.
    return (pixels / 2 + 0.5).nan_to_num(nan=nan, posinf=nan, neginf=nan).clamp(0, 1)


def _decode(model: Model, latents: torch.Tensor, dtype: torch.dtype, in_tiles: bool) -> torch.Tensor:
    z = _unscaled(model.vae.config, latents.to(model.device, torch.float32))
    with _vae_ready(model, dtype), tiled(model.vae) if in_tiles else nullcontext():
        decoded: list[torch.Tensor] = [
            model.vae.decode(part.to(dtype), return_dict=False)[0].float()
            for part in _parts(z, _together(model, dtype))
        ]
        return decoded[0] if len(decoded) == 1 else torch.cat(decoded)


@contextmanager
def _vae_ready(model: Model, dtype: torch.dtype) -> Iterator[None]:
    """Put the VAE on the device and in ``dtype`` for the length of the block, with gradients off."""
    if dtype != model.vae.dtype or not _in_nhwc(model.vae):
        _keep_weights(model)
    with visiting(model.vae, model.device), computing_in(model.vae, dtype):
        use_channels_last(model.vae, dtype)
        with torch.inference_mode():
            yield


def use_channels_last(vae: Any, dtype: torch.dtype) -> None:
    """Convert a 16-bit VAE to NHWC, as tensor cores compute: else each convolution transposes in and out."""
    # Not in fp32, where CUDA's kernels for NHWC are slow. Once is enough: moving and casting keep the layout.
    if dtype != torch.float32 and not _in_nhwc(vae):
        vae.to(memory_format=torch.channels_last)


def _in_nhwc(vae: Any) -> bool:
    return bool(vae.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last))


def _keep_weights(model: Model) -> None:
    """Keep the weights, which are about to be replaced, until this stream has read them.

    The thread that loaded them allocated them on another stream, to which their memory goes back.
    """
    if cuda.runtime.on(model.device):
        stream = cuda.runtime.current_stream(model.device)
        for weight in model.vae.parameters():
            cuda.runtime.keep(weight, stream)


def _unscaled(config: Any, latents: torch.Tensor) -> torch.Tensor:
    """Undo the scaling of the UNet's latents, as diffusers does for SDXL."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents / float(config.scaling_factor)
    shift, gain = (torch.tensor(v).view(1, 4, 1, 1).to(latents) for v in (mean, std))
    return latents * gain / float(config.scaling_factor) + shift


@dataclass(frozen=True, slots=True, eq=False)
class Previewer:
    """A linear map latent → RGB: good enough to watch a picture appear, at almost no cost."""

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
        """Return the preview of latents (1, 4, h, w): an RGB picture of w × h pixels."""
        height, width = latents.shape[-2:]
        rgb = np.nan_to_num(_with_one(latents) @ self.matrix).clip(0, 1)
        return Image.fromarray((rgb.reshape(height, width, 3) * 255).round().astype(np.uint8))


def _with_one(latents: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return latents (1, 4, h, w) as an array (h × w, 5), the last column 1."""
    flat = latents[0].float().flatten(1).T.cpu().numpy()
    return np.concatenate([flat, np.ones((len(flat), 1), flat.dtype)], axis=1)
