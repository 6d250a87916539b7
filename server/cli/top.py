"""``inpaint top``: the figures of a running server, updated on a terminal or printed as JSON lines."""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from inpaint.errors import InpaintError, RequestError
from server.cli.scrape import Figures, Scrape, figures, parse

if TYPE_CHECKING:
    import httpx2
    from rich.console import RenderableType

_WINDOW_S = 30.0  # rates are averages over this: requests take seconds, so one second has none or one
_TIMEOUT_S = 5.0
_WANTED = "must be a server's address such as http://127.0.0.1:8000, not"


def top(
    url: Annotated[str, typer.Option(help="Address of the server.")] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None,
        typer.Option(
            envvar="INPAINT_KEY",
            help="A key with the scope metrics; not needed if the server has no keys.",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Watch for one interval, print the result and exit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per update on stdout.")
    ] = False,
) -> None:
    """Watch a running server: requests, latencies, queue and engine.

    Rates are averages over the last 30 seconds. Press Ctrl-C to quit.
    """
    with Server(url, key) as server:
        updates = server.updates(interval, keep_going=not once)
        if once:
            _print(server.url, next(updates), as_json=as_json)
            return
        with suppress(KeyboardInterrupt):  # the way to end it, not a failure
            _follow(server.url, updates, as_json=as_json)


class Server:
    """A client of the server that is watched."""

    def __init__(self, url: str, key: str | None) -> None:
        """Prepare a client; it connects at the first reading.

        Raises:
            RequestError: ``url`` is not a URL.
        """
        import httpx2

        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        headers = {"x-api-key": key} if key else {}
        try:
            # No proxy from the environment: it would be asked for 127.0.0.1 as well, and would see the key.
            self._client = httpx2.Client(
                base_url=self.url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
            )
        except httpx2.InvalidURL as error:
            raise RequestError("--url", f"{_WANTED} {url!r}") from error
        self._has_key = bool(key)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def updates(self, interval: float, *, keep_going: bool) -> "Iterator[Figures | InpaintError]":
        """Yield the figures after each interval of seconds.

        With ``keep_going``, yield the error of a failed reading and try again, unless the key was refused.

        Raises:
            InpaintError: the server cannot be read.
        """
        scrapes = deque([self.scrape()])
        while True:
            time.sleep(interval)
            try:
                scrapes.append(self.scrape())
            except RequestError:  # the key was revoked
                raise
            except InpaintError as error:
                if not keep_going:
                    raise
                yield error
                continue
            while len(scrapes) > 2 and scrapes[-1].at - scrapes[1].at >= _WINDOW_S:
                scrapes.popleft()
            yield figures(scrapes[-1], scrapes[0])

    def scrape(self) -> Scrape:
        """Take one reading.

        Raises:
            RequestError: a key is needed, or another key.
            InpaintError: no server, or another kind of server, answers at the URL.
        """
        probe = self._get("/readyz")
        answer = self._get("/metrics")
        if answer.status_code in (401, 403):
            raise self._key_error(answer)
        if answer.status_code >= 500:
            raise InpaintError(f"{self.url} answers {answer.status_code}: {_said(answer)}")
        series = parse(answer.text) if answer.status_code == 200 else {}
        if "inpaint_ready" not in series:
            raise InpaintError(f"{self.url} is not an inpaint server, or a much older version")
        return Scrape(time.monotonic(), probe.status_code == 200, series)

    def _get(self, path: str) -> "httpx2.Response":
        import httpx2

        try:
            return self._client.get(path)
        except httpx2.UnsupportedProtocol as error:
            raise RequestError("--url", f"{_WANTED} {self.url!r}") from error
        except httpx2.TimeoutException as error:
            raise InpaintError(f"{self.url} does not answer within {_TIMEOUT_S:g} s") from error
        except httpx2.HTTPError as error:
            reason = str(error).rpartition("] ")[2] or type(error).__name__
            raise InpaintError(f"no server answers at {self.url} ({reason}); is it running?") from error

    def _key_error(self, answer: "httpx2.Response") -> RequestError:
        make = "make one with: inpaint keys create --scope metrics"
        if not self._has_key and answer.status_code == 401:
            return RequestError("--key", f"this server needs a key, here or in INPAINT_KEY; {make}")
        if answer.status_code == 401:
            return RequestError("--key", "the key is unknown, revoked or expired")
        if self._has_key:
            return RequestError("--key", f"this key lacks the scope metrics; {make}")
        return RequestError("--url", _said(answer))


def _said(answer: "httpx2.Response") -> str:
    """Return the error that the server's answer holds, or else the status in words."""
    with suppress(ValueError, KeyError, TypeError):
        return str(answer.json()["error"])
    return answer.reason_phrase.lower()


def _follow(url: str, updates: "Iterator[Figures | InpaintError]", *, as_json: bool) -> None:
    if as_json or not sys.stdout.isatty():
        for seen in updates:
            _print(url, seen, as_json=as_json)
        return
    from rich.live import Live

    from server.cli.top_view import view

    first: RenderableType = f"connecting to {url} …"
    with Live(first, screen=True, auto_refresh=False) as live:
        for seen in updates:
            live.update(view(url, seen), refresh=True)


def _print(url: str, seen: "Figures | InpaintError", *, as_json: bool) -> None:
    if as_json:
        line = {"url": url} | ({"error": str(seen)} if isinstance(seen, InpaintError) else asdict(seen))
        typer.echo(json.dumps(line))
        return
    from rich.console import Console

    from server.cli.top_view import view

    Console(highlight=False).print(view(url, seen))
