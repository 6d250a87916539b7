"""The server-sent events of a queued request: ``queued``, ``step``, then ``done`` or ``failed``."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BytesIO

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from inpaint.job import Event
from inpaint.lru import LruCache
from server.dialects.segmind import RequestId, Segmind
from server.dialects.segmind_answers import Answers
from server.dialects.segmind_streams import EventStream, Streams
from server.service.caller import Caller
from server.service.durable_queue import ENDED

_KEPT_EVENTS = 256  # with previews of about 40 kB


class StepEvents:
    """The ``step`` events of every request, each encoded once for all its listeners, in a thread."""

    def __init__(self) -> None:
        self._kept: LruCache[Event, asyncio.Task[bytes]] = LruCache(_KEPT_EVENTS)

    async def encoded(self, event: Event) -> bytes:
        """Return an event as it is sent."""
        if event.preview is None:
            return _step(event)
        if (task := self._kept.get(event)) is None:
            task = asyncio.create_task(asyncio.to_thread(_step, event))
            self._kept.put(event, task)
        return await asyncio.shield(task)  # a listener that leaves does not take it from the others


@dataclass(frozen=True, slots=True)
class Events:
    """The handler of the route ``…/events``."""

    segmind: Segmind
    streams: Streams
    steps: StepEvents = field(default_factory=StepEvents)

    async def listen(self, request: Request, request_id: RequestId) -> EventSourceResponse:
        """Stream a request's progress; the data of the last event, ``done`` or ``failed``, are its answer."""
        caller = await self.segmind.intake.gate.admit(request)
        await self.segmind.intake.queue.get(caller, request_id)
        return EventStream(self._events(request, caller, request_id), self.streams, caller.key_id)

    async def _events(self, request: Request, caller: Caller, request_id: str) -> AsyncIterator[bytes]:
        queue = self.segmind.intake.queue
        async with aclosing(queue.events(caller, request_id)) as events:
            async for event in events:
                if isinstance(event, int):
                    yield _encoded("queued", {"position": event})
                elif event.state == "step":
                    yield await self.steps.encoded(event)
        record = await queue.get(caller, request_id)
        if record.state not in ENDED:
            return  # this server is stopping; a client that connects again reaches the next one
        answer = await Answers(self.segmind.intake.service).finished(request, record)
        name = "done" if record.state == "COMPLETED" else "failed"
        yield _encoded(name, answer.model_dump(mode="json", exclude_none=True))


def _step(event: Event) -> bytes:
    return _encoded("step", {"step": event.step, "steps": event.steps, "preview": _preview(event)})


def _encoded(name: str, data: object) -> bytes:
    return ServerSentEvent(json.dumps(data), event=name).encode()


def _preview(event: Event) -> str | None:
    if event.preview is None:
        return None
    file = BytesIO()
    event.preview.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
