"""A hub on loopback for tests: the resolve protocol of the model hub, with faults on request.

``/{owner}/{name}/resolve/{commit}/{path}`` answers HEAD and GET as the hub does: small files directly, large
ones (``.safetensors``) by a redirect to a CDN path on another origin, with the linked size and digest in the
redirect. Every GET of a body is logged with its Range header and the bytes that were sent.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from inpaint.weights import Entry, LockedFile, Source
from tests.support.http_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny"


@dataclass
class Get:
    """One body that was asked for."""

    path: str
    range: str | None
    authorization: str | None
    sent: int = 0


@dataclass
class Hub:
    """What is served, which faults to play, and what was asked."""

    files: dict[str, bytes]
    commit: str = COMMIT
    commit_header: str | None = None  # announce another commit than the one asked for
    honest_headers: bool = True  # False: no sizes or digests announced, as by a plain mirror
    ranges: bool = True
    range_shift: int = 0  # answer a range with another one
    announce_length: bool = True  # False: a body ends when the connection does
    cdn_status: int = 0  # an error of the CDN instead of a body
    swaps: dict[str, list[bytes]] = field(default_factory=dict)  # bodies to serve instead, one a GET
    cuts: dict[str, list[int]] = field(default_factory=dict)  # hang up after this many bytes, one per GET
    holds: dict[str, int] = field(default_factory=dict)  # wait for `release` after this many bytes
    gets: list[Get] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    cdn_url: str = ""

    def entry(self, name: str = "tiny") -> Entry:
        """The lock entry of the files as they are now."""
        rows = [
            LockedFile(path, len(body), "sha256:" + hashlib.sha256(body).hexdigest())
            for path, body in sorted(self.files.items())
        ]
        source = Source(f"hf://{REPO}", f"commit:{COMMIT}")
        return Entry(name, name, source, "MIT", "https://example.org", sum(r.size for r in rows), tuple(rows))

    def gets_of(self, path: str) -> list[Get]:
        return [get for get in self.gets if get.path == path]


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Run a hub and its CDN on two free ports of 127.0.0.1."""
    hub = Hub(dict(files))

    class Handler(_Handler):
        state = hub

    with serving(Handler) as port, serving(Handler) as cdn_port:
        hub.url, hub.cdn_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{cdn_port}"
        try:
            yield hub
        finally:
            hub.release.set()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        hub = self.state
        if self.path.startswith("/cdn/"):
            path = self.path.removeprefix("/cdn/").partition("?")[0]
            self._body(path, {})
            return
        prefix = f"/{REPO}/resolve/"
        commit, _, path = self.path.removeprefix(prefix).partition("/")
        if not self.path.startswith(prefix):
            self._error(401, "RepoNotFound")
        elif commit != hub.commit:
            self._error(404, "RevisionNotFound")
        elif path not in hub.files:
            self._error(404, "EntryNotFound")
        else:
            self._resolve(path)

    def _resolve(self, path: str) -> None:
        hub, body = self.state, self.state.files[path]
        if self.command == "HEAD":
            hub.heads.append(path)
        headers = {"X-Repo-Commit": hub.commit_header or hub.commit}
        if path.endswith(".safetensors"):
            if hub.honest_headers:
                headers["X-Linked-Size"] = str(len(body))
                headers["X-Linked-ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            headers["Location"] = f"{hub.cdn_url}/cdn/{path}?Signature=secret"
            self._head(302, {**headers, "Content-Length": "0"})
        elif self.command == "HEAD":
            if hub.honest_headers:
                headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
                headers["Content-Length"] = str(len(body))
            self._head(200, headers)
        else:
            self._body(path, headers)

    def _body(self, path: str, headers: Mapping[str, str]) -> None:
        hub = self.state
        get = Get(path, self.headers.get("Range"), self.headers.get("Authorization"))
        hub.gets.append(get)
        body = hub.swaps[path].pop(0) if hub.swaps.get(path) else hub.files[path]
        start = int(get.range.removeprefix("bytes=").removesuffix("-")) if get.range and hub.ranges else 0
        start += hub.range_shift if start else 0
        if hub.cdn_status and self.path.startswith("/cdn/"):
            self._head(hub.cdn_status, {"Content-Length": "0"})
            return
        if start >= len(body) > 0 and get.range:
            self._head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
            return
        if start:
            headers = {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        length = {"Content-Length": str(len(body) - start)} if hub.announce_length else {}
        self._head(206 if start else 200, {**headers, **length})
        end = start + hub.cuts[path].pop(0) if hub.cuts.get(path) else len(body)
        pause = hub.holds.get(path)
        if pause is not None and start < pause < end:
            self._send(get, body[start:pause])
            hub.release.wait(60)
            start = pause
        self._send(get, body[start:end])

    def _send(self, get: Get, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
            get.sent += len(data)
        except OSError:  # the client was killed, which is what some tests do
            self.close_connection = True

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _error(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code, "Content-Length": "0"})
