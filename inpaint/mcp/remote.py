"""A running server as what paints, through its ``/v2`` API."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from anyio import move_on_after

from inpaint.errors import InpaintError, RequestError, shown
from inpaint.images import metadata
from inpaint.images.codec import decode
from inpaint.mcp.backend import Painted, Report
from inpaint.mcp.pictures import Edit

if TYPE_CHECKING:
    import httpx2

_TIMEOUT_S = 60.0  # without a byte; a server that paints sends one every 15 seconds
_CANCEL_S = 5.0
_MAX_PICTURE_BYTES = 250_000_000  # our server's PNG of the largest picture that it paints


class RemoteError(InpaintError):
    """A server that cannot be reached, or that refused or failed to paint."""


class ServerBackend:
    """A server, which may have keys."""

    def __init__(self, url: str, key: str | None) -> None:
        """Connect to nothing yet.

        Raises:
            RequestError: it is no address of a server.
        """
        import httpx2

        wanted = f"must be a server's address such as http://127.0.0.1:8000, not {shown(url)}"
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL:
            raise RequestError("url", wanted) from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise RequestError("url", wanted)
        self._url, self._key = url.rstrip("/"), key

    async def paint(self, edit: Edit, report: Report) -> Painted:
        """Paint, and report each step; the request is cancelled if the caller is.

        Raises:
            RemoteError: the server cannot be reached, or did not paint it.
        """
        import httpx2

        fields, files = await asyncio.to_thread(_form_of, edit)
        async with self._client() as client:
            # Shielded: a request whose caller left before its id was known could not be cancelled.
            queuing = asyncio.ensure_future(_queue(client, fields, files))
            try:
                path = await asyncio.shield(queuing)
                await _follow(client, path, report)
                answer = _answer(await client.get(path))
            except BaseException:  # nobody waits for it any more
                with move_on_after(_CANCEL_S, shield=True), suppress(RemoteError, httpx2.HTTPError):
                    await client.delete(await queuing)
                raise
            if answer["status"] != "COMPLETED":
                raise RemoteError("the server hung up before the picture was painted; try again")
            file = await client.get(f"{path}/images/0")
            if file.status_code != 200:
                _answer(file)
        return await asyncio.to_thread(_painted, file.content, answer)

    @asynccontextmanager
    async def _client(self) -> "AsyncIterator[httpx2.AsyncClient]":
        import httpx2

        headers = {"x-api-key": self._key} if self._key else {}
        # No proxy from the environment: it would be asked for 127.0.0.1 as well, and would see the key.
        client = httpx2.AsyncClient(base_url=self._url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        try:
            async with client:
                yield client
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise RemoteError(f"the server {self._url} did not answer: {reason}") from error

    def close(self) -> None:
        """Do nothing: a connection lasts as long as its picture."""


async def _queue(
    client: "httpx2.AsyncClient", fields: Mapping[str, str], files: Mapping[str, tuple[str, bytes]]
) -> str:
    """Send a request, and return its path."""
    queued = _answer(await client.post("/v2/sdxl-inpaint", data=fields, files=files))
    return f"/v2/requests/{queued['request_id']}"


def _form_of(edit: Edit) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    fields = {name: _text(value) for name, value in edit.settings.items() if value is not None}
    fields |= {"output_format": "png", "metadata": "true"}
    if edit.added is not None:
        fields["extend"] = ",".join(map(str, edit.added))
    files = {"image": ("image", edit.data)}
    if edit.mask is not None:
        file = io.BytesIO()
        edit.mask.save(file, "PNG")
        files["mask"] = ("mask.png", file.getvalue())
    return fields, files


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _answer(response: "httpx2.Response") -> Mapping[str, Any]:
    """Return a server's JSON.

    Raises:
        RemoteError: its sentence if it is an error, or that it is not the answer of such a server.
    """
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        status, host = response.status_code, response.url.host
        raise RemoteError(f"{host} answered {status}, but not as `inpaint serve` does; check --url")
    if "error" in found or response.status_code >= 400:
        raise RemoteError(str(found.get("error", f"the server answered {response.status_code}")))
    return found


async def _follow(client: "httpx2.AsyncClient", path: str, report: Report) -> None:
    """Report steps until the server's stream ends."""
    async with client.sse(f"{path}/events") as source:
        if source.response.status_code != 200:
            await source.response.aread()
            _answer(source.response)
        async for event in source:
            if event.event == "step":
                step = json.loads(event.data)
                await report(step["step"], step["steps"], "painting")


def _painted(data: bytes, answer: Mapping[str, Any]) -> Painted:
    picture = decode(data, max_bytes=_MAX_PICTURE_BYTES)
    return Painted(picture.image, answer["seed"], metadata.read(data), tuple(answer.get("warnings", ())))
