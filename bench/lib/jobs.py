"""The jobs that the benches of the engine give to every contender."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bench.lib.contenders import PORTRAIT
from inpaint.request import InpaintRequest

# As the stock pipeline paints: without our blending and colour fit, so that contenders do the same job.
SAME_JOB: Mapping[str, Any] = {"area": "whole", "grow": 0, "feather": 0, "color_match": False}
SETTINGS: Mapping[str, Any] = {
    "prompt": "A man with black sun glasses",
    "negative_prompt": "bad quality, painting, blur",
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
    "strength": 0.9,
    "seed": 12467,
    **SAME_JOB,
}
# Four callers with different settings and one size: the case for step-level batching.
_CALLERS: tuple[Mapping[str, Any], ...] = (
    {"scheduler": "DDIM", "num_inference_steps": 25, "guidance_scale": 7.5},
    {"scheduler": "Euler a", "num_inference_steps": 20, "guidance_scale": 5.0},
    {"scheduler": "DPM Multi", "num_inference_steps": 30, "guidance_scale": 9.0, "strength": 0.7},
    {"scheduler": "DPM2 Karras", "num_inference_steps": 12, "guidance_scale": 1.0},
)


def pictures(side: int) -> tuple[Image.Image, Image.Image]:
    """Return a square portrait, and a mask on the latent grid."""
    picture = Image.open(PORTRAIT).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : 3 * side // 4] = 255
    return picture, Image.fromarray(mask)


def job(side: int, scheduler: str, **changes: Any) -> InpaintRequest:
    """Return a request with the hosted API's example settings: 25 steps, guidance 7.5, strength 0.9."""
    picture, mask = pictures(side)
    return InpaintRequest(image=picture, mask=mask, **{**SETTINGS, "scheduler": scheduler, **changes})


def mixed(side: int, number: int, i: int, **changes: Any) -> list[InpaintRequest]:
    """Return ``number`` requests with new prompts and different settings for round ``i``."""
    return [
        job(side, **{**_CALLERS[n % len(_CALLERS)], "prompt": f"a round {i}, {n}", "seed": n, **changes})
        for n in range(number)
    ]


@dataclass(frozen=True, slots=True)
class Upload:
    """A request as a server gets it: two files and settings."""

    image: bytes  # JPEG
    mask: bytes  # PNG
    settings: dict[str, Any]

    @classmethod
    def of(cls, image: Image.Image, mask: Image.Image, settings: Mapping[str, Any]) -> "Upload":
        """Encode the pictures as files."""
        return cls(_file(image, "JPEG", quality=95), _file(mask, "PNG"), dict(settings))


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
