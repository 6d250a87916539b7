"""The cache of encoded pictures: what it saves, what it tells apart, and what it lets go."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.errors import PaintError
from inpaint.model.load import Model, load_model
from inpaint.model.vae import Posterior, encode, to_pixels
from inpaint.model.vae_cache import PictureEncoder

PAIR_BYTES = 2 * 2 * 4 * 16 * 16 * 4  # picture and masked picture; mean and std (4, 16, 16) in fp32


@contextmanager
def encoded(model: Model) -> Iterator[list[int]]:
    """How many pictures each call of the VAE's encoder had."""
    calls: list[int] = []
    handle = model.vae.encoder.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    try:
        yield calls
    finally:
        handle.remove()


def same(one: Posterior | None, other: Posterior | None) -> bool:
    """Whether two posteriors agree in every bit."""
    assert one is not None
    assert other is not None
    return torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std)


def shifted(image: Image.Image, by: int) -> Image.Image:
    """Another picture of the same size."""
    return Image.fromarray(np.roll(np.asarray(image), by, axis=1))


def test_the_same_upload_is_encoded_once(
    engine: Engine, request_for: Callable[..., InpaintRequest], grid_mask: Image.Image
) -> None:
    """A user who changes a word of the prompt, again and again, waits for the steps only."""
    with encoded(engine.model) as calls:
        for seed, prompt in enumerate(("a red circle", "a blue circle", "a circle")):
            engine.paint(request_for(seed=seed, prompt=prompt, area="whole"))
        assert calls == [1, 2], "a chart for previews; the picture and the masked picture, in one call"
        other = grid_mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        engine.paint(request_for(mask=other, area="whole"))
        assert calls == [1, 2, 1], "of another hole in it, only the masked picture"


def test_a_cached_picture_is_painted_the_same(
    engine: Engine, request_for: Callable[..., InpaintRequest]
) -> None:
    """A seed is a promise, whatever was painted before."""
    first, second = (engine.paint(request_for()).images[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_a_pair_is_the_picture_and_it_with_a_grey_hole(
    model: Model, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """Grey is exactly 0 between -1 and 1, which no byte can say."""
    image, masked = PictureEncoder(model).pair(photo, grid_mask)
    pixels = to_pixels(photo)
    holed = pixels.masked_fill(torch.from_numpy(np.asarray(grid_mask) >= 128), 0.0)
    expected = encode(model, torch.cat([pixels, holed])).split()
    assert same(image, expected[0])
    assert same(masked, expected[1])


def test_a_unet_of_four_channels_costs_one_picture(
    models: Callable[[int], Model], photo: Image.Image, grid_mask: Image.Image
) -> None:
    """It never sees the masked one; stock encodes it for nothing."""
    model = models(4)
    encoder = PictureEncoder(model)
    with encoded(model) as calls:
        assert encoder.pair(photo, grid_mask)[1] is None
        encoder.pair(photo, Image.new("L", photo.size, 255))
    assert calls == [1]


def test_one_level_of_one_pixel_is_another_picture(
    model: Model, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """No request gets the encoding of a picture that is only similar."""
    encoder = PictureEncoder(model)
    before = encoder.pair(photo, grid_mask)
    pixels, mask = np.array(photo), np.array(grid_mask)
    pixels[-1, -1, -1] ^= 1
    mask[0, 0] = 255
    with encoded(model) as calls:
        after = encoder.pair(Image.fromarray(pixels), grid_mask)
        other_hole = encoder.pair(photo, Image.fromarray(mask))
    assert calls == [2, 1]
    assert not same(before[0], after[0])
    assert same(before[0], other_hole[0])
    assert not same(before[1], other_hole[1])


def test_the_same_bytes_in_another_shape_are_another_picture(model: Model) -> None:
    """Flat colours: 64 × 128 and 128 × 64 of one red are the same bytes."""
    encoder = PictureEncoder(model)
    for size in ((64, 128), (128, 64)):
        image, _ = encoder.pair(Image.new("RGB", size, "red"), Image.new("L", size, 255))
        assert image.mean.shape[-2:] == (size[1] // 8, size[0] // 8)


def test_the_least_recently_used_pictures_go_first(
    model: Model, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """A GPU's memory is for painting: the cache has a bound, and keeps what people come back to."""
    a, b, c = (shifted(photo, by) for by in (0, 8, 16))
    encoder = PictureEncoder(model, max_bytes=2 * PAIR_BYTES)
    for image in (a, b, a, c):  # c takes the place of b
        encoder.pair(image, grid_mask)
    with encoded(model) as calls:
        encoder.pair(a, grid_mask)
        encoder.pair(c, grid_mask)
        assert calls == []
        encoder.pair(b, grid_mask)
        encoder.pair(c, grid_mask)
        assert calls == [2], "b again, in the place of a"


def test_the_bound_holds_however_many_come(model: Model, photo: Image.Image, grid_mask: Image.Image) -> None:
    """Counted in bytes, picture by picture; a bound of nothing keeps nothing and still answers."""
    for max_bytes in (2 * PAIR_BYTES + 1, PAIR_BYTES // 2, 0):
        encoder = PictureEncoder(model, max_bytes=max_bytes)
        for by in range(4):
            assert encoder.pair(shifted(photo, by), grid_mask)[1] is not None
            held = sum(posterior.size_bytes for posterior in encoder._cache._values.values())
            assert held == encoder._cache._size <= max_bytes


def test_an_encode_that_failed_is_not_remembered(
    model: Model, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """One bad moment must not fail the same picture for as long as the process lives."""
    encoder = PictureEncoder(model)
    handle = model.vae.encoder.register_forward_hook(lambda _, args, out: torch.full_like(out, torch.nan))
    try:
        with pytest.raises(PaintError, match="NaN"):
            encoder.pair(photo, grid_mask)
    finally:
        handle.remove()
    assert torch.isfinite(encoder.pair(photo, grid_mask)[0].mean).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cached_pair_never_waits_for_the_gpu(
    checkpoint: Callable[[int], object], photo: Image.Image, grid_mask: Image.Image
) -> None:
    """It stays on the device; a copy or a check would make the thread wait for the steps under way."""
    model = load_model(checkpoint(9), "tiny", torch.device("cuda"), torch.float16)
    encoder = PictureEncoder(model)
    first = encoder.pair(photo, grid_mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = encoder.pair(photo, grid_mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert first[0] is second[0]
    assert second[0].mean.is_cuda
