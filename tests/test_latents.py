"""The VAE's edges: overflow, scaling, previews."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.latents import Previewer, decode, encode, pictures, to_pixels
from inpaint.models import Model


def overflow_in(dtype: torch.dtype) -> Callable[..., torch.Tensor | None]:
    """A forward hook that spoils a decoder's output while it computes in ``dtype``."""
    return lambda module, args, out: torch.full_like(out, torch.inf) if out.dtype == dtype else None


def test_an_overflow_in_half_precision_is_decoded_again_in_fp32(
    checkpoint: Callable[[int], object], request_for: Callable[..., InpaintRequest]
) -> None:
    """SDXL base's own VAE paints black in fp16; the caller must get the picture instead."""
    with Engine.load(checkpoint(9), device="cpu", dtype="bfloat16") as engine:
        expected = np.asarray(engine.paint(request_for()).images[0], dtype=int)
        handle = engine.model.vae.decoder.register_forward_hook(overflow_in(torch.bfloat16))
        try:
            rescued = np.asarray(engine.paint(request_for()).images[0], dtype=int)
        finally:
            handle.remove()
        assert engine.model.vae.dtype == torch.bfloat16, "the next picture is decoded as before"
    assert np.abs(expected - rescued).mean() < 2


def test_what_overflows_even_in_fp32_is_an_error(model: Model) -> None:
    """Never a black picture with status 200."""
    handle = model.vae.decoder.register_forward_hook(overflow_in(torch.float32))
    try:
        assert pictures(model, torch.zeros(1, 4, 16, 16)) == [None]
    finally:
        handle.remove()


def test_latent_statistics_of_a_checkpoint_are_undone(model: Model) -> None:
    """Playground-style VAEs carry a mean and a spread per channel; ignoring them shifts every colour."""
    mean, std = [0.5, -1.0, 0.25, 2.0], [2.0, 0.5, 1.5, 3.0]
    plain = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    moved = (plain - torch.tensor(mean).view(1, 4, 1, 1) * model.vae.config.scaling_factor) / torch.tensor(
        std
    ).view(1, 4, 1, 1)
    expected = decode(model, plain)
    original = dict(model.vae.config)
    try:
        model.vae.register_to_config(latents_mean=mean, latents_std=std)
        torch.testing.assert_close(decode(model, moved), expected, rtol=0, atol=1e-4)
    finally:
        model.vae.register_to_config(
            latents_mean=original.get("latents_mean"), latents_std=original.get("latents_std")
        )


def test_a_preview_is_a_small_picture_of_any_latents(model: Model) -> None:
    """Early steps hold anything, NaN too; a preview must not break the job that it shows."""
    previewer = Previewer.fit(model)
    posterior = encode(model, to_pixels(Image.new("RGB", (128, 64), "red")))
    assert previewer(posterior.mean * model.vae.config.scaling_factor).size == (16, 8)
    assert previewer(torch.full((1, 4, 4, 4), torch.nan)).size == (4, 4)
