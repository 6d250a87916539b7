"""The hosted API's handlers: v1 answers with the picture, v2 queues, reports, streams and cancels."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Path, Query, Request, Response

from inpaint.errors import RequestError
from server.dialects.intake import Arrival, Intake, watched
from server.dialects.segmind_answers import Answers, Credits, Queued, Status, picture_response, response_of
from server.dialects.segmind_checks import read_fields, read_refine_fields
from server.dialects.segmind_request import InpaintBody
from server.http.body import Fields
from server.service.order import Format
from server.service.service import Painted
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

    intake: Intake

    @property
    def _answers(self) -> Answers:
        return Answers(self.intake.service)

    async def paint(self, request: Request) -> Response:
        """Paint and return the picture's bytes, or JSON if ``base64`` is set."""
        async with self.intake.arrival(request) as arrival:
            body = self._read(arrival.fields)
            painted = await self._paint(request, arrival, body)
            threads = self.intake.service.parts.threads
            return await threads.pixels(picture_response, painted, arrival.rate, body)

    async def _paint(self, request: Request, arrival: Arrival, body: InpaintBody) -> Painted:
        caller = arrival.caller
        if not (key := _idempotency_key(request)):
            return await self.intake.paint(request, caller, body.order())
        async with watched(request) as disconnected:
            record = await self._once(request, arrival, body, key)
            waiting = self.intake.queue.wait(record, caller)  # it goes on even if the client leaves
            return await self.intake.queue.painted(
                caller, await self.intake.service.in_time(waiting, disconnected)
            )

    async def _once(self, request: Request, arrival: Arrival, body: InpaintBody, key: str | None) -> Record:
        """Return the request of this idempotency key, or accept a new one."""
        caller, order = arrival.caller, self.intake.own(request, body.order())
        digest = await self.intake.service.parts.threads.pixels(digest_of, arrival.fields) if key else ""
        if key and (record := await self.intake.queue.find(caller, key, digest)) is not None:
            return record
        return await self.intake.queue.enqueue(caller, order, idempotency_key=key, digest=digest)

    async def submit(self, request: Request) -> Queued:
        """Accept a request and return its id and URLs; it is painted even if the server is restarted."""
        async with self.intake.arrival(request) as arrival:
            body = self._read(arrival.fields)
            record = await self._once(request, arrival, body, _idempotency_key(request))
        return self._answers.queued(request, record)

    async def refine(self, request: Request, request_id: RequestId) -> Queued:
        """Paint the pictures of a request at the pace `near` again, exactly, and return the new request."""
        async with self.intake.arrival(request, optional=True) as arrival:
            caller, seed = arrival.caller, read_refine_fields(arrival.fields).seed
            key, digest = _idempotency_key(request), digest_of({"refine": request_id, "seed": seed})
            record = await self.intake.queue.find(caller, key, digest) if key else None
            if record is None:
                record = await self.intake.queue.refine(
                    caller, request_id, seed, idempotency_key=key, digest=digest
                )
        return self._answers.queued(request, record)

    async def status(self, request: Request, request_id: RequestId) -> Response:
        """Return a request's state; status 422 if it failed, as in the hosted API."""
        record = await self.intake.queue.get(await self.intake.gate.admit(request), request_id)
        return response_of(await self._answers.status(request, record))

    async def finished(self, request: Request, request_id: RequestId) -> Response:
        """Return a request's state, and its pictures once it is COMPLETED; status 422 if it failed."""
        record = await self.intake.queue.get(await self.intake.gate.admit(request), request_id)
        return response_of(await self._answers.finished(request, record))

    async def cancel(self, request: Request, request_id: RequestId) -> Status:
        """Cancel a request and return its state; a request that has ended stays as it is."""
        record = await self.intake.queue.cancel(await self.intake.gate.admit(request), request_id)
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
        crop: Annotated[
            Literal["box"] | None,
            Query(
                description="`box`: only the part that may differ, as PNG; the header `X-Box` is its place."
            ),
        ] = None,
    ) -> Response:
        """Return a picture; needs the token of the URL in the answer, or the key that made the request."""
        caller = None if token else await self.intake.gate.admit(request)
        picture = await self.intake.queue.pictures.get(
            request_id,
            number,
            key_id=caller.key_id if caller else None,
            token=token,
            output_format=wanted,
            boxed=crop == "box",
        )
        headers = {"Cache-Control": "private, max-age=3600"}
        if picture.box is not None:
            headers["X-Box"] = ",".join(map(str, picture.box))
        return Response(picture.data, media_type=picture.content_type, headers=headers)

    async def credits(self, request: Request) -> Credits:
        """Return the credits left on this key; a large constant if the server does not charge."""
        return Credits(
            credits=await self.intake.service.accounting.remaining(await self.intake.gate.admit(request))
        )

    def _read(self, fields: Fields) -> InpaintBody:
        return read_fields(fields, lenient=self.intake.service.parts.settings.segmind_lenient)


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
        data = value if isinstance(value, bytes) else _json(value)
        found.update(f"{name!r}:{len(data)}:".encode() + data)
    return found.hexdigest()


def _json(value: object) -> bytes:
    """Return a value as JSON; each file in a list, as a form's ``image[]``, as the list of its hash."""
    return json.dumps(value, sort_keys=True, default=lambda file: [hashlib.sha256(file).hexdigest()]).encode()
