"""The trained demo model: what random weights cannot show.

That a scheduler is configured right, that guidance guides, that a mask means what it should. Every scene
here has an odd seed, and the model was trained on even ones.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, KDPM2DiscreteScheduler, StableDiffusionXLInpaintPipeline
from filelock import FileLock
from PIL import Image

import inpaint.model.denoise
import inpaint.runtime.stages
import inpaint.schedulers
from bench.lib.blending import step_at_edge
from inpaint import SCHEDULERS, Engine, InpaintRequest
from inpaint.canvas.crop import extend
from inpaint.demo import demo_checkpoint, demo_entry
from inpaint.model.prompt import PromptEncoder
from inpaint.model.vae import decode, encode, to_pixels
from tests.support.examples import gated
from tests.support.stock import PLAIN, stock_pipeline
from tools.train_demo.judge import as_floats, distance, unseen
from tools.train_demo.paint import FIRST_SEED, mean_distance, paint, requests_for, run, share, verdicts
from tools.train_demo.scenes import COLOURS, SIZE, Scene

pytestmark = pytest.mark.timeout(
    1200
)  # the longest takes 90 seconds of one quiet core, and cores may be busy

SCENES = unseen(12, start=100)
NEAR = SCENES[:8]  # enough for a mean distance
# How the samplers are compared. At more, LMS and PNDM, which at a strength below 1 lack the history that
# their first steps want, paint the wrong colour more often: at 5 in 9 and 12 % of the cases (model card).
GUIDANCE = 4.0

# Mean distance inside the mask to the same seed's fine-stepped solution, of full scale: what was measured
# and a quarter. Five draw fresh noise at each step and have no one solution to come near to.
FARTHEST: Mapping[str, float] = {
    "DDIM": 0.0047,
    "DPM Multi": 0.0049,
    "DPM Single": 0.0099,
    "Euler a": 0.0456,
    "Euler": 0.0030,
    "Heun": 0.0029,
    "DPM2 a Karras": 0.0439,
    "DPM2 Karras": 0.0058,
    "LMS": 0.0089,
    "PNDM": 0.0108,
    "DDPM": 0.0456,
    "UniPC": 0.0047,
    # Karras spacing begins at more noise than the fine-stepped solution.
    "DPM Multi Karras": 0.0138,
    "DPM Single Karras": 0.0148,
    "DPM Multi SDE": 0.0465,
    "DPM Multi SDE Karras": 0.0477,
}
# What SDXL's authors published, written out here because the tests must not ask our own table.
PUBLISHED: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
# With a mask on the grid of latent cells our pictures are stock's; SAME is 8-bit rounding.
_ON_GRID = Image.new("L", (SIZE, SIZE))
_ON_GRID.paste(255, (32, 24, 96, 104))
ALIGNED = [replace(scene, mask=_ON_GRID) for scene in SCENES[:4]]
SAME = 0.0001


@pytest.fixture(scope="session")
def demo() -> Iterator[Engine]:
    """The demo model, as users load it."""
    with Engine.load("demo", device="cpu", max_rows=16) as engine:
        yield engine


@pytest.fixture(scope="session")
def fine(demo: Engine, shared_dir: Path) -> list[Image.Image]:
    """``NEAR`` in four times as many steps: where the same noise leads when no step is too long.

    100 steps at strength 0.85 begin at timestep 841, where 25 steps at 0.9 begin under "leading" spacing.
    Painted once for all xdist workers.
    """
    folder = shared_dir / "fine"
    with FileLock(shared_dir / "fine.lock"):
        if not folder.exists():
            steps: Mapping[str, Any] = {"num_inference_steps": 100, "strength": 0.85}
            pictures = paint(demo, NEAR, scheduler="Euler", guidance_scale=GUIDANCE, **steps)
            (shared_dir / "fine.part").mkdir()
            for i, picture in enumerate(pictures):
                picture.save(shared_dir / "fine.part" / f"{i}.png")
            (shared_dir / "fine.part").rename(folder)
    return [Image.open(folder / f"{i}.png").convert("RGB") for i in range(len(NEAR))]


@pytest.fixture(scope="session")
def stock(demo: Engine) -> Callable[[Any], list[Image.Image]]:
    """A diffusers scheduler → ``ALIGNED`` as stock's pipeline paints them on the same weights."""
    pipe = stock_pipeline(demo.model)

    def paint_one(scheduler: Any, scene: Scene, seed: int) -> Image.Image:
        pipe.scheduler = scheduler
        return pipe(
            prompt=scene.caption,
            image=scene.clean,
            mask_image=scene.mask,
            width=SIZE,
            height=SIZE,
            strength=0.9,
            num_inference_steps=25,
            guidance_scale=7.5,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    return lambda scheduler: [paint_one(scheduler, scene, FIRST_SEED + i) for i, scene in enumerate(ALIGNED)]


@pytest.fixture
def is_right(demo: Engine, fine: list[Image.Image]) -> Callable[..., bool]:
    """Scheduler, changes to the checkpoint's schedule → whether its pictures pass as this model's."""

    def check(scheduler: str, **schedule: object) -> bool:
        config = {**demo.model.scheduler_config, **schedule}
        with Engine(replace(demo.model, scheduler_config=config), max_rows=16) as engine:
            pictures = paint(engine, NEAR, scheduler=scheduler, guidance_scale=GUIDANCE)
        return mean_distance(NEAR, pictures, fine) <= FARTHEST[scheduler]

    return check


def test_it_is_small_whole_and_in_the_genuine_layout() -> None:
    """It ships inside the wheel, and is loaded by the code that loads the real one."""
    entry = demo_entry()
    assert entry.size <= 16_000_000
    pipe = StableDiffusionXLInpaintPipeline.from_pretrained(demo_checkpoint().path, add_watermarker=False)
    assert pipe.unet.config.in_channels == 9
    assert pipe.unet.config.addition_embed_type == "text_time"
    assert pipe.vae_scale_factor == 8


@pytest.mark.slow
def test_the_vae_round_trip_is_30_db_on_unseen_scenes(demo: Engine) -> None:
    """Whatever lies in the box but is not repainted goes through it."""
    found = []
    for scene in unseen(48):
        pixels = to_pixels(scene.target)
        scaled = encode(demo.model, pixels).mean * demo.model.vae.config.scaling_factor
        error = (decode(demo.model, scaled) - (pixels / 2 + 0.5)).square().mean()
        found.append(-10 * torch.log10(error).item())
    assert np.mean(found) >= 30


@pytest.mark.slow
@pytest.mark.gate
def test_it_paints_what_the_prompt_names(demo: Engine) -> None:
    """At the API's defaults, on the first 32 of the 96 unseen cases that the model card judges."""
    scenes = unseen(32)
    found = verdicts(scenes, paint(demo, scenes))
    assert share(found, "colour_right") >= 0.95
    # 87.5 % here, 89.6 % of the 96; another CPU's rounding may cost one.
    assert share(found, "shape_right") >= 0.84


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", gated(SCHEDULERS, "DDIM", "Euler a", "DPM2 Karras"))
def test_every_scheduler_paints_it(scheduler: str, demo: Engine, fine: list[Image.Image]) -> None:
    """The colour in 25 steps, and as near to the fine-stepped solution as this sampler comes."""
    pictures = paint(demo, SCENES, scheduler=scheduler, guidance_scale=GUIDANCE)
    assert (
        share(verdicts(SCENES, pictures), "colour_right") >= 0.9
    )  # all; another CPU's rounding may cost one
    assert mean_distance(NEAR, pictures[: len(NEAR)], fine) <= FARTHEST[scheduler]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", gated(["DDIM", "Euler"], "Euler"))
def test_a_wrong_prediction_type_is_caught(scheduler: str, is_right: Callable[..., bool]) -> None:
    """The commonest way to paint mud."""
    assert not is_right(scheduler, prediction_type="v_prediction")


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", gated(["DDIM", "DPM Multi"], "DDIM"))
def test_a_wrong_beta_schedule_is_caught(scheduler: str, is_right: Callable[..., bool]) -> None:
    """It looks plausible, which is why it must be measured."""
    assert not is_right(scheduler, beta_schedule="linear")


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", gated(["DDIM", "Euler", "UniPC"], "UniPC"))
def test_a_wrong_spacing_is_caught(scheduler: str, is_right: Callable[..., bool]) -> None:
    """The classes' own default differs from the checkpoint's."""
    assert not is_right(scheduler, timestep_spacing="trailing")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The `scale_model_input` function:UserWarning")  # the point of it
@pytest.mark.parametrize("scheduler", gated(["Euler", "LMS"], "LMS"))
def test_a_missing_scale_model_input_is_caught(
    scheduler: str, is_right: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samplers that work in sigmas need it."""
    monkeypatch.setattr(
        inpaint.model.denoise,
        "_unet_input",
        lambda row: torch.cat([row.latents, row.conditioning.mask, row.masked_latents], dim=1),
    )
    assert not is_right(scheduler)


@pytest.mark.slow
@pytest.mark.gate
def test_an_inverted_mask_is_caught(is_right: Callable[..., bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """White and black mean opposite things in other tools."""
    reduce = inpaint.runtime.stages.latent_mask
    monkeypatch.setattr(inpaint.runtime.stages, "latent_mask", lambda mask, factor: 1 - reduce(mask, factor))
    assert not is_right("DDIM")


@pytest.mark.slow
@pytest.mark.gate
def test_dropped_masked_latents_are_caught(
    is_right: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them the model does not see what the hole lies in."""
    whole = inpaint.model.denoise._unet_input

    def without(row: Any) -> torch.Tensor:
        return torch.cat([whole(row)[:, :5], torch.zeros_like(row.masked_latents)], dim=1)

    monkeypatch.setattr(inpaint.model.denoise, "_unet_input", without)
    assert not is_right("DDIM")


@pytest.mark.slow
@pytest.mark.gate
def test_zeroed_pooled_embeddings_are_caught(
    is_right: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second path by which SDXL reads its prompt."""
    pair = PromptEncoder.pair

    def without(self: PromptEncoder, *prompts: Any) -> Any:
        positive, other = pair(self, *prompts)
        return replace(positive, pooled=torch.zeros_like(positive.pooled)), other

    monkeypatch.setattr(PromptEncoder, "pair", without)
    assert not is_right("DDIM")


@pytest.mark.slow
@pytest.mark.gate
def test_swapped_prompts_are_caught(is_right: Callable[..., bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance away from the prompt."""
    pair = PromptEncoder.pair
    monkeypatch.setattr(PromptEncoder, "pair", lambda self, *prompts: pair(self, *prompts)[::-1])
    assert not is_right("DDIM")


@pytest.mark.slow
def test_a_lost_karras_flag_is_caught(
    demo: Engine, stock: Callable[[Any], list[Image.Image]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what the name "DPM2 Karras" says."""
    expected = stock(KDPM2DiscreteScheduler(**PUBLISHED, use_karras_sigmas=True))
    assert mean_distance(ALIGNED, paint(demo, ALIGNED, scheduler="DPM2 Karras", **PLAIN), expected) <= SAME
    lost = {**SCHEDULERS, "DPM2 Karras": replace(SCHEDULERS["DPM2 Karras"], overrides={})}
    monkeypatch.setattr(inpaint.schedulers, "SCHEDULERS", lost)
    uncached = inpaint.schedulers._prototype.__wrapped__
    monkeypatch.setattr(inpaint.schedulers, "_prototype", uncached)
    assert mean_distance(ALIGNED, paint(demo, ALIGNED, scheduler="DPM2 Karras", **PLAIN), expected) > 4 * SAME


@pytest.mark.slow
def test_a_wrong_steps_offset_is_caught(demo: Engine, stock: Callable[[Any], list[Image.Image]]) -> None:
    """One timestep of a thousand: next to nothing in a picture, but not the published setting."""
    expected = stock(EulerDiscreteScheduler(**PUBLISHED))
    assert mean_distance(ALIGNED, paint(demo, ALIGNED, scheduler="Euler", **PLAIN), expected) <= SAME
    config = {**demo.model.scheduler_config, "steps_offset": 0}
    with Engine(replace(demo.model, scheduler_config=config), max_rows=16) as engine:
        shifted = paint(engine, ALIGNED, scheduler="Euler", **PLAIN)
    assert mean_distance(ALIGNED, shifted, expected) > 4 * SAME


@pytest.mark.slow
def test_guidance_guides(demo: Engine) -> None:
    """At 7.5 the prompt is followed more often than at 1."""
    scenes = unseen(16, start=200)
    weak, strong = (
        verdicts(scenes, paint(demo, scenes, scheduler="DDIM", guidance_scale=scale)) for scale in (1.0, 7.5)
    )
    right = [share(found, "colour_right") + share(found, "shape_right") for found in (weak, strong)]
    assert right[1] > right[0]


@pytest.mark.slow
def test_a_negative_prompt_lowers_its_colour(demo: Engine) -> None:
    """Asked for a shape of any colour, the model leaves the one that it would have taken."""
    scenes = [replace(scene, caption=f"a {scene.shape}") for scene in unseen(12, start=300)]
    requests = requests_for(scenes, scheduler="DDIM")
    taken = [verdict.colour for verdict in verdicts(scenes, run(demo, requests))]
    against = [replace(r, negative_prompt=colour) for r, colour in zip(requests, taken, strict=True)]
    left = [verdict.colour for verdict in verdicts(scenes, run(demo, against))]
    assert np.mean([a == b for a, b in zip(taken, left, strict=True)]) <= 0.5


@pytest.mark.slow
def test_background_removes_an_object(demo: Engine) -> None:
    """The commonest thing that people want: the error to the clean background at least halves.

    Where the background was drawn. What a photograph shows behind its objects cannot be known: there the
    model paints something of the like, and the error grows (model card).
    """
    scenes = [scene for scene in unseen(24, start=400) if scene.background != "photo"]
    clean, untouched = [scene.clean for scene in scenes], [scene.target for scene in scenes]
    occupied = [replace(scene, clean=scene.target) for scene in scenes]
    removed = paint(demo, occupied, prompt="background", fill="telea", scheduler="DDIM")
    assert mean_distance(scenes, removed, clean) <= 0.5 * mean_distance(scenes, untouched, clean)


def colour_left(scene: Scene, picture: Image.Image) -> float:
    """The share of the object's pixels that are still nearer to its colour than to what is behind it."""
    own, clean, found = (as_floats(p) for p in (scene.target, scene.clean, picture))
    colour = np.array(COLOURS[scene.colour], np.float32) / 255
    there = (np.asarray(scene.mask) > 0) & (np.abs(own - clean).mean(2) > 0.05)
    nearer = np.linalg.norm(found - colour, axis=2) < np.linalg.norm(found - clean, axis=2)
    return float(nearer[there].mean())


def removed(engine: Engine, fill: str, strength: float) -> list[float]:
    """The colour left in each of ten scenes with drawn backgrounds after the removal of its object."""
    scenes = [scene for scene in unseen(13, start=400) if scene.background != "photo"]
    occupied = [replace(scene, clean=scene.target) for scene in scenes]
    quick = {"scheduler": "DDIM", "num_inference_steps": 20, "guidance_scale": GUIDANCE}
    pictures = paint(engine, occupied, prompt="background", fill=fill, strength=strength, **quick)
    return [colour_left(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]


@pytest.mark.slow
def test_remove_removes(demo: Engine) -> None:
    """The page's Remove, telea and 0.99: nothing is left that has the object's colour."""
    left = removed(demo, "telea", 0.99)
    assert max(left) < 0.15
    assert np.mean(left) < 0.03


@pytest.mark.slow
def test_below_strength_1_the_fill_is_what_removes(demo: Engine) -> None:
    """At 0.6 the old content shines through the noise, unless the hole was filled from its surroundings."""
    left = {fill: np.mean(removed(demo, fill, 0.6)) for fill in ("original", "telea", "blur")}
    assert left["telea"] < 0.03 < 0.08 < left["original"]
    assert left["blur"] < 0.03


@pytest.mark.slow
def test_an_extended_picture_shows_no_line_where_it_ended(demo: Engine) -> None:
    """More sky: on gradients, where the eye finds any step; and matching the colours is what hides it."""
    scenes = [scene for scene in unseen(24, start=700) if scene.background == "gradient"][:4]
    steps = []
    for match in (True, False):
        wider = [extend(scene.clean.crop((0, 0, 96, SIZE)), None, 0, 0, 32, 0) for scene in scenes]
        quick: dict[str, Any] = {"scheduler": "DDIM", "num_inference_steps": 15, "color_match": match}
        pictures = run(
            demo, [InpaintRequest(p, m, "background", area="whole", seed=5, **quick) for p, m in wider]
        )
        together = zip(scenes, pictures, wider, strict=True)
        steps.append(np.mean([step_at_edge(one, scene.clean, mask) for scene, one, (_, mask) in together]))
    assert steps[0] < 4
    assert steps[0] < 0.6 * steps[1]


@pytest.mark.slow
def test_strength_is_how_much_changes(demo: Engine) -> None:
    """0.2 stays close to the original, 0.9 does not."""
    scenes = unseen(8, start=500)
    originals = [scene.clean for scene in scenes]
    near, far = (
        mean_distance(scenes, paint(demo, scenes, scheduler="DDIM", strength=strength), originals)
        for strength in (0.2, 0.9)
    )
    assert near < 0.05 < 0.08 < far


@pytest.mark.slow
def test_seeds_paint_different_pictures(demo: Engine) -> None:
    """Four variations are four pictures."""
    (scene,) = unseen(1, start=600)
    pictures = [paint(demo, [scene], scheduler="DDIM", seed=seed)[0] for seed in range(4)]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert distance(one, other, scene.mask) > 0.005
