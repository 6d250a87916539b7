"""SAM's process as the server sees it: started by the first click, and again by the next one if it died."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import BusyError, ClosedError, InpaintError
from inpaint.selection.sam import Prompt
from server.engines.child import Child
from server.engines.messages import Message, error_from

PROGRAM = ("-m", "server.engines.selector")
_START_S = 120.0  # torch may come from a cold disk
_ENDED = "the process that selects objects ended; try again"

Squared = Callable[[int], Awaitable[Image.Image]]  # side → the picture stretched to a square


class SelectorClient:
    """The one process with SAM. Every method is for the event loop.

    Args:
        folder: of the verified weights.
        device: as the server's setting.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._device = folder, device
        self._child: Child | None = None
        self._side: asyncio.Future[int] | None = None  # done when the network is loaded
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int | None:
        """Id of the process; None while there is none."""
        return None if self._child is None else self._child.pid

    async def embed(self, key: str, square: Squared) -> None:
        """Look at a picture, unless that was done; ``square`` makes its square, if that is needed."""
        await self._asked("embed", key, {}, square)

    async def decide(self, key: str, prompt: Prompt, square: Squared) -> tuple[NDArray[np.float32], float]:
        """Return the logits of the mask that is meant, and how sure the network is.

        Raises:
            InpaintError: the process cannot load its weights, has no memory, or ended.
        """
        fields = {"points": prompt.points, "box": prompt.box, "variant": prompt.variant}
        answer = await self._asked("decide", key, fields, square)
        return np.asarray(answer.images[0], np.float32), float(answer.fields["score"])

    async def _asked(
        self,
        kind: str,
        key: str,
        fields: Mapping[str, object],
        square: Squared,
    ) -> Message:
        side = await self._ready()
        named = {**fields, "key": key}
        answer = await self._send(Message(kind, next(self._numbers), named))
        if answer.kind == "unknown":
            picture = await square(side)
            answer = await self._send(Message(kind, next(self._numbers), named, (picture,)))
        if answer.kind == "failed":
            raise error_from(answer)
        return answer

    async def _ready(self) -> int:
        """Start the process if there is none, and return the side of its square once it is loaded."""
        if self._child is None or self._child.ended.is_set():
            self._side = asyncio.get_running_loop().create_future()
            try:
                child = Child(PROGRAM, self._on_message, {})
            except OSError as error:
                raise BusyError(f"the process that selects objects cannot start ({error.strerror})") from None
            self._child = child
            child.link.send(Message("load", fields={"folder": str(self._folder), "device": self._device}))
            self._watching = asyncio.create_task(self._watch(child, self._side))
        assert self._side is not None, "set with the child"
        try:
            return await asyncio.wait_for(asyncio.shield(self._side), _START_S)
        except TimeoutError:
            self._child.kill()
            raise BusyError("the process that selects objects does not start; try again") from None

    async def _watch(self, child: Child, side: "asyncio.Future[int]") -> None:
        """Fail what waits for a process when it ends."""
        await child.ended.wait()
        child.link.close()
        await child.exit_status()
        waiting_for: list[asyncio.Future[Any]] = [side, *self._waiting.values()]
        for waiting in waiting_for:
            if not waiting.done():
                waiting.set_exception(BusyError(_ENDED, 1.0))
                waiting.exception()  # a caller that hung up never asks

    async def _send(self, message: Message) -> Message:
        assert self._child is not None, "it is ready"
        if self._child.ended.is_set():
            raise BusyError(_ENDED, 1.0)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[message.id] = answer
        self._child.link.send(message)
        try:
            return await answer
        finally:
            del self._waiting[message.id]

    def _on_message(self, message: Message) -> None:
        if message.kind == "ready" and self._side is not None and not self._side.done():
            self._side.set_result(int(message.fields["side"]))
        elif message.kind == "unfit" and self._side is not None and not self._side.done():
            error: InpaintError = error_from(message)
            self._side.set_exception(error)
            self._side.exception()
        elif (waiting := self._waiting.get(message.id)) is not None and not waiting.done():
            waiting.set_result(message)

    async def close(self) -> None:
        """End the process, and whatever waits for it."""
        if self._child is None:
            return
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ClosedError("the server is going down"))
        self._child.link.close()
        if self._watching is not None:
            await self._watching
