"""A server under test: the whole application under uvicorn on loopback, and an engine that only pretends.

The fixtures are in ``tests.support.served_fixtures``. Every server checks, when it is stopped, that it left
no task behind and that nothing went wrong unseen in its event loop.
"""

import asyncio
import base64
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import uvicorn
from PIL import Image

from inpaint.canvas.mask import fitted, require_mask, strength_of
from inpaint.errors import BusyError, CancelledError, ClosedError, InpaintError
from inpaint.job import Event
from inpaint.pace import UNCHANGED
from inpaint.prompt_warnings import prompt_warnings
from inpaint.request import InpaintRequest, InpaintResult
from server.app import create_app
from server.engines.client import ANY_TIME, EngineClient, Health, Terms
from server.engines.ticket import LoopTicket, prepare
from server.fetch.fetcher import Policy
from server.http.connection import ConnectionLimits
from server.settings import Settings
from server.uvicorn_server import DrainingServer, config_of, listen

PATIENCE_S = 60.0  # for what takes milliseconds on an idle machine; nothing that works waits so long
SIZE = (48, 32)
T = TypeVar("T")


# Pictures.


def photo(size: tuple[int, int] = SIZE, colour: str = "teal") -> Image.Image:
    """A plain picture with one corner of another colour, so that it shows which way up it is."""
    image = Image.new("RGB", size, colour)
    image.paste("gold", (0, 0, size[0] // 4, size[1] // 4))
    return image


def white_box(size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask: the right half is repainted."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, size[0], size[1]))
    return mask


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


PHOTO, MASK = file_of(photo()), file_of(white_box())


def body(**fields: object) -> dict[str, object]:
    """A small request's JSON; a field that is None is left out."""
    plain: dict[str, object] = {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "a red circle", "seed": 7}
    return {name: value for name, value in (plain | fields).items() if value is not None}


def opened(data: bytes) -> Image.Image:
    """A file's picture, all of it read."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


# The engine.


class FakeEngine:
    """Fills the mask with a colour made of the seed: immediately, or when the test says so if ``held``.

    It is an ``EngineClient``; what a test does to it goes through ``Served.do``, in the server's own loop.
    """

    def __init__(self, *, loaded: bool = True, broken: Exception | None = None) -> None:
        self.held = False
        self.broken = broken  # why it does not start
        self.failures: list[Exception] = []  # of the next requests, after their first step
        self.requests: list[InpaintRequest] = []
        self.terms: list[Terms] = []  # of each
        self.submitted: queue.SimpleQueue[LoopTicket] = queue.SimpleQueue()
        self.tickets: list[LoopTicket] = []
        self.backlog_s = 0.0
        self.closed = False
        self.door = asyncio.Event()  # a request that is handed over waits for it
        self.door.set()
        self._loaded = asyncio.Event()
        self._ready = False
        if loaded:
            self._loaded.set()

    # as the server sees it

    async def start(self) -> None:
        await self._loaded.wait()
        if self.broken is not None:
            raise self.broken
        self._ready = True

    async def close(self, drain_s: float) -> None:
        self._ready, self.closed = False, True
        for ticket in self.tickets:
            ticket.fail(ClosedError("the server stopped before this was finished; send it again"))

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> LoopTicket:
        request = await prepare(request)
        await self.door.wait()
        if not self._ready:
            raise BusyError("no engine is ready", 5.0)
        ticket = LoopTicket(request)
        ticket.on_cancel = lambda: ticket.fail(CancelledError("cancelled"))
        self.requests.append(request)
        self.terms.append(terms)
        self.tickets.append(ticket)
        self.submitted.put(ticket)
        if not self.held:
            self.paint(ticket)
        return ticket

    def health(self) -> Health:
        running = sum(ticket.begun for ticket in self.tickets)
        waiting = sum(not ticket.finished for ticket in self.tickets) - running
        reason = "" if self._ready else "the model is being loaded"
        return Health(
            self._ready,
            reason,
            waiting=waiting,
            running=running,
            native_size=128 if self._ready else None,
            in_channels=9 if self._ready else None,
            backlog_s=self.backlog_s,
        )

    # as a test sees it

    def next(self) -> LoopTicket:
        """The next request that was handed over; the test waits for it."""
        return self.submitted.get(timeout=PATIENCE_S)

    def load(self) -> None:
        """Be ready, after ``loaded=False``."""
        self._loaded.set()

    def die(self) -> None:
        """Not be ready any more."""
        self._ready = False

    def step(self, ticket: LoopTicket, count: int = 1) -> None:
        """Take steps, with previews for those who watch."""
        for _ in range(count):
            preview = Image.new("RGB", (4, 4), "red") if ticket.watchers else None
            done = ticket.steps_taken + 1
            ticket.emit(Event("step", done, ticket.request.steps_to_run, preview))

    def paint(self, ticket: LoopTicket) -> None:
        """Take all steps that are left, and finish or fail."""
        ticket.emit(Event("encoding", 0, ticket.request.steps_to_run))
        self.step(ticket)
        if self.failures:
            error = self.failures.pop(0)
            if not isinstance(error, InpaintError):
                raise error
            ticket.fail(error)
            return
        self.step(ticket, ticket.request.steps_to_run - ticket.steps_taken)
        ticket.finish(_result(ticket))


def _result(ticket: LoopTicket) -> InpaintResult:
    request = ticket.request
    hard, box = require_mask(fitted(strength_of(request), request.image.size), soft=request.soft)
    image = request.image.convert("RGB")
    painted = [Image.composite(Image.new("RGB", image.size, colour_of(s)), image, hard) for s in ticket.seeds]
    timings = {"queue_s": 0.1, "encode_s": 0.25, "denoise_s": 1.0, "decode_s": 0.5}
    reason = request.call_plan.reason
    warnings = [UNCHANGED + reason] if reason else []
    warnings += prompt_warnings("prompt", request.prompt)
    return InpaintResult(painted, ticket.seeds, box, tuple(warnings), timings)


def colour_of(seed: int) -> tuple[int, int, int]:
    """What the fake engine paints."""
    return (seed * 37 % 256, seed * 101 % 256, 128)


# The server.


class _Server(DrainingServer):
    def __init__(self, config: uvicorn.Config, running: Any, up: threading.Event) -> None:
        super().__init__(config, running)
        self._up = up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()


class Served:
    """A running server; ``client`` speaks to it without a key."""

    def __init__(
        self,
        settings: Settings,
        engine: EngineClient,
        policy: Policy,
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - it is frozen
    ) -> None:
        self.settings, self.engine = settings, engine
        self.app = create_app(settings, engine, policy=policy)
        self.running = self.app.state.running
        self.parts = self.running.parts
        self.unseen: list[str] = []  # what nobody was told of
        listener = listen(settings)
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        up = threading.Event()
        self.server = _Server(config_of(self.app, limits), self.running, up)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)), daemon=True)
        self._thread.start()
        assert up.wait(PATIENCE_S)
        self.client = self.calling()
        # FastAPI builds its routes at the first request, under a filter of warnings that all threads share:
        # two servers of one test must not do so at the same time.
        with suppress(httpx2.TransportError):  # an engine that does not start ends its server
            self.client.get("/livez")

    async def _serve(self, listener: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.unseen.append(str(context)))
        await self.server.serve(sockets=[listener])
        listener.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        # sse-starlette's watcher of shutdowns lives as long as the loop
        self.unseen += [str(task) for task in left if "_shutdown_watcher" not in str(task)]

    def calling(self, **headers: str) -> httpx2.Client:
        """A client with these headers; ``key=`` is one of the API's own."""
        named = {"x-api-key" if name == "key" else name.replace("_", "-"): v for name, v in headers.items()}
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used, and the default one takes 50 ms to make
        return httpx2.Client(
            base_url=self.url, headers=named, timeout=PATIENCE_S, trust_env=False, verify=tls
        )

    def key(self, *, balance: float = 0, scopes: tuple[str, ...] = ("sdxl-inpaint",)) -> str:
        """A new key's token."""
        key, token = self.parts.keys.create("test", scopes=scopes)
        if balance:
            self.parts.ledger.add(key.id, round(balance * 1e6))
        return str(token)

    def do(self, function: Callable[..., T], *args: Any) -> T:
        """Call something in the server's event loop."""

        async def call() -> T:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE_S)

    def raw(self, *lines: str, send: bytes = b"") -> socket.socket:
        """A connection on which a request's head was sent, and perhaps some of its body."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + send)
        return connection

    def drain(self) -> None:
        """What SIGTERM does."""
        self.server.handle_exit(15, None)
        eventually(lambda: self.running.service.draining)

    def join(self) -> None:
        """Wait for the end."""
        self.client.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert not self.unseen

    def stop(self) -> None:
        """End it, as a signal would after its drain."""
        self.server.should_exit = True
        self.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def eventually(true: Callable[[], object]) -> None:
    """Wait until something is true; it has to be, soon."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the first answer on a raw connection; the connection is closed."""
    with connection, connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers.get("content-length", "0")))


# Pictures by URL.


@dataclass
class PictureHost:
    """A web server on loopback with pictures under any path that a test chooses."""

    url: str = ""
    port: int = 0
    files: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)
    closed_doors: dict[str, threading.Event] = field(default_factory=dict)  # paths that wait for these

    def put(self, path: str, data: bytes, kind: str = "image/png", status: int = 200) -> str:
        """Serve a file; returns its URL."""
        self.files[path] = (status, kind, data)
        return f"{self.url}{path}"

    def hold(self, path: str) -> threading.Event:
        """Answer for this path only once the event is set."""
        return self.closed_doors.setdefault(path, threading.Event())

    def policy(self, settings: Settings) -> Policy:
        """The settings' policy, but for this host."""
        plain = Policy.from_settings(settings)
        return Policy(
            timeout_s=plain.timeout_s,
            max_bytes=plain.max_bytes,
            redirects=plain.redirects,
            ports=(*plain.ports, self.port),
            hosts=plain.hosts,
            denied_networks=plain.denied_networks,
            allowed_networks=(ip_network("127.0.0.1/32"),),
        )


def handler(host: PictureHost) -> type[BaseHTTPRequestHandler]:
    """What answers for it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            host.hits.append(self.path)
            if path in host.closed_doors:
                host.closed_doors[path].wait(PATIENCE_S)
            status, kind, data = host.files.get(path, (404, "text/plain", b"no"))
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:  # the server had enough
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


Serve = Callable[..., Served]


def server_for(
    data: Path,
    host: PictureHost,
    engine: EngineClient | None = None,
    limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Served:
    """Start a server; the settings are ``inpaint serve``'s."""
    plain = {"port": 0, "data": data, "drain_s": 0.0, "rate": "100000/minute"}
    chosen = Settings(**(plain | settings))
    return Served(chosen, engine or FakeEngine(), host.policy(chosen), limits)
