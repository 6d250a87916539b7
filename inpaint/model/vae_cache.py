"""A cache of encoded pictures: a picture that comes again is not encoded again.

Users try a prompt, change a word and try again: the picture is the same, and encoding it is the most
expensive part of a request after its steps.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inpaint import cuda
from inpaint.images.pixels import MASK_THRESHOLD
from inpaint.lru import LruCache
from inpaint.model.load import Model
from inpaint.model.vae import Posterior, encode, to_pixels

CACHED_BYTES = 64 * 1024**2  # on the device; a picture of 1024² has 512 KiB


class PictureEncoder:
    """A model's VAE encoder behind an LRU cache of posteriors; used by one thread at a time."""

    def __init__(self, model: Model, *, max_bytes: int = CACHED_BYTES) -> None:
        """Start with an empty cache of at most ``max_bytes`` of posteriors."""
        self._model = model
        self._cache: LruCache[bytes, Posterior] = LruCache(max_bytes, lambda posterior: posterior.size_bytes)
        self.encoded = 0  # pictures encoded by the VAE so far

    def pair(self, image: Image.Image, mask: Image.Image) -> tuple[Posterior, Posterior | None]:
        """Return the posteriors of a picture and of it with its hole grey; those not cached share a VAE call.

        The second is None for a UNet of 4 channels, which does not take it.

        Args:
            image: RGB, sides multiples of the VAE's factor.
            mask: ``L``, of the picture's size, 128 or more = the hole.

        Raises:
            PaintError: see :func:`inpaint.model.vae.encode`.
        """
        pixels = np.asarray(image)
        hole = np.asarray(mask) >= MASK_THRESHOLD if self._model.in_channels == 9 else None
        keys = [_digest(pixels, None)] if hole is None else [_digest(pixels, None), _digest(pixels, hole)]
        found = {key: held for key in keys if (held := self._cache.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        if missing:
            inputs = dict(zip(keys, self._inputs(image, hole), strict=True))
            encoded = encode(self._model, torch.cat([inputs[key] for key in missing]))
            self.encoded += len(missing)
            for key, posterior in zip(missing, encoded.split(), strict=True):
                found[key] = posterior
                self._cache.put(key, posterior)
        return found[keys[0]], None if hole is None else found[keys[1]]

    def _inputs(self, image: Image.Image, hole: NDArray[np.bool_] | None) -> list[torch.Tensor]:
        """Return one or two tensors (1, 3, H, W) in -1 … 1 on the device; the hole is 0, which no byte is."""
        pixels = to_pixels(image, self._model.device)
        if hole is None:
            return [pixels]
        return [pixels, pixels.masked_fill(cuda.runtime.upload(torch.from_numpy(hole), pixels.device), 0.0)]


def _digest(pixels: NDArray[np.uint8], hole: NDArray[np.bool_] | None) -> bytes:
    """Return a digest of a picture (H, W, 3) and its hole (H, W), equal only if both and their sizes are."""
    # A cryptographic hash: pictures come from strangers, and no collision may show one caller another's.
    digest = hashlib.blake2b(repr((pixels.shape, hole is not None)).encode(), digest_size=32)
    digest.update(pixels.tobytes())
    if hole is not None:
        digest.update(np.packbits(hole).tobytes())
    return digest.digest()
