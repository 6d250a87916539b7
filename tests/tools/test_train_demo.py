"""Training of the demo model: a second run makes the same scenes and the same weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from tools.checkpoint_layout import write_tokenizer
from tools.train_demo.scenes import COLOURS, SHAPES, make_scene
from tools.train_demo.unet import Networks, Trainer, encode_scenes, merges
from tools.train_demo.vae import train_vae

STEPS = 4


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Both, as they ship."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for part, pad in (("one", "<|endoftext|>"), ("two", "!")):
        write_tokenizer(folder / part, pad_token=pad, merges=merges())
    return tuple(CLIPTokenizer.from_pretrained(folder / part) for part in ("one", "two"))


@pytest.fixture(scope="module")
def fresh(tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> Callable[[], Trainer]:
    """A trainer at step 0, the same each time: a VAE of one step, four scenes."""
    vae = train_vae(2, batch=2, seed=0, scenes=4, device="cpu", report=lambda step, loss: None)
    data = encode_scenes(vae, 4, lambda done: None)

    def build() -> Trainer:
        torch.manual_seed(0)
        networks = Networks.fresh(tokenizers[0])
        return Trainer(networks, data, tokenizers, steps=STEPS, batch=2, seed=0)

    return build


def test_a_scene_is_its_seed() -> None:
    """Nothing but the seed decides, so that judging never meets a scene that was trained on."""
    one, same, other = make_scene(4), make_scene(4), make_scene(5)
    for what in ("clean", "target", "mask"):
        assert np.array_equal(getattr(one, what), getattr(same, what))
        assert not np.array_equal(getattr(one, what), getattr(other, what))
    assert one.caption == same.caption


def test_the_object_lies_inside_the_mask() -> None:
    """Otherwise the model would learn to paint outside its hole."""
    for seed in range(0, 80, 2):
        scene = make_scene(seed)
        changed = (np.asarray(scene.target) != np.asarray(scene.clean)).any(axis=2)
        outside = changed & (np.asarray(scene.mask) == 0)
        assert changed.any()
        assert outside.sum() <= 0.1 * changed.sum(), seed  # an ellipse or a stroke may cut a corner off


def test_what_is_asked_for_is_named() -> None:
    """A judge asks for a colour and a shape; a caption without them could not be judged."""
    for seed, colour, shape in zip(range(1, 99, 2), list(COLOURS) * 6, list(SHAPES) * 8, strict=False):
        scene = make_scene(seed, colour=colour, shape=shape)
        assert colour in scene.caption
        assert shape in scene.caption


def test_every_caption_word_is_one_token(tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
    """Two layers of attention are too few to learn to spell."""
    for tokenizer in tokenizers:
        for caption in {make_scene(seed).caption for seed in range(0, 200, 2)}:
            assert len(tokenizer(caption).input_ids) == 2 + len(caption.split()), caption


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_never_stopped(fresh: Callable[[], Trainer], tmp_path: Path) -> None:
    """It takes an hour: a closed laptop must cost no more than the steps since the last checkpoint."""
    whole, first, second = fresh(), fresh(), fresh()
    for _ in range(STEPS):
        whole.run_step()
    for _ in range(STEPS // 2):
        first.run_step()
    torch.save(first.state(), tmp_path / "state.pt")
    second.resume(torch.load(tmp_path / "state.pt", weights_only=True))
    while second.step < STEPS:
        second.run_step()
    for ours, expected in zip(second.networks.parameters(), whole.networks.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
