"""The server-sent events of a queued request: ``queued``, ``step``, then ``done`` or ``failed``."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from io import BytesIO

from fastapi import Request
from sse_starlette import ServerSentEvent

from inpaint.job import Event
from server.dialects.segmind_answers import Answers
from server.service.caller import Caller
from server.service.durable_queue import ENDED, DurableQueue


async def stream(
    queue: DurableQueue, answers: Answers, request: Request, caller: Caller, request_id: str
) -> AsyncIterator[ServerSentEvent]:
    """Yield a request's events until it has ended; the last one's data are its answer."""
    async with aclosing(queue.events(caller, request_id)) as events:
        async for event in events:
            if isinstance(event, int):
                yield _sse("queued", {"position": event})
            elif event.state == "step":
                yield _sse("step", {"step": event.step, "steps": event.steps, "preview": _preview(event)})
    record = await queue.get(caller, request_id)
    if record.state not in ENDED:
        return  # this server is stopping; a client that connects again reaches the next one
    answer = await answers.finished(request, record)
    name = "done" if record.state == "COMPLETED" else "failed"
    yield _sse(name, answer.model_dump(mode="json", exclude_none=True))


def _sse(event: str, data: object) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data), event=event)


def _preview(event: Event) -> str | None:
    if event.preview is None:
        return None
    file = BytesIO()
    event.preview.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
