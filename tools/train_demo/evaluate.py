"""Measurement of the model card's tables: ``python -m tools.train_demo.evaluate [--only PART]``.

It paints unseen scenes only, 96 for each figure, in about 20 minutes of two cores; the tests take smaller
samples of the same figures.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from inpaint import SCHEDULERS, Engine
from inpaint.model.vae import decode, encode, to_pixels
from tools.train_demo.backdrop import BACKGROUNDS
from tools.train_demo.judge import distance, edge_error, unseen
from tools.train_demo.paint import mean_distance, paint, share, verdicts
from tools.train_demo.portraits import judged, paint_portrait, portraits
from tools.train_demo.scenes import Scene
from tools.train_demo.things.judge import judge_thing, unseen_things

CASES = 96

Figures = Mapping[str, float | Mapping[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo.evaluate", description=__doc__)
    parser.add_argument("--model", default="demo", help="a model's name or folder (default demo)")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated (default: all)")
    options = parser.parse_args()
    figures: dict[str, Figures] = {}
    with Engine.load(options.model, device="cpu", max_rows=16) as engine:
        for part in options.only or PARTS:
            figures[part] = PARTS[part](engine)
            print("\n".join(rows(part, figures[part])), flush=True)
    print(json.dumps(figures))


def rows(name: str, found: float | Figures) -> Iterator[str]:
    """Write figures as lines of a Markdown table; nested ones have names of several words."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from rows(f"{name}, {key}", value)
    else:
        yield f"| {name} | {found:.4g} |"


def through_vae(engine: Engine) -> Figures:
    """Measure the VAE alone: its PSNR in dB, and the judges on the scenes' own targets through it."""
    shapes, things = (
        [(s, _round_trip(engine, s)) for s in scenes] for scenes in (unseen(CASES), unseen_things(CASES))
    )
    errors = [(decoded - (to_pixels(scene.target) / 2 + 0.5)).square().mean() for scene, decoded in shapes]
    found = {"dB": float(np.mean([-10 * torch.log10(error).item() for error in errors]))}
    for measure, pairs in ((row, shapes), (thing_row, things)):
        scenes = [scene for scene, _ in pairs]
        found |= measure(scenes, [_pasted(scene, decoded) for scene, decoded in pairs])
    return found


def _round_trip(engine: Engine, scene: Scene) -> torch.Tensor:
    """Return a scene's target through the VAE, (1, 3, H, W) in 0 … 1."""
    scaled = encode(engine.model, to_pixels(scene.target)).mean * engine.model.vae.config.scaling_factor
    return decode(engine.model, scaled)


def _pasted(scene: Scene, decoded: torch.Tensor) -> Image.Image:
    levels = (255 * decoded[0].clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    return Image.composite(Image.fromarray(levels), scene.clean, scene.mask)


def shapes_row(engine: Engine) -> dict[str, float]:
    """Measure coloured shapes at the API's defaults."""
    scenes = unseen(CASES)
    pictures = paint(engine, scenes)
    return row(scenes, pictures) | {"edge": edge(scenes, pictures)}


def things_row(engine: Engine) -> dict[str, float]:
    """Measure things at the API's defaults."""
    scenes = unseen_things(CASES)
    pictures = paint(engine, scenes)
    return thing_row(scenes, pictures) | {"edge": edge(scenes, pictures)}


def thing_row(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> dict[str, float]:
    """Return the shares of right and of named things, and the mean cosine."""
    found = [judge_thing(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
    return {
        what: round(float(np.mean([getattr(v, what) for v in found])), 3)
        for what in ("right", "named", "cosine")
    }


def edge(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> float:
    """Return the mean error in the rings around what was painted, of full scale."""
    found = [edge_error(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
    return round(float(np.mean([error for error in found if error is not None])), 4)


def row(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> dict[str, float]:
    """Return the shares of right colours and shapes."""
    found = verdicts(scenes, pictures)
    return {what: round(share(found, f"{what}_right"), 3) for what in ("colour", "shape")}


def by_scheduler(engine: Engine) -> dict[str, dict[str, float]]:
    """Measure 25 steps of each at guidance 4, with the distance to a 100-step solution of the same seeds."""
    scenes = unseen(CASES, start=100)
    guidance = {"guidance_scale": 4.0}
    fine = paint(engine, scenes, scheduler="Euler", num_inference_steps=100, strength=0.85, **guidance)
    found = {}
    for name in SCHEDULERS:
        pictures = paint(engine, scenes, scheduler=name, **guidance)
        found[name] = row(scenes, pictures) | {"to_fine": round(mean_distance(scenes, pictures, fine), 4)}
    return found


def by_guidance(engine: Engine) -> dict[str, dict[str, float]]:
    """Measure DDIM at several guidance scales."""
    scenes = unseen(CASES, start=200)
    return {
        str(g): row(scenes, paint(engine, scenes, scheduler="DDIM", guidance_scale=g))
        for g in (1.0, 3.0, 7.5)
    }


def removal(engine: Engine) -> dict[str, float]:
    """Return the error to the clean background after a removal, as a share of the object's own, by kind."""
    scenes = unseen(CASES, start=400)
    occupied = [replace(scene, clean=scene.target) for scene in scenes]
    removed = paint(engine, occupied, prompt="background", fill="telea", scheduler="DDIM")
    groups = {
        "drawn": [kind for kind in BACKGROUNDS if kind != "photo"],
        **{kind: [kind] for kind in BACKGROUNDS},
    }
    found = {}
    for name, kinds in groups.items():
        chosen = [(s, r) for s, r in zip(scenes, removed, strict=True) if s.background in kinds]
        errors = [(distance(r, s.clean, s.mask), distance(s.target, s.clean, s.mask)) for s, r in chosen]
        found[name] = round(sum(e for e, _ in errors) / sum(u for _, u in errors), 3)
    return found


def sunglasses(engine: Engine) -> dict[str, float]:
    """Return on how many of a dozen pictures of each face there are sunglasses."""
    found = {name: judged(one, paint_portrait(engine, one)) for name, one in portraits().items()}
    return {name: float(sum(verdict.right for verdict in those)) for name, those in found.items()}


PARTS: Mapping[str, Callable[[Engine], Figures]] = {
    "VAE": through_vae,
    "shapes": shapes_row,
    "things": things_row,
    "sunglasses": sunglasses,
    "25 steps": by_scheduler,
    "guidance": by_guidance,
    "left after removal": removal,
}


if __name__ == "__main__":
    main()
