"""The event stream of a request: partial pictures while it is painted, then each painted picture."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Annotated, Any, Literal, get_args

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from inpaint.errors import InpaintError
from server.dialects.errors import failure_of
from server.dialects.intake import Intake
from server.dialects.openai.answers import Usage
from server.dialects.openai.errors import described
from server.dialects.openai.partial import partial_picture, previews
from server.dialects.openai.request import Wanted
from server.engines.client import Ticket
from server.service.caller import Caller
from server.service.service import Painted
from server.storage.requests import Record

EventName = Literal[
    "image_edit.partial_image",
    "image_edit.completed",
    "image_generation.partial_image",
    "image_generation.completed",
]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)


class ImageEvent(BaseModel):
    """The data of an event: a partial picture, or a painted one with its seed and usage."""

    type: EventName
    b64_json: str
    created_at: int
    size: str
    quality: str
    background: str = "opaque"
    output_format: str
    partial_image_index: Annotated[int | None, Field(description="From 0.")] = None
    seed: int | None = None
    usage: Usage | None = None


class ImageStream(Response):
    """The answer to a request with ``stream``, which is painted while the answer is sent.

    What goes wrong before the first event is raised, and so answered like any other error; later it is an
    event. A client that leaves cancels the work.
    """

    def __init__(
        self, intake: Intake, request: Request, caller: Caller, wanted: Wanted, held: AsyncExitStack
    ) -> None:
        """Prepare the stream.

        Args:
            intake: paints.
            request: its body was read.
            caller: who pays.
            wanted: what to paint, and how to answer.
            held: the request's place; it is given back when the stream has ended.
        """
        super().__init__()
        self._intake, self._request, self._caller = intake, request, caller
        self._wanted, self._held = wanted, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Paint, and send the events.

        Raises:
            InpaintError: it went wrong before the first event.
        """
        async with (
            self._held,
            self._painting() as (painting, begun),
            aclosing(self._events(painting, begun)) as events,
        ):
            first = await anext(events)
            sent = self._sent(first, events)
            headers = {"Cache-Control": "no-store"}
            await StreamingResponse(sent, media_type="text/event-stream", headers=headers)(
                scope, receive, send
            )

    @asynccontextmanager
    async def _painting(self) -> AsyncIterator[tuple[asyncio.Task[Painted], asyncio.Future[Ticket]]]:
        """Paint in a task, which is stopped at the end of the block; the future is the engine's ticket."""
        begun: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()

        def begin(_: Record, ticket: Ticket) -> None:
            begun.set_result(ticket)

        painting = asyncio.create_task(
            self._intake.paint(self._request, self._caller, self._wanted.order, begin)
        )
        try:
            yield painting, begun
        finally:
            if begun.done():
                begun.result().cancel()  # does nothing if it has ended
            else:
                painting.cancel()
            await asyncio.wait({painting})
            with suppress(InpaintError, asyncio.CancelledError):
                painting.result()  # it was reported if there was still a client

    async def _events(
        self, painting: asyncio.Task[Painted], begun: asyncio.Future[Ticket]
    ) -> AsyncGenerator[bytes]:
        either: set[asyncio.Future[Any]] = {painting, begun}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if begun.done() and self._wanted.partial_images:
            async with aclosing(self._partial(begun.result())) as partial:
                async for event in partial:
                    yield event
        await asyncio.wait(
            {painting}
        )  # which does not cancel it, as awaiting it would when the client leaves
        painted = painting.result()
        width, height = painted.size
        for data, seed in zip(painted.files, painted.record.seeds, strict=True):
            yield self._event("completed", data, (width, height), seed=seed, usage=Usage())

    async def _partial(self, ticket: Ticket) -> AsyncGenerator[bytes]:
        parts, order = self._intake.service.parts, self._wanted.order
        native, index = parts.client.health().of(order.model or "").native_size or 1024, 0
        async with aclosing(previews(ticket, self._wanted.partial_images)) as shown:
            async for preview in shown:
                data, size = await parts.threads.pixels(
                    partial_picture, ticket.request, preview, order, native
                )
                yield self._event("partial_image", data, size, partial_image_index=index)
                index += 1

    async def _sent(self, first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield first
        try:
            async for event in events:
                yield event
        except InpaintError as error:
            _, body = described(failure_of(self._request, error))
            yield _encoded("error", body)

    def _event(self, what: str, data: bytes, size: tuple[int, int], **more: object) -> bytes:
        name = f"{self._wanted.kind}.{what}"
        event = ImageEvent.model_validate(
            {
                "type": name,
                "b64_json": base64.b64encode(data).decode("ascii"),
                "created_at": int(time.time()),
                "size": f"{size[0]}x{size[1]}",
                "quality": self._wanted.quality,
                "output_format": self._wanted.order.output_format,
                **more,
            }
        )
        return _encoded(name, event)


def _encoded(name: str, data: BaseModel) -> bytes:
    return f"event: {name}\ndata: {data.model_dump_json(exclude_none=name != 'error')}\n\n".encode()
