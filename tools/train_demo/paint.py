"""Painting of scenes at the API's defaults, and the figures that the tests and the model card share."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from inpaint import Engine, InpaintRequest
from tools.train_demo.judge import Verdict, distance, judge
from tools.train_demo.scenes import Scene

FIRST_SEED = 1000  # of the noise; scene i is painted with FIRST_SEED + i


def paint(engine: Engine, scenes: Sequence[Scene], **settings: object) -> list[Image.Image]:
    """Paint one picture for each scene, on ``scene.clean``."""
    return run(engine, requests_for(scenes, **settings))


def requests_for(scenes: Sequence[Scene], **settings: object) -> list[InpaintRequest]:
    """Return a request for each scene, at the API's defaults except for ``settings``."""
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
    """Paint requests together and return the first picture of each."""
    jobs = [engine.submit(request) for request in requests]
    return [job.result().images[0] for job in jobs]


def verdicts(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> list[Verdict]:
    """Judge each picture."""
    return [judge(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]


def share(found: Sequence[Verdict], what: str) -> float:
    """Return the share of right verdicts, 0 … 1; ``what`` is ``colour_right`` or ``shape_right``."""
    return float(np.mean([getattr(verdict, what) for verdict in found]))


def mean_distance(
    scenes: Sequence[Scene], ones: Sequence[Image.Image], others: Sequence[Image.Image]
) -> float:
    """Return the mean distance inside the masks over the scenes, as a share of full scale."""
    return float(np.mean([distance(a, b, s.mask) for s, a, b in zip(scenes, ones, others, strict=True)]))
