"""Measurement of the model card's tables: ``python -m tools.train_demo.evaluate [--model demo]``.

It paints unseen scenes only and takes some minutes; the tests take smaller samples of the same figures.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from inpaint import SCHEDULERS, Engine
from inpaint.model.vae import decode, encode, to_pixels
from tools.train_demo.backdrop import BACKGROUNDS
from tools.train_demo.judge import distance, edge_error, unseen
from tools.train_demo.paint import mean_distance, paint, share, verdicts
from tools.train_demo.scenes import Scene
from tools.train_demo.things.judge import judge_thing, unseen_things

CASES = 96


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo.evaluate", description=__doc__)
    parser.add_argument("--model", default="demo", help="a model's name or folder (default demo)")
    with Engine.load(parser.parse_args().model, device="cpu", max_rows=16) as engine:
        figures = {
            "vae_db": round(vae_db(engine), 2),
            "ceiling": ceiling(engine),
            "defaults": shapes_row(engine),
            "things": things_row(engine),
            "schedulers": by_scheduler(engine),
            "guidance": by_guidance(engine),
            "removal": removal(engine),
        }
    print(table(figures))
    print(json.dumps(figures))


def vae_db(engine: Engine) -> float:
    """Return the mean PSNR in dB of a round trip through the VAE."""
    found = []
    for scene in unseen(64):
        pixels = to_pixels(scene.target)
        scaled = encode(engine.model, pixels).mean * engine.model.vae.config.scaling_factor
        error = (decode(engine.model, scaled) - (pixels / 2 + 0.5)).square().mean()
        found.append(-10 * torch.log10(error).item())
    return float(np.mean(found))


def ceiling(engine: Engine) -> dict[str, float]:
    """Return what the judges say of the scenes' own targets after a round trip through the VAE."""
    shapes, things = unseen(CASES), unseen_things(CASES)
    return row(shapes, [_round_trip(engine, s) for s in shapes]) | thing_row(
        things, [_round_trip(engine, s) for s in things]
    )


def _round_trip(engine: Engine, scene: Scene) -> Image.Image:
    """Return a scene's target through the VAE, inside the mask."""
    scaled = encode(engine.model, to_pixels(scene.target)).mean * engine.model.vae.config.scaling_factor
    decoded = decode(engine.model, scaled)[0].clamp(0, 1).permute(1, 2, 0).float().numpy()
    return Image.composite(Image.fromarray((255 * decoded).round().astype(np.uint8)), scene.clean, scene.mask)


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


def table(figures: dict[str, object]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| | colour | shape | distance to the fine solution |", "|---|---:|---:|---:|"]
    defaults, schedulers, guidance = (figures[key] for key in ("defaults", "schedulers", "guidance"))
    assert isinstance(defaults, dict)
    assert isinstance(schedulers, dict)
    assert isinstance(guidance, dict)
    lines.append(f"| API defaults | {defaults['colour']:.1%} | {defaults['shape']:.1%} | |")
    for name, found in schedulers.items():
        lines.append(
            f"| {name}, 25 steps | {found['colour']:.1%} | {found['shape']:.1%} | {found['to_fine']:.4f} |"
        )
    for scale, found in guidance.items():
        lines.append(f"| DDIM, guidance {scale} | {found['colour']:.1%} | {found['shape']:.1%} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
