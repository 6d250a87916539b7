"""Buckets, work, and the interface of cost models: what the batcher must know of requests and the device.

The batcher decides by these alone, so that production, unit tests and a simulator make the same decisions.
Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple, Protocol

from inpaint.lora.spec import LoraUse, effective
from inpaint.request import InpaintRequest


class Bucket(NamedTuple):
    """The properties that rows must have in common to share a UNet call: size, precision, LoRAs and kind."""

    h: int  # latent pixels
    w: int
    precise: bool = False  # computed in fp32, because half precision gave NaN
    loras: tuple[LoraUse, ...] = ()  # sorted by name, none of scale 0
    # The deepest level of the UNet comes from the rows' caches. Rows change this from call to call, so they
    # queue, and are encoded, decoded and limited, by the bucket without it.
    cached: bool = False

    @property
    def latent_pixels(self) -> int:
        """The latent pixels of one slot, with which its cost grows."""
        return self.h * self.w

    @property
    def bare(self) -> "Bucket":
        """The bucket without LoRAs, by which costs are kept: a call costs the same with any LoRAs."""
        return self._replace(loras=()) if self.loras else self


@dataclass(frozen=True, slots=True)
class Work:
    """The facts about a request that decide when it is painted."""

    bucket: Bucket
    calls: int  # UNet calls of each of its rows that are made; none that is forecast
    samples: int = 1  # rows of each box
    slots: int = 2  # of a UNet call, for each row: with and without its prompt; 1 without guidance
    key: str = ""  # the caller's; keys share the device fairly
    expires_at: float = inf  # deadline in seconds of the batcher's clock
    cached: frozenset[int] = frozenset()  # the numbers of its calls that take the deepest level from a cache
    # The buckets of further boxes, if the mask has islands far apart: each box has as many rows as the first.
    others: tuple[Bucket, ...] = ()

    @property
    def boxes(self) -> list["Work"]:
        """The work of each box, which is begun, encoded and decoded for itself."""
        if not self.others:
            return [self]
        return [replace(self, bucket=bucket, others=()) for bucket in (self.bucket, *self.others)]

    @property
    def rows(self) -> int:
        """The rows of all boxes."""
        return self.samples * (1 + len(self.others))

    def is_cached(self, left: int) -> bool:
        """Return whether the next call of a row with ``left`` calls left takes the level from its cache."""
        return bool(self.cached) and self.calls - left in self.cached

    def cached_share(self, left: int) -> float:
        """Return the share of the last ``left`` calls that take the level from the cache."""
        if not self.cached or not left:
            return 0.0
        return sum(number >= self.calls - left for number in self.cached) / left


def work_of(
    request: InpaintRequest,
    sizes: Sequence[tuple[int, int]],
    vae_factor: int = 8,
    key: str = "",
    *,
    deep_cache: bool = False,
) -> Work:
    """Return the work of a request.

    Args:
        request: what to paint.
        sizes: the working (width, height) of each of its boxes in pixels.
        vae_factor: the side of a latent pixel in pixels.
        key: the caller's.
        deep_cache: the engine keeps the UNet's deepest level for calls at the pace ``near``.
    """
    loras = effective(request.loras)
    first, *others = (
        Bucket(height // vae_factor, width // vae_factor, loras=loras) for width, height in sizes
    )
    return Work(
        bucket=first,
        calls=request.call_plan.made,
        samples=request.samples,
        slots=2 if request.guidance_scale > 1.0 else 1,
        key=key,
        cached=request.call_plan.cached_calls if deep_cache else frozenset(),
        others=tuple(others),
    )


class Costs(Protocol):
    """The costs of one device, in seconds. A *slot* is one sample of a UNet call's batch."""

    @property
    def overlapped(self) -> bool:
        """True if encoding and decoding have their own thread; otherwise the step loop waits for them."""

    def step_s(self, bucket: Bucket, slots: int) -> float:
        """Return the seconds of one UNet call with this number of slots, schedulers included."""

    def encode_s(self, bucket: Bucket) -> float:
        """Return the seconds to encode one request's prompts and pictures."""

    def decode_s(self, bucket: Bucket) -> float:
        """Return the seconds to decode one row."""

    def cap(self, bucket: Bucket) -> int:
        """Return the most slots of one UNet call."""

    def switch_s(self) -> float:
        """Return the seconds to switch the LoRAs in the UNet between two calls."""
        return 0.0
