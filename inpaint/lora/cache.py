"""A cache of LoRAs, read from their files and matched to one model's layers.

A name means one content for as long as the cache lives: a file that was replaced, and accepted, is used after
the next start only. Running requests may share a batch by their LoRAs' names and scales alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inpaint.errors import ModelError
from inpaint.lora.files import LoraFile, checked, find_lora
from inpaint.lora.hooks import Scaled
from inpaint.lora.match import LayerIndex, MatchedLora
from inpaint.lora.peft import sidecar
from inpaint.lora.spec import LoraUse
from inpaint.lru import LruCache
from inpaint.weights.verify import sha256_of

CACHED_BYTES = 1024**3  # SDXL's layers at rank 32: 0.2 GB in 16 bit


@dataclass(frozen=True, slots=True, eq=False)
class LoraSet:
    """The LoRAs of one request, loaded and matched to the model's layers."""

    uses: tuple[LoraUse, ...]
    loras: tuple[MatchedLora, ...]  # one for each use

    @property
    def unet(self) -> Scaled:
        """The scales and changes for the UNet."""
        pairs = zip(self.uses, self.loras, strict=True)
        return [(use.scale, lora.unet) for use, lora in pairs if lora.unet]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that name a LoRA and what is not used of its file."""
        pairs = zip(self.uses, self.loras, strict=True)
        return tuple(f"{use.name}: {text}" for use, lora in pairs for text in lora.warnings)

    def text(self, side: int) -> Scaled:
        """Return the scales and changes for text encoder 0 or 1."""
        pairs = zip(self.uses, self.loras, strict=True)
        return [(use.scale, lora.text[side]) for use, lora in pairs if lora.text[side]]


NO_LORAS = LoraSet((), ())


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    lora: MatchedLora
    stamp: tuple[int, ...]  # the sizes and times of its files when they were read
    size_bytes: int


class LoraCache:
    """The LoRAs of one model that were used last; for one thread at a time."""

    def __init__(
        self,
        unet: Any,
        encoders: Sequence[Any],
        rest: torch.device,
        folder: Path | None = None,
        *,
        max_bytes: int = CACHED_BYTES,
    ) -> None:
        """Start empty.

        Args:
            unet: the UNet; its modules must not be replaced any more.
            encoders: both text encoders.
            rest: the device that keeps the UNet's matrices; the text encoders' stay on the CPU.
            folder: the folder of LoRA files; ``files.loras_dir()`` if None.
            max_bytes: the most that the tensors of all LoRAs held may take; a larger one stays on the CPU.
        """
        self._modules = (unet, encoders)
        self._index: LayerIndex | None = None
        self._rest = rest
        self._folder = folder
        self._max_bytes = max_bytes
        # A LoRA larger than the limit is held alone: reading it for each request would take seconds.
        self._held: LruCache[str, _Held] = LruCache(max_bytes, lambda held: min(held.size_bytes, max_bytes))
        self._digests: dict[str, str] = {}  # name → sha256 when it was first used; never forgotten

    def load(self, uses: Sequence[LoraUse]) -> LoraSet:
        """Load a request's LoRAs, from the cache if their files have not changed since.

        Raises:
            RequestError: there is no LoRA of one of the names.
            ModelError: a file is missing, damaged, not for this model, or was replaced.
        """
        if not uses:
            return NO_LORAS
        return LoraSet(tuple(uses), tuple(self._lora(use.name) for use in uses))

    def _lora(self, name: str) -> MatchedLora:
        file = find_lora(name, self._folder)
        stamp = _stamp(file)
        held = self._held.get(name)
        if held is None or held.stamp != stamp:
            held = self._read(checked(file), stamp)
            self._held.put(name, held)
        return held.lora

    def _read(self, file: LoraFile, stamp: tuple[int, ...]) -> _Held:
        digest = file.sha256 + _config_digest(file)
        if self._digests.setdefault(file.name, digest) != digest:
            raise ModelError(
                f"the LoRA {file.name} was replaced since this program first used it; restart the program to "
                "use the new file"
            )
        if self._index is None:
            self._index = LayerIndex.of(*self._modules)
        matched = self._index.fit(file.path)
        if _stamp(file) != stamp:
            raise ModelError(f"the LoRA {file.name} changed while it was being read; try again")
        parts = [*matched.unet, *matched.text[0], *matched.text[1]]
        size = sum(change.size_bytes for change in parts)
        # Whole differences are as large as the model, and a device has no room for two of it.
        rest = self._rest if size <= self._max_bytes else torch.device("cpu")
        lora = replace(matched, unet=[change.to(rest) for change in matched.unet])
        return _Held(lora, stamp, size)


def _stamp(file: LoraFile) -> tuple[int, ...]:
    config = sidecar(file.path)
    try:
        found = [path.stat() for path in (file.path, *([] if config is None else [config]))]
    except OSError as error:
        raise ModelError(f"{file.path.name} cannot be read ({error.strerror})") from None
    return tuple(number for stat in found for number in (stat.st_size, stat.st_mtime_ns))


def _config_digest(file: LoraFile) -> str:
    """Return the sha256 of PEFT's configuration next to a LoRA, which says its scale; "" if there is none."""
    config = sidecar(file.path)
    return "" if config is None else sha256_of(config)
