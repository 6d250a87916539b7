"""The hosted API's handlers: v1 answers with the picture, v2 queues, reports, streams and cancels."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Path, Query, Request, Response

from inpaint.errors import RequestError
from server.dialects.segmind_answers import Answers, Credits, Queued, Status, picture_response, response_of
from server.dialects.segmind_checks import read_fields, read_refine_fields
from server.dialects.segmind_request import InpaintBody
from server.http.auth import Gate
from server.http.body import Fields, fields_of, optional_fields_of
from server.service.caller import MODEL_SCOPE, Caller
from server.service.durable_queue import DurableQueue
from server.service.order import Format
from server.service.service import Painted, Service
from server.storage.requests import Record

MAX_IDEMPOTENCY_KEY = 200  # characters

RequestId = Annotated[
    str,
    Path(
        pattern="^[0-9a-f]{32}$", description="The `request_id` from the answer to `POST /v2/sdxl-inpaint`."
    ),
]


@dataclass(frozen=True, slots=True)
class Segmind:
    """The handlers of the dialect; ``segmind_routes`` gives each its path."""

    service: Service
    queue: DurableQueue
    gate: Gate

    @property
    def _answers(self) -> Answers:
        return Answers(self.service)

    async def paint(self, request: Request) -> Response:
        """Paint and return the picture's bytes, or JSON if ``base64`` is set."""
        caller, parts = await self.gate.admit(request), self.service.parts
        async with self.service.admitted(caller, MODEL_SCOPE) as admission:
            fields = await fields_of(request, parts, admission.upload)
            with self.service.placed():
                body = self._read(fields)
                painted = await self._paint(request, caller, body, fields)
                return await parts.threads.pixels(picture_response, painted, admission.rate, body)

    async def _paint(self, request: Request, caller: Caller, body: InpaintBody, fields: Fields) -> Painted:
        async with watched(request) as disconnected:
            if key := _idempotency_key(request):
                record = await self._once(caller, body, key, fields)
                waiting = self.queue.wait(record, caller)  # it goes on even if the client leaves
                return await self.queue.painted(caller, await self.service.in_time(waiting, disconnected))
            return await self.service.paint(caller, body.order(), disconnected)

    async def _once(self, caller: Caller, body: InpaintBody, key: str | None, fields: Fields) -> Record:
        """Return the request of this idempotency key, or accept a new one."""
        digest = await self.service.parts.threads.pixels(digest_of, fields) if key else ""
        if key and (record := await self.queue.find(caller, key, digest)) is not None:
            return record
        return await self.queue.enqueue(caller, body.order(), idempotency_key=key, digest=digest)

    async def submit(self, request: Request) -> Queued:
        """Accept a request and return its id and URLs; it is painted even if the server is restarted."""
        caller = await self.gate.admit(request)
        async with self.service.admitted(caller, MODEL_SCOPE) as admission:
            fields = await fields_of(request, self.service.parts, admission.upload)
            with self.service.placed():
                body = self._read(fields)
                record = await self._once(caller, body, _idempotency_key(request), fields)
        return self._answers.queued(request, record)

    async def refine(self, request: Request, request_id: RequestId) -> Queued:
        """Paint the pictures of a request at the pace `near` again, exactly, and return the new request."""
        caller, parts = await self.gate.admit(request), self.service.parts
        async with self.service.admitted(caller, MODEL_SCOPE) as admission:
            fields = await optional_fields_of(request, parts, admission.upload)
            with self.service.placed():
                seed, key = read_refine_fields(fields).seed, _idempotency_key(request)
                digest = digest_of({"refine": request_id, "seed": seed})
                record = await self.queue.find(caller, key, digest) if key else None
                if record is None:
                    record = await self.queue.refine(
                        caller, request_id, seed, idempotency_key=key, digest=digest
                    )
        return self._answers.queued(request, record)

    async def status(self, request: Request, request_id: RequestId) -> Response:
        """Return a request's state; status 422 if it failed, as in the hosted API."""
        record = await self.queue.get(await self.gate.admit(request), request_id)
        return response_of(await self._answers.status(request, record))

    async def finished(self, request: Request, request_id: RequestId) -> Response:
        """Return a request's state, and its pictures once it is COMPLETED; status 422 if it failed."""
        record = await self.queue.get(await self.gate.admit(request), request_id)
        return response_of(await self._answers.finished(request, record))

    async def cancel(self, request: Request, request_id: RequestId) -> Status:
        """Cancel a request and return its state; a request that has ended stays as it is."""
        record = await self.queue.cancel(await self.gate.admit(request), request_id)
        return await self._answers.status(request, record)

    async def picture(
        self,
        request: Request,
        request_id: RequestId,
        number: int,
        token: Annotated[str | None, Query(description="From the picture's URL; replaces the key.")] = None,
        wanted: Annotated[
            Format | None, Query(alias="format", description="Convert the picture to this format.")
        ] = None,
    ) -> Response:
        """Return a picture; needs the token of the URL in the answer, or the key that made the request."""
        caller = None if token else await self.gate.admit(request)
        data, content_type = await self.queue.pictures.get(
            request_id, number, key_id=caller.key_id if caller else None, token=token, output_format=wanted
        )
        return Response(data, media_type=content_type, headers={"Cache-Control": "private, max-age=3600"})

    async def credits(self, request: Request) -> Credits:
        """Return the credits left on this key; a large constant if the server does not charge."""
        return Credits(credits=await self.service.accounting.remaining(await self.gate.admit(request)))

    def _read(self, fields: Fields) -> InpaintBody:
        return read_fields(fields, lenient=self.service.parts.settings.segmind_lenient)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key", "").strip()
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise RequestError("Idempotency-Key", f"must have at most {MAX_IDEMPOTENCY_KEY} characters")
    return hashlib.sha256(key.encode()).hexdigest() if key else None


def digest_of(fields: Fields) -> str:
    """Hash a request's fields, not its encoding: a retried form has another boundary."""
    found = hashlib.sha256()
    for name in sorted(fields):
        value = fields[name]
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        found.update(f"{name!r}:{len(data)}:".encode() + data)
    return found.hexdigest()


@asynccontextmanager
async def watched(request: Request) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that is done when the client has closed its connection; the body must be read before."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(hung_up())
    try:
        yield task
    finally:
        task.cancel()
