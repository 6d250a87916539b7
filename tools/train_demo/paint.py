"""Scenes through the engine, at the API's defaults; and the figures that tests and model card share."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from inpaint import Engine, InpaintRequest
from tools.train_demo.judge import Verdict, distance, judge
from tools.train_demo.scenes import Scene

FIRST_SEED = 1000  # of the noise; scene i is painted with FIRST_SEED + i


def paint(engine: Engine, scenes: Sequence[Scene], **settings: object) -> list[Image.Image]:
    """One picture a scene, painted on ``scene.clean``."""
    return run(engine, requests_for(scenes, **settings))


def requests_for(scenes: Sequence[Scene], **settings: object) -> list[InpaintRequest]:
    """A request for each scene, at the API's defaults but for ``settings``."""
    return [
        InpaintRequest(
            **{
                "image": scene.clean,
                "mask": scene.mask,
                "prompt": scene.caption,
                "area": "whole",
                "seed": FIRST_SEED + i,
                **settings,
            }
        )
        for i, scene in enumerate(scenes)
    ]


def run(engine: Engine, requests: Sequence[InpaintRequest]) -> list[Image.Image]:
    """The first picture of each, painted side by side."""
    jobs = [engine.submit(request) for request in requests]
    return [job.result().images[0] for job in jobs]


def verdicts(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> list[Verdict]:
    """What each picture shows."""
    return [judge(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]


def share(found: Sequence[Verdict], what: str) -> float:
    """How many are right, 0 … 1; ``what`` is ``colour_right`` or ``shape_right``."""
    return float(np.mean([getattr(verdict, what) for verdict in found]))


def mean_distance(
    scenes: Sequence[Scene], ones: Sequence[Image.Image], others: Sequence[Image.Image]
) -> float:
    """Inside the masks, of full scale, the mean over the scenes."""
    return float(np.mean([distance(a, b, s.mask) for s, a, b in zip(scenes, ones, others, strict=True)]))
