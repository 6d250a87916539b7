"""Selections: the object that a person points at in a picture, found outside the engines' step loops.

A picture stays decoded for the next click, which then names it by its digest. Each key has its own pictures:
a digest says nothing to another key.
"""

import asyncio
import hashlib
import os
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import RequestError
from inpaint.images.codec import decode
from inpaint.lru import LruCache
from inpaint.selection.hints import Hints, Selection, scribble_of
from inpaint.selection.snap import pixels_of, snap
from server.errors import NotFoundError
from server.service.caller import Caller
from server.service.order import Source
from server.service.preparation import Preparation
from server.service.threads import Threads

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

    def __init__(self, preparation: Preparation, threads: Threads) -> None:
        self._preparation, self._threads = preparation, threads
        self._held: LruCache[tuple[str, str], Pixels] = LruCache(_HELD_BYTES, lambda pixels: pixels.nbytes)
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that work here, the best first."""
        return ("snap",)

    async def select(self, caller: Caller, question: Question) -> Answer:
        """Select an object, the subject or the background.

        Raises:
            NotFoundError: the picture is named by its digest and is not held, or no longer.
            InpaintError: the picture cannot be fetched or read, or the hints do not fit it.
            BusyError: the requests under way hold too many pixels.
        """
        method = self._method(question)
        digest, pixels = await self._picture(caller, question)
        size = (pixels.shape[1], pixels.shape[0])
        if question.prepare:
            return Answer(digest, method, Selection(size))
        hints = question.hints
        if question.scribble is not None:
            async with self._preparation.reading(caller, question.scribble, "scribble") as data:
                hints = replace(hints, scribble=await self._threads.pixels(_scribbled, data))
        hints.checked(size)
        async with self._turns:
            return Answer(digest, method, await self._threads.pixels(snap, pixels, hints))

    def _method(self, question: Question) -> str:
        if question.method == "sam":
            raise RequestError("method", "sam is not offered here; use snap or auto")
        return "snap"

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
