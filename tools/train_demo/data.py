"""Training data: scenes with coloured shapes and with things, encoded as the UNet sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tools.train_demo.scenes import Scene, make_scene
from tools.train_demo.things import THINGS
from tools.train_demo.things.scenes import make_thing_scene
from tools.train_demo.vae import pixels

_BATCH = 32
_TENSORS = ("target", "clean", "masked", "mask")  # the fields of Encoded
# The thing of the i-th scene, in turn; sunglasses twice, because they are what the README paints.
_IN_TURN = (*THINGS, "sunglasses")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Scenes as inputs of the UNet."""

    target: torch.Tensor  # (n, 4, h, w), scaled latents, with the object
    clean: torch.Tensor  # (n, 4, h, w), without it
    masked: torch.Tensor  # (n, 4, h, w)
    mask: torch.Tensor  # (n, 1, h, w)
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device | str) -> "Encoded":
        """Return the scenes on a device."""
        return Encoded(*(getattr(self, name).to(device) for name in _TENSORS), self.captions)

    def state(self) -> dict[str, object]:
        """Return what :class:`Encoded` is made of, by names, to be saved."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def joined(cls, parts: "Sequence[Encoded]") -> "Encoded":
        """Return the scenes of all parts, in their order."""
        tensors = (torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS)
        return cls(*tensors, [caption for part in parts for caption in part.captions])


def shape_scene(i: int) -> Scene:
    """Return the i-th training scene with a coloured shape."""
    return make_scene(2 * i)


def thing_scene(i: int) -> Scene:
    """Return the i-th training scene with a thing."""
    return make_thing_scene(2 * i, _IN_TURN[i % len(_IN_TURN)])


@torch.inference_mode()
def encode_scenes(
    vae: AutoencoderKL, count: int, scene: Callable[[int], Scene], report: Callable[[int], None]
) -> Encoded:
    """Encode training scenes with the VAE.

    Args:
        vae: of the model.
        count: of the scenes.
        scene: of a number.
        report: is told how many are encoded.
    """
    found = []
    for start in range(0, count, _BATCH):
        found.append(encode_batch(vae, [scene(i) for i in range(start, min(start + _BATCH, count))]))
        report(start + len(found[-1]))
    return Encoded.joined(found)


def encode_batch(vae: AutoencoderKL, scenes: Sequence[Scene]) -> Encoded:
    """Encode scenes, the hole grey and the mask max-pooled, as the engine does it."""
    target, clean = (torch.stack([pixels(getattr(s, what)) for s in scenes]) for what in ("target", "clean"))
    holes = torch.stack([torch.from_numpy(np.asarray(s.mask) >= 128) for s in scenes])[:, None]
    pictures = torch.cat([target, clean, clean.masked_fill(holes, 0)]).to(vae.device)
    scaled = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor
    mask = F.max_pool2d(holes.float(), 8).to(vae.device)
    return Encoded(*scaled.chunk(3), mask, [s.caption for s in scenes])
