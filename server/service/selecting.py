"""Selections: the object that a person points at in a picture, found outside the engines' step loops.

A picture stays decoded for the next click, which then names it by its digest. Each key has its own pictures:
a digest says nothing to another key.
"""

import asyncio
import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import ModelError, RequestError
from inpaint.images.codec import decode
from inpaint.lru import LruCache
from inpaint.selection.hints import Hints, Selection, scribble_of
from inpaint.selection.sam import FETCH, installed, prompt_of, selection_of, square_of
from inpaint.selection.snap import pixels_of, snap
from server.engines.selector_client import SelectorClient
from server.errors import NotFoundError
from server.service.caller import Caller
from server.service.order import Source
from server.service.preparation import Preparation
from server.service.threads import Threads

log = structlog.get_logger()
Method = Literal["auto", "snap", "sam"]
Pixels = NDArray[np.uint8]  # (H, W, 3)

_HELD_BYTES = 400_000_000  # of decoded pictures, five of 25 megapixels
# Each takes a core for about a second, and pictures of requests are decoded by the same threads.
_AT_A_TIME = max(1, (os.cpu_count() or 1) // 2)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is to be selected, and in which picture: one that is sent, or one that was."""

    image: Source | None = field(repr=False)
    picture: str | None  # the digest of a picture that was sent before
    hints: Hints
    scribble: Source | None = field(default=None, repr=False)
    method: Method = "auto"
    prepare: bool = False  # only get ready for the first click


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A selection, its picture's digest for the next click, and how it was made."""

    picture: str
    method: str
    selection: Selection


class Selecting:
    """The selections of one process. Every method is for the event loop."""

    def __init__(self, preparation: Preparation, threads: Threads, device: str) -> None:
        """Hold no picture yet, and start no process; ``device`` is SAM's, as the server's setting."""
        self._preparation, self._threads, self._device = preparation, threads, device
        self._sam: SelectorClient | None = None
        self._held: LruCache[tuple[str, str], Pixels] = LruCache(_HELD_BYTES, lambda pixels: pixels.nbytes)
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def methods(self) -> tuple[str, ...]:
        """Return the methods that work here, the best first."""
        return ("snap",) if await self._network() is None else ("sam", "snap")

    async def select(self, caller: Caller, question: Question) -> Answer:
        """Select an object, the subject or the background.

        Raises:
            NotFoundError: the picture is named by its digest and is not held, or no longer.
            InpaintError: the picture cannot be fetched or read, the hints do not fit it, or SAM failed.
            BusyError: the requests under way hold too many pixels.
        """
        network = await self._chosen(question)
        method = "snap" if network is None else "sam"
        digest, pixels = await self._picture(caller, question)
        size = (pixels.shape[1], pixels.shape[0])
        if question.prepare:
            if network is not None:
                await network.embed(digest, partial(self._square, pixels))
            return Answer(digest, method, Selection(size))
        hints = question.hints
        if question.scribble is not None:
            async with self._preparation.reading(caller, question.scribble, "scribble") as data:
                hints = replace(hints, scribble=await self._threads.pixels(_scribbled, data))
        hints.checked(size)
        if network is not None:
            return Answer(digest, method, await self._by_sam(network, digest, pixels, hints))
        async with self._turns:
            return Answer(digest, method, await self._threads.pixels(snap, pixels, hints))

    async def _by_sam(self, network: SelectorClient, digest: str, pixels: Pixels, hints: Hints) -> Selection:
        async with self._turns:
            prompt = await self._threads.pixels(prompt_of, pixels, hints)
        logits, score = await network.decide(digest, prompt, partial(self._square, pixels))
        async with self._turns:
            return await self._threads.pixels(selection_of, pixels, hints, logits, score)

    async def _square(self, pixels: Pixels, side: int) -> Image.Image:
        return await self._threads.pixels(square_of, pixels, side)

    async def _chosen(self, question: Question) -> SelectorClient | None:
        """Return SAM if the question wants it; None for snap."""
        if question.method == "snap" or (question.method == "auto" and question.scribble is not None):
            return None
        network = await self._network()
        if network is None and question.method == "sam":
            raise RequestError("method", f"sam is not installed on this server; its operator runs: {FETCH}")
        return network

    async def _network(self) -> SelectorClient | None:
        """Return SAM once its weights are installed, also while this process runs."""
        if self._sam is None:
            try:
                folder = await asyncio.to_thread(installed)
            except ModelError as error:
                log.warning("no SAM", error=str(error))
                return None
            if folder is not None and self._sam is None:
                self._sam = SelectorClient(folder, self._device)
        return self._sam

    async def close(self) -> None:
        """End SAM's process."""
        if self._sam is not None:
            await self._sam.close()

    async def _picture(self, caller: Caller, question: Question) -> tuple[str, Pixels]:
        """Return a picture's digest and pixels."""
        if question.image is None:
            digest = question.picture or ""
            held = self._held.get((caller.key_id, digest))
            if held is None:
                raise NotFoundError("picture: is not held here, or no longer; send the image again")
            return digest, held
        async with self._preparation.reading(caller, question.image) as data:
            digest = await self._threads.pixels(_digest, data)
            pixels = self._held.get((caller.key_id, digest))
            if pixels is None:
                pixels = await self._threads.pixels(_decoded, data)
        self._held.put((caller.key_id, digest), pixels)
        return digest, pixels


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _decoded(data: bytes) -> Pixels:
    return pixels_of(decode(data, "image").image)


def _scribbled(data: bytes) -> NDArray[np.bool_]:
    return scribble_of(decode(data, "scribble").image)
