"""A client of an sdxl-inpaint server's ``/v2`` API, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
import uuid
from typing import Any, Iterator, Mapping, NamedTuple
from urllib.parse import urlsplit

TIMEOUT_S = 60.0  # without a byte; an event stream sends one at least every 15 seconds
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Problem(Exception):  # noqa: N818 - most of them are not errors of the program
    """A thing that the painter must change or know; ``str(problem)`` is one sentence."""


class Unreachable(Problem):
    """A server that does not answer, or that stopped in the middle of an answer."""


class Event(NamedTuple):
    """A server-sent event: ``queued``, ``step``, ``done`` or ``failed``."""

    name: str
    data: dict[str, Any]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects that are not followed, since the key would be sent along to another host."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect, so that it is an error like any other answer that is not ours."""


class Server:
    """A server's address and the key for it.

    Raises:
        Problem: the address is not one of a web server.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url, self._key = url.strip().rstrip("/"), key.strip()
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is not a number
            valid = False
        if not valid or not self.url.isascii():
            raise Problem("The server's address must be like http://127.0.0.1:8000.")
        if not (self._key.isascii() and self._key.isprintable()):
            raise Problem(
                "The key must be one line of letters, digits and signs, as `inpaint keys` shows it."
            )
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if parts.hostname in _LOOPBACK:  # a proxy would look for the server on its own machine
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def submit(self, fields: Mapping[str, object]) -> str:
        """Queue a request and return its id; a field of bytes is sent as a PNG file."""
        content_type, body = form(fields)
        answer = self._bytes("POST", "/v2/sdxl-inpaint", body, content_type)
        return str(self._object(answer, "request_id")["request_id"])

    def events(self, request_id: str) -> Iterator[Event]:
        """Yield a request's events; the last is ``done`` or ``failed`` unless the server stops before it."""
        name = ""
        with self._open("GET", f"/v2/requests/{request_id}/events") as response:
            for line in self._lines(response):
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield Event(name, json.loads(value))

    def _lines(self, response: Any) -> Iterator[str]:
        try:
            for line in response:
                yield line.decode().rstrip("\r\n")
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error

    def answer(self, request_id: str) -> dict[str, Any]:
        """Return the answer to a request that is painted."""
        return self._object(self._bytes("GET", f"/v2/requests/{request_id}"), "images")

    def picture(self, request_id: str, number: int) -> bytes:
        """Return a painted picture's file."""
        # Not from the URL in the answer, which may name the server as others know it.
        return self._bytes("GET", f"/v2/requests/{request_id}/images/{number}")

    def cancel(self, request_id: str) -> None:
        """Cancel a request; one that has ended stays as it is."""
        self._bytes("DELETE", f"/v2/requests/{request_id}")

    def _object(self, data: bytes, needed: str) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict) or needed not in found:
            raise Problem(f"What answers at {self.url} is not an sdxl-inpaint server.")
        return found

    def _bytes(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> bytes:
        with self._open(method, path, body, content_type) as response:
            try:
                return bytes(response.read())
            except (OSError, http.client.HTTPException) as error:
                raise self._lost(error) from error

    def _open(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> Any:
        headers = {"User-Agent": "sdxl-inpaint-krita", "Content-Type": content_type, "x-api-key": self._key}
        sent = {name: value for name, value in headers.items() if value}
        request = urllib.request.Request(self.url + path, body, sent, method=method)  # noqa: S310 - checked
        try:
            return self._opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error

    def _refusal(self, error: urllib.error.HTTPError) -> Problem:
        """Return the server's own sentence, or one that says that it is not our server."""
        try:
            return Problem(sentence(str(json.loads(error.read())["error"])))
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return Problem(f"What answers at {self.url} is not an sdxl-inpaint server (HTTP {error.code}).")

    def _lost(self, error: Exception) -> Unreachable:
        reason = getattr(error, "reason", None) or error
        return Unreachable(
            f"There is no answer from {self.url} ({reason}); start the server with `inpaint serve`, or "
            "correct its address."
        )


def sentence(text: str) -> str:
    """Return a server's error as a sentence: with a capital, if it names no field, and a full stop."""
    first = text.partition(" ")[0]
    text = text if first.endswith(":") else text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def form(fields: Mapping[str, object]) -> tuple[str, bytes]:
    """Return a multipart form: its content type, and its body; bytes are PNG files, other values are text."""
    boundary = uuid.uuid4().hex
    parts = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            head += f'; filename="{name}.png"\r\nContent-Type: image/png'
        data = value if isinstance(value, bytes) else str(value).encode()
        parts.append(f"{head}\r\n\r\n".encode() + data + b"\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join(parts) + f"--{boundary}--\r\n".encode()
