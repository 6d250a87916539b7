"""Training of the demo model: a second run makes the same scenes and the same weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from inpaint.demo import demo_folder
from tools.train_demo.backdrop import SHAPES, SIZE
from tools.train_demo.data import encode_scenes, shape_scene, thing_scene
from tools.train_demo.judge import edge_error
from tools.train_demo.scenes import BACKGROUND_CAPTIONS, COLOURS, Scene, make_scene
from tools.train_demo.things import THINGS
from tools.train_demo.things.judge import judge_picture, judge_thing, unseen_things
from tools.train_demo.things.scenes import make_thing_scene
from tools.train_demo.trainer import Trainer
from tools.train_demo.unet import Networks
from tools.train_demo.vae import train_vae
from tools.train_demo.words import make_tokenizers, merges, split, words

STEPS = 4
CELLS = SIZE // 8
NAMES = list(THINGS)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Both, as a training from nothing makes them."""
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def fresh(tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> Callable[[], Trainer]:
    """A trainer at step 0, the same each time: a VAE of one step, 12 shapes and 40 things."""
    vae = train_vae(2, batch=2, seed=0, scenes=4, device="cpu", report=lambda step, loss: None)
    shapes = encode_scenes(vae, 12, shape_scene, lambda done: None)
    things = encode_scenes(vae, 40, thing_scene, lambda done: None)

    def build() -> Trainer:
        torch.manual_seed(0)
        networks = Networks.fresh(tokenizers[0])
        return Trainer(networks, shapes, things, tokenizers, steps=STEPS, batch=2, seed=0)

    return build


def differ(one: Scene, other: Scene) -> list[bool]:
    return [
        not np.array_equal(getattr(one, what), getattr(other, what)) for what in ("clean", "target", "mask")
    ]


@pytest.mark.parametrize("make", [make_scene, lambda seed: make_thing_scene(seed, "hat")])
def test_a_scene_is_its_seed(make: Callable[[int], Scene]) -> None:
    """Nothing but the seed decides, so that judging never meets a scene that was trained on."""
    one, same, other = make(4), make(4), make(5)
    assert not any(differ(one, same))
    assert all(differ(one, other))
    assert one.caption == same.caption


def test_the_object_lies_inside_the_mask() -> None:
    """Otherwise the model would learn to paint outside its hole."""
    for seed in range(0, 80, 2):
        scene = make_scene(seed) if seed % 4 else make_thing_scene(seed, NAMES[seed // 4])
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
        for word in words():
            assert len(tokenizer(word).input_ids) == 3, word


def test_merges_behind_others_change_no_word_of_theirs() -> None:
    """The shipped model was trained further: what it knew must reach it as the same tokens."""
    start = ["s t", "st a", "sta r</w>", "a n</w>"]
    grown = merges(start)
    assert grown[: len(start)] == tuple(start)
    ranks = {merge: rank for rank, merge in enumerate(grown)}
    assert [split(word, ranks) for word in ("star", "an")] == [["star</w>"], ["an</w>"]]
    # "sta" of "star" comes first, also in the middle of a word; then what follows must be merged with it.
    assert split("moustache", ranks) == ["moustache</w>"]


def test_a_model_that_goes_on_reads_its_old_captions_as_before(tmp_path: Path) -> None:
    """New words move the ids of the special tokens, and with them the embeddings must move."""
    start = demo_folder()
    known = tuple(CLIPTokenizer.from_pretrained(start / part) for part in ("tokenizer", "tokenizer_2"))
    plain = [merge for merge in (start / "tokenizer" / "merges.txt").read_text().splitlines() if " " in merge]
    assert len(plain) > 80
    torch.manual_seed(0)
    grown = make_tokenizers(tmp_path, start)
    before, after = Networks.of_model(start, known[0]), Networks.of_model(start, grown[0])
    padded = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
    for caption in ("a big red circle", "something cyan", *BACKGROUND_CAPTIONS, ""):
        with torch.inference_mode():
            old = before.embed(tuple(each(caption, **padded).input_ids for each in known))
            new = after.embed(tuple(each(caption, **padded).input_ids for each in grown))
        torch.testing.assert_close(new, old, rtol=0, atol=0)


def test_the_judge_knows_the_things_themselves_and_is_not_fooled() -> None:
    """The scenes' own targets pass; the clean scene and another thing in its place do not."""
    for scene in unseen_things(len(THINGS))[::6]:
        verdict = judge_thing(scene, scene.target)
        assert verdict.named, (scene.thing, verdict)
        assert not judge_thing(scene, scene.clean).named
        other = make_thing_scene(90_001, "tree" if scene.thing != "tree" else "fish", worn=False)
        assert not judge_picture(other.target, scene.clean, scene.mask, scene.thing).named


def test_the_judge_of_edges_sees_a_halo() -> None:
    """Where a model paints a glow around things, colour and shape are right and the picture is not."""
    scene = make_scene(1, colour="red", shape="circle")
    clean = edge_error(scene, scene.target)
    glow = Image.blend(scene.clean, Image.new("RGB", scene.clean.size, "white"), 0.08)
    haloed = scene.target.copy()
    own = np.abs(np.asarray(scene.target, int) - np.asarray(scene.clean, int)).max(2) > 0
    outside = Image.fromarray((~own & (np.asarray(scene.mask) > 0)).astype(np.uint8) * 255)
    haloed.paste(glow, (0, 0), outside)
    error = edge_error(scene, haloed)
    assert clean is not None
    assert error is not None
    assert clean < 0.002
    assert error > 0.01
    assert edge_error(scene, scene.clean) is None


def test_patches_of_scenes_keep_their_masks_whole(fresh: Callable[[], Trainer]) -> None:
    """Real masks are often wide: their patch is 128 × 64, a shape that squares alone do not teach."""
    trainer = fresh()
    for axis, size in ((2, (CELLS // 2, CELLS)), (3, (CELLS, CELLS // 2))):
        groups = trainer._fitting[axis]
        assert all(len(group) for group in groups)
        things = torch.tensor([False, True])
        index = trainer._pick(things, groups)
        whole, cut = trainer._batch(index, things), trainer._cut(index, things, axis)
        assert tuple(cut.target.shape[2:]) == size
        assert torch.equal(cut.mask.sum((1, 2, 3)), whole.mask.sum((1, 2, 3)))
        first = (whole.mask.amax((1, 5 - axis)) > 0).float().argmax(1)
        shown = (cut.mask.amax((1, 5 - axis)) > 0).float().argmax(1)
        for row, start in enumerate((first - shown).tolist()):
            expected = whole.target[row].narrow(axis - 1, start, CELLS // 2)
            assert torch.equal(cut.target[row], expected)


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
