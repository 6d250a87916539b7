"""The LoRAs that requests name, read from their files and fitted to one model, the latest of them kept.

A name means one content for as long as this lives: a file that was replaced, and accepted, is for the next
start. Requests that run may share a batch by their LoRAs' names and scales alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inpaint.errors import ModelError
from inpaint.lora.files import LoraFile, checked, find_lora
from inpaint.lora.hooks import Scaled
from inpaint.lora.match import Change, LayerIndex, MatchedLora
from inpaint.lora.spec import LoraUse
from inpaint.lru import LruCache

CACHED_BYTES = 1024**3  # SDXL's layers at rank 32: 0.2 GB in 16 bit


@dataclass(frozen=True, slots=True, eq=False)
class LoraSet:
    """What some requests want merged, ready to be."""

    uses: tuple[LoraUse, ...]
    loras: tuple[MatchedLora, ...]  # one each

    @property
    def unet(self) -> Scaled:
        """Its part for the UNet."""
        pairs = zip(self.uses, self.loras, strict=True)
        return [(use.scale, lora.unet) for use, lora in pairs if lora.unet]

    def text(self, side: int) -> Scaled:
        """Its part for text encoder 0 or 1."""
        pairs = zip(self.uses, self.loras, strict=True)
        return [(use.scale, lora.text[side]) for use, lora in pairs if lora.text[side]]


NO_LORAS = LoraSet((), ())


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    lora: MatchedLora
    stamp: tuple[int, int]  # the file's size and time when it was read
    size_bytes: int


class LoraCache:
    """Of one model; used by one thread at a time."""

    def __init__(
        self,
        unet: Any,
        encoders: Sequence[Any],
        rest: torch.device,
        folder: Path | None = None,
        *,
        max_bytes: int = CACHED_BYTES,
    ) -> None:
        """Empty.

        Args:
            unet: whose modules are as they will stay.
            encoders: both text encoders.
            rest: where what is for the UNet is kept; the text encoders' part stays on the CPU.
            folder: of LoRA files; ``lora_files.loras_dir()`` if None.
            max_bytes: of matrices to keep, those used last.
        """
        self._modules = (unet, encoders)
        self._fittings: LayerIndex | None = None
        self._rest = rest
        self._folder = folder
        # One that is larger than the limit is held alone: reading it for each request would take seconds.
        self._held: LruCache[str, _Held] = LruCache(max_bytes, lambda held: min(held.size_bytes, max_bytes))
        self._meant: dict[str, str] = {}  # name → sha256, ever

    def load(self, uses: Sequence[LoraUse]) -> LoraSet:
        """Ready to be merged; from what is kept where the files have not changed since.

        Raises:
            RequestError: there is no LoRA of one of the names.
            ModelError: a file is missing, damaged, not for this model, or not what it was.
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

    def _read(self, file: LoraFile, stamp: tuple[int, int]) -> _Held:
        if self._meant.setdefault(file.name, file.sha256) != file.sha256:
            raise ModelError(
                f"the LoRA {file.name} was replaced since this program first used it; start it again to use "
                "the new one"
            )
        if self._fittings is None:
            self._fittings = LayerIndex.of(*self._modules)
        fitted = self._fittings.fit(file.path)
        if _stamp(file) != stamp:
            raise ModelError(f"the LoRA {file.name} was written to while it was read; try again")
        lora = MatchedLora([change.to(self._rest) for change in fitted.unet], fitted.text)
        parts: list[Change] = [*lora.unet, *lora.text[0], *lora.text[1]]
        return _Held(lora, stamp, sum(change.size_bytes for change in parts))


def _stamp(file: LoraFile) -> tuple[int, int]:
    try:
        found = file.path.stat()
    except OSError as error:
        raise ModelError(f"{file.path.name} cannot be read ({error.strerror})") from None
    return found.st_size, found.st_mtime_ns
