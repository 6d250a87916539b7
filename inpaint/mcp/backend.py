"""The painters of agents' pictures: an engine in this process, loaded when the first one comes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from inpaint.images import metadata
from inpaint.images.made import Made
from inpaint.job import Event, submitted
from inpaint.mcp.pictures import Edit

if TYPE_CHECKING:
    from inpaint.engine import Engine

Report = Callable[[float, float, str], Awaitable[None]]  # (steps taken, steps to take, what happens)


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """A painted picture, how it was made, and warnings for who asked for it."""

    image: Image.Image
    seed: int
    made: Made | None
    warnings: tuple[str, ...] = ()


class Backend(Protocol):
    """A painter of edits: an engine, or a server."""

    async def paint(self, edit: Edit, report: Report) -> Painted:
        """Paint, and report each step; stop if the caller is cancelled.

        Raises:
            InpaintError: it could not be painted.
        """

    def close(self) -> None:
        """End what is under way, and free what is held."""


class EngineBackend:
    """An engine in this process."""

    def __init__(self, load: Callable[[], "AbstractContextManager[Engine]"]) -> None:
        """Wait for the first picture; then ``load`` loads the model, and leaving its block closes it."""
        self._load = load
        self._held = ExitStack()
        self._loading: asyncio.Future[Engine] | None = None

    async def paint(self, edit: Edit, report: Report) -> Painted:
        """Paint, and report each step; stop if the caller is cancelled.

        Raises:
            InpaintError: the model cannot be loaded, or the picture could not be painted.
        """
        request = await asyncio.to_thread(edit.request)  # what is wrong is said before a model is loaded
        engine = await self._loaded(report)
        job = await submitted(lambda: engine.submit(request))
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def heard(event: Event) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits
                loop.call_soon_threadsafe(events.put_nowait, event)

        job.listen(heard)
        try:
            while not (event := await events.get()).final:
                if event.state == "step":
                    await report(event.step, event.steps, "painting")
        finally:
            job.cancel()  # nothing to one that has ended
        result = job.result()
        (made,) = metadata.made_by(job.request, result, engine.model.name)
        return Painted(result.images[0], result.seeds[0], made, result.warnings)

    async def _loaded(self, report: Report) -> "Engine":
        if (loading := self._loading) is None:
            loading = self._loading = asyncio.ensure_future(asyncio.to_thread(self._enter))
            loading.add_done_callback(self._forget_failure)
        if not loading.done():
            await report(0, 1, "loading the model")
        # Shielded: it goes on loading when its caller leaves, and the next call must not load another.
        return await asyncio.shield(loading)

    def _enter(self) -> "Engine":
        return self._held.enter_context(self._load())

    def _forget_failure(self, loading: "asyncio.Future[Engine]") -> None:
        if loading.cancelled() or loading.exception() is not None:
            self._loading = None  # the next call tries again

    def close(self) -> None:
        """Cancel what is under way, and release the model."""
        self._held.close()
