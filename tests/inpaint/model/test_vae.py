"""The VAE's edges: what shares a call, overflow, memory, rounding, scaling, previews."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.errors import PaintError
from inpaint.memory import choose_plan
from inpaint.model.load import Model, load_model
from inpaint.model.vae import Previewer, decode, draw, encode, pictures, to_pixels

CPU = torch.device("cpu")


@contextmanager
def hooked(module: torch.nn.Module, hook: Callable[..., torch.Tensor | None]) -> Iterator[None]:
    """A forward hook on a real module for the length of the block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def overflow_in(dtype: torch.dtype) -> Callable[..., torch.Tensor | None]:
    """A forward hook that spoils a module's output while it computes in ``dtype``."""
    return lambda module, args, out: torch.full_like(out, torch.inf) if out.dtype == dtype else None


@contextmanager
def calls_of(module: torch.nn.Module, most: int = 99, widest: int = 999) -> Iterator[list[tuple[int, int]]]:
    """(pictures, width) of each call; out of memory where there are more or they are wider."""
    calls: list[tuple[int, int]] = []

    def count(_: object, args: tuple[torch.Tensor, ...]) -> None:
        calls.append((len(args[0]), args[0].shape[-1]))
        if len(args[0]) > most or args[0].shape[-1] > widest:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = module.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def some_latents(n: int) -> torch.Tensor:
    """(n, 4, 16, 16), no two alike."""
    return torch.randn(n, 4, 16, 16, generator=torch.Generator().manual_seed(3))


LEVEL = 1 / 255


@pytest.fixture
def colours(photo: Image.Image) -> torch.Tensor:
    """Two pictures as uint8 (2, 3, 128, 128)."""
    one = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    return torch.stack([one, 255 - one])


@pytest.fixture(scope="module")
def half(checkpoint: Callable[[int], Path]) -> Model:
    """The tiny model in bfloat16, its VAE too."""
    return load_model(checkpoint(9), "tiny", CPU, torch.bfloat16)


def test_rows_decoded_together_are_the_pictures_they_are_alone(model: Model) -> None:
    """Requests that end at the same time share the VAE, at most two of them, with the same pictures."""
    latents = some_latents(3)
    with calls_of(model.vae.decoder) as calls:
        together = pictures(model, latents)
    assert [n for n, _ in calls] == [2, 1]
    for picture, one in zip(together, latents, strict=True):
        (alone,) = pictures(model, one[None])
        assert picture.shape == (128, 128, 3)
        assert np.abs(picture - alone).max() <= LEVEL


def test_pictures_are_stocks_to_the_last_level(model: Model) -> None:
    """They are laid out on the device now, and rounded once, when they are pasted."""
    latents = some_latents(2)
    theirs = VaeImageProcessor.pt_to_numpy(decode(model, latents))
    for ours, expected in zip(pictures(model, latents), VaeImageProcessor.numpy_to_pil(theirs), strict=True):
        assert np.array_equal((ours * 255).round().astype(np.uint8), np.asarray(expected))


def test_a_row_of_nan_does_not_spoil_its_neighbour(model: Model) -> None:
    """A request that shares the VAE with a failed picture still gets its own."""
    latents = some_latents(2)
    (expected,) = pictures(model, latents[1:])
    latents[0, 0, 0, 0] = torch.nan
    bad, good = pictures(model, latents)
    assert bad is None
    assert np.abs(good - expected).max() <= LEVEL


def test_an_overflow_in_half_precision_is_decoded_again_in_fp32(
    checkpoint: Callable[[int], object], request_for: Callable[..., InpaintRequest]
) -> None:
    """SDXL base's own VAE paints black in fp16; the caller must get the picture instead."""
    with Engine.load(checkpoint(9), device="cpu", dtype="bfloat16") as engine:
        expected = np.asarray(engine.paint(request_for()).images[0], dtype=int)
        with hooked(engine.model.vae.decoder, overflow_in(torch.bfloat16)):
            rescued = np.asarray(engine.paint(request_for()).images[0], dtype=int)
        assert engine.model.vae.dtype == torch.bfloat16, "the next picture is decoded as before"
    assert np.abs(expected - rescued).mean() < 2


def test_only_what_overflowed_is_decoded_again(half: Model) -> None:
    """The neighbour has its picture, and NaN latents stay NaN in any precision."""

    def spoil_first(_: object, args: object, out: torch.Tensor) -> torch.Tensor | None:
        spoilt = torch.full_like(out[:1], torch.inf)
        return torch.cat([spoilt, out[1:]]) if out.dtype == torch.bfloat16 else None

    latents = some_latents(2)
    with hooked(half.vae.decoder, spoil_first), calls_of(half.vae.decoder) as calls:
        found = pictures(half, latents)
        assert [n for n, _ in calls] == [2, 1]
        assert all(picture is not None for picture in found)
        latents[0] = torch.nan
        assert pictures(half, latents)[0] is None
        assert [n for n, _ in calls] == [2, 1, 2]


def test_what_overflows_even_in_fp32_is_no_picture(model: Model) -> None:
    """Never a black, or by way of an infinity a white, picture with status 200."""
    with hooked(model.vae.decoder, overflow_in(torch.float32)):
        assert pictures(model, torch.zeros(1, 4, 16, 16)) == [None]


def test_rows_that_do_not_fit_together_are_decoded_alone(model: Model) -> None:
    """Sharing the VAE may not cost anybody the picture, nor its quality: tiles are the last resort."""
    latents = some_latents(2)
    with calls_of(model.vae.decoder, most=1) as calls:
        found = pictures(model, latents)
    assert calls == [(2, 16), (1, 16), (1, 16)]
    expected = pictures(model, latents)
    assert all(np.abs(a - b).max() <= LEVEL for a, b in zip(found, expected, strict=True))


def test_what_does_not_fit_alone_is_decoded_in_tiles(model: Model) -> None:
    """The decode is the peak of memory on a small card."""
    with calls_of(model.vae.decoder, widest=8) as calls:
        assert all(picture is not None for picture in pictures(model, some_latents(2)))
    assert calls[:3] == [(2, 16), (1, 16), (1, 8)]
    assert not model.vae.use_tiling, "the next picture is decoded whole again"


def test_bytes_are_encoded_as_stock_encodes_pictures(model: Model, colours: torch.Tensor) -> None:
    """They become numbers on the device; those must be diffusers' numbers."""
    found = encode(model, colours)
    pixels = VaeImageProcessor().preprocess(colours.permute(0, 2, 3, 1).numpy() / np.float32(255))
    for i, one in enumerate(found.split()):
        with torch.no_grad():
            expected = model.vae.encode(pixels[i : i + 1]).latent_dist
        torch.testing.assert_close(one.mean, expected.mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.std, expected.std, rtol=0, atol=1e-5)
        assert torch.equal(encode(model, pixels).mean[i : i + 1], one.mean)


def test_pictures_are_encoded_in_one_call_where_memory_allows(model: Model, colours: torch.Tensor) -> None:
    """Picture and masked picture cost one pass; on a card too small for two, one after the other."""
    with calls_of(model.vae.encoder) as calls:
        expected = encode(model, colours)
    assert [n for n, _ in calls] == [2]
    with calls_of(model.vae.encoder, most=1) as calls:
        retried = encode(model, colours)
    assert [n for n, _ in calls] == [2, 1, 1]
    small = replace(model, plan=choose_plan(None, "fp8"))
    with calls_of(model.vae.encoder) as calls:
        spared = encode(small, colours)
    assert [n for n, _ in calls] == [1, 1]
    for found in (retried, spared):
        torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-5)


def test_an_encode_that_overflows_is_made_again_in_fp32(half: Model, colours: torch.Tensor) -> None:
    """Else the request would end in NaN after all its steps."""
    expected = encode(half, colours)
    with hooked(half.vae.encoder, overflow_in(torch.bfloat16)):
        rescued = encode(half, colours)
    assert half.vae.dtype == torch.bfloat16
    assert (expected.mean - rescued.mean).abs().mean() < 0.02
    assert rescued.mean.dtype == rescued.std.dtype == torch.float32


def test_a_picture_that_encodes_to_nan_is_an_error_immediately(model: Model, colours: torch.Tensor) -> None:
    """Not after thirty steps of painting nothing."""
    with hooked(model.vae.encoder, overflow_in(torch.float32)), pytest.raises(PaintError, match="NaN"):
        encode(model, colours)


def test_a_posterior_split_off_keeps_only_its_own_memory(model: Model, colours: torch.Tensor) -> None:
    """A cache counts bytes; a view would keep the whole batch alive behind its back."""
    for one in encode(model, colours).split():
        held = one.mean.untyped_storage().nbytes() + one.std.untyped_storage().nbytes()
        assert held == one.size_bytes == 2 * 4 * 16 * 16 * 4


def test_the_vae_lies_channels_last_in_half_precision_only(
    half: Model, model: Model, colours: torch.Tensor
) -> None:
    """The layout of tensor cores in 16 bit; in fp32 it would be the slow one."""
    for one, expected in ((half, True), (model, False)):
        pictures(one, draw(one, encode(one, colours[:1]), torch.Generator().manual_seed(0)))
        weight = one.vae.decoder.mid_block.resnets[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == expected


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_cpu_s_pictures(
    model: Model, checkpoint: Callable[[int], Path], colours: torch.Tensor
) -> None:
    """Encoded and decoded there in fp16, the posterior left there."""
    gpu = load_model(checkpoint(9), "tiny", torch.device("cuda"), torch.float16)
    posterior = encode(gpu, colours)
    assert posterior.mean.is_cuda
    assert posterior.std.is_cuda
    torch.testing.assert_close(posterior.mean.cpu(), encode(model, colours).mean, rtol=0, atol=0.05)
    for ours, theirs in zip(pictures(gpu, some_latents(2)), pictures(model, some_latents(2)), strict=True):
        assert np.abs(ours - theirs).mean() < 2 * LEVEL
