"""Simultaneous callers of v1 and v2, which record the accepted requests and their ends."""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
_PATIENCE_S = 240.0  # for a v2 request
UNREACHABLE = (httpx2.HTTPError, OSError)


@dataclass(slots=True)
class Load:
    """Callers in a closed loop, with one key, through several addresses."""

    urls: list[str]
    key: str
    body: dict[str, Any]
    deadline_s: float
    v1: Counter[str] = field(default_factory=Counter)  # status, or the error's name → how often
    v2: Counter[str] = field(
        default_factory=Counter
    )  # status at the end of each accepted request → how often
    refused: Counter[str] = field(
        default_factory=Counter
    )  # v2 requests that were not accepted, and sent again
    accepted: dict[str, float] = field(default_factory=dict)  # id → when it was accepted
    ended: dict[str, float] = field(default_factory=dict)
    answers: list[tuple[float, bool]] = field(default_factory=list)  # (time, True for a picture)
    stopped: bool = False
    _serials: Any = field(default_factory=itertools.count)

    async def run(self, callers: int) -> None:
        """Send requests until ``stopped``, and wait until every accepted one has ended."""
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=0)
        async with httpx2.AsyncClient(
            timeout=httpx2.Timeout(self.deadline_s + 60, connect=3.0),
            trust_env=False,
            limits=limits,
            headers={"x-api-key": self.key},
        ) as client:
            await asyncio.gather(
                *(self._v1(client, n) for n in range(callers)), *(self._v2(client, n) for n in range(callers))
            )

    async def _v1(self, client: httpx2.AsyncClient, caller: int) -> None:
        while not self.stopped:
            serial = next(self._serials)
            try:
                answer = await self._posted(client, V1, serial)
                what = str(answer.status_code)
                if what not in ("200", "503", "504", "429"):
                    what = f"{what}: {answer.text[:120]}"
            except UNREACHABLE as error:
                what = type(error).__name__
            self.v1[what] += 1
            self.answers.append((time.monotonic(), what == "200"))
            if what != "200":
                await asyncio.sleep(0.5)

    async def _v2(self, client: httpx2.AsyncClient, caller: int) -> None:
        while not self.stopped:
            request_id = await self._accepted(client)
            if request_id is None:
                continue
            self.accepted[request_id] = time.monotonic()
            status = await self.end_of(client, request_id)
            self.v2[status] += 1
            self.ended[request_id] = time.monotonic()
            self.answers.append((time.monotonic(), status == "COMPLETED"))

    async def _accepted(self, client: httpx2.AsyncClient) -> str | None:
        """Send a request, again with the same Idempotency-Key until it is accepted, as callers should."""
        serial = next(self._serials)
        headers = {"idempotency-key": f"{self.key}-{serial}"}
        for attempt in itertools.count():
            try:
                answer = await self._posted(client, V2, serial, headers)
                if answer.status_code == 200:
                    return str(answer.json()["request_id"])
                self.refused[str(answer.status_code)] += 1
            except UNREACHABLE as error:
                self.refused[type(error).__name__] += 1
            await asyncio.sleep(0.5)
            if self.stopped and attempt > 60:
                return None
        return None

    async def _posted(
        self, client: httpx2.AsyncClient, path: str, serial: int, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """Send as a load balancer does: to the next server if one refuses the connection."""
        body = self.body | {"seed": serial}
        for url in (self._url(serial + n) for n in range(len(self.urls) - 1)):
            try:
                return await client.post(url + path, json=body, headers=headers)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await client.post(self._url(serial + len(self.urls) - 1) + path, json=body, headers=headers)

    async def end_of(self, client: httpx2.AsyncClient, request_id: str) -> str:
        """Wait for a v2 request's end, through any server; return its status, LOST if it has none in time."""
        deadline = time.monotonic() + _PATIENCE_S
        for attempt in itertools.count():
            try:
                url = f"{self._url(attempt)}/v2/requests/{request_id}"
                answer = (await client.get(url, timeout=20)).json()
                if answer.get("status") in ("COMPLETED", "FAILED", "CANCELLED"):
                    why = "" if answer["status"] == "COMPLETED" else f": {str(answer.get('error'))[:120]}"
                    return f"{answer['status']}{why}"
            except (*UNREACHABLE, ValueError):
                pass
            if time.monotonic() > deadline:
                return "LOST"
            await asyncio.sleep(0.3)
        return "LOST"

    def _url(self, number: int) -> str:
        return self.urls[number % len(self.urls)]
