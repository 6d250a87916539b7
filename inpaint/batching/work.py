"""What a request costs, in words that need no torch: buckets, work, and the cost model's seam.

The batcher decides by these alone, so that production, unit tests and a simulator run the same decisions.
"""

from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from inpaint.lora.spec import LoraUse, effective
from inpaint.request import InpaintRequest
from inpaint.schedulers import unet_calls


class Bucket(NamedTuple):
    """Rows that can share a UNet call: same model, same latent size, same precision, same LoRAs."""

    h: int  # latent cells
    w: int
    precise: bool = False  # computed in fp32, because half precision gave NaN
    loras: tuple[LoraUse, ...] = ()  # by name, none of scale 0

    @property
    def latent_pixels(self) -> int:
        """Latent cells of one slot, what its cost grows with."""
        return self.h * self.w

    @property
    def bare(self) -> "Bucket":
        """Without LoRAs: a call costs the same with any."""
        return self._replace(loras=()) if self.loras else self


@dataclass(frozen=True, slots=True)
class Work:
    """What must be known of a request to decide when it is painted."""

    bucket: Bucket
    calls: int  # UNet calls of each of its rows
    samples: int = 1  # rows
    slots: int = 2  # of a UNet call, a row: with and without its prompt; 1 without guidance
    key: str = ""  # who asked; keys share fairly
    expires_at: float = inf  # on the batcher's clock; the pictures are useless after it


def work_of(request: InpaintRequest, size: tuple[int, int], vae_factor: int = 8, key: str = "") -> Work:
    """The work of a request whose canvas has the working ``size`` (width, height) in pixels."""
    width, height = size
    return Work(
        bucket=Bucket(height // vae_factor, width // vae_factor, loras=effective(request.loras)),
        calls=unet_calls(request.scheduler, request.num_inference_steps, request.strength),
        samples=request.samples,
        slots=2 if request.guidance_scale > 1.0 else 1,
        key=key,
    )


class Costs(Protocol):
    """How long things take on one device. A *slot* is one sample of a UNet call's batch."""

    @property
    def overlapped(self) -> bool:
        """Whether encoding and decoding have a thread of their own; else the step loop waits for them."""

    def step_s(self, bucket: Bucket, slots: int) -> float:
        """Seconds of one UNet call with so many slots, schedulers included."""

    def encode_s(self, bucket: Bucket) -> float:
        """Seconds to encode one request's prompts and pictures."""

    def decode_s(self, bucket: Bucket) -> float:
        """Seconds to decode one row."""

    def cap(self, bucket: Bucket) -> int:
        """Slots of one UNet call at most."""

    def switch_s(self) -> float:
        """Seconds to exchange the LoRAs in the UNet's weights, which one call has and the next has not."""
        return 0.0
