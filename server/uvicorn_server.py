"""The HTTP process: its socket, uvicorn, and a shutdown that first finishes the requests under way."""

import asyncio
import os
import resource
import signal
import socket
from contextvars import Context
from functools import partial
from math import inf
from types import FrameType

import uvicorn
from fastapi import FastAPI

from inpaint.weights import resolve
from server.app import Running
from server.engines.client import EngineClient
from server.engines.fleet import client_of
from server.engines.in_process import InProcessClient
from server.engines.pool import Pool
from server.engines.worker import WorkerSpec
from server.errors import BindError
from server.http.connection import ConnectionLimits, Connections, GuardedProtocol
from server.settings import Settings

_MAX_CONNECTIONS = 1024
_OPEN_FILES = 4096  # wanted: a shell allows 1024, and the server has other files than its connections
_OTHER_FILES = 256  # database, workers, pictures, fetches
_UNSENT_BYTES = 131_072


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains: after a signal it answers 503 until the requests under way have ended.

    uvicorn would close its socket immediately, and clients would see refused connections instead of an answer
    with ``Retry-After``.
    """

    def __init__(self, config: uvicorn.Config, running: Running) -> None:
        super().__init__(config)
        self.interrupted = False  # by a second Ctrl-C
        self._running = running
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None
        self._signals = 0
        self._hurry = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does; from then on a signal begins a drain."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain and exit at the first signal; skip the drain at the second; exit immediately at the third."""
        self._signals += 1
        self.interrupted = self._signals > 1 and sig == signal.SIGINT
        if self._loop is None or self._signals > 2:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
        elif self._signals == 1:
            # A signal interrupts some request, whose id must not appear in the drain's log lines.
            self._loop.call_soon_threadsafe(self._begin_drain, context=Context())
        else:
            self._loop.call_soon_threadsafe(self._hurry.set)

    def _begin_drain(self) -> None:
        self._drain = asyncio.create_task(self._drain_then_exit())

    async def _drain_then_exit(self) -> None:
        running = self._running
        drained = asyncio.create_task(running.service.drain(running.parts.settings.drain_s))
        hurried = asyncio.create_task(self._hurry.wait())
        await asyncio.wait((drained, hurried), return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        hurried.cancel()
        # Requests still under way end too: v2 requests wait for the next process, v1 clients get a 503.
        await running.queue.stop()
        await running.parts.client.close(0.0)
        await asyncio.sleep(0.2)  # until the last answers have been sent
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Exit also if the engine did not start, since there is nothing to serve without one."""
        if self._running.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until a signal ends the server.

    Args:
        app: from ``server.app.create_app``.
        listener: from :func:`listen`.

    Raises:
        InpaintError: the engine did not start.
        KeyboardInterrupt: Ctrl-C was pressed a second time, and work was left undone.
    """
    running: Running = app.state.running
    limits = ConnectionLimits(max_connections(), rest_bytes=running.parts.settings.max_body_bytes)
    server = DrainingServer(config_of(app, limits), running)
    asyncio.run(server.serve(sockets=[listener]))
    if running.failure is not None:
        raise running.failure
    if server.interrupted:
        raise KeyboardInterrupt


def config_of(app: FastAPI, limits: ConnectionLimits) -> uvicorn.Config:
    """Return uvicorn's configuration, with this server's own protocol.

    Args:
        app: from ``server.app.create_app``.
        limits: of its connections.
    """
    running: Running = app.state.running
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http=partial(GuardedProtocol, shared=Connections(limits)),  # type: ignore[arg-type]
        ws="none",  # no route speaks it, and its connections would be outside the limits
        forwarded_allow_ips=running.parts.settings.trusted_proxies,
        timeout_graceful_shutdown=5,  # for idle connections; requests were drained before
    )


def max_connections() -> int:
    """Return how many connections the system allows, at most 1024, after asking it for more open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _OPEN_FILES:  # a negative number is no limit
        soft = _OPEN_FILES if hard < 0 else min(hard, _OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _MAX_CONNECTIONS if soft < 0 else max(1, min(_MAX_CONNECTIONS, soft - _OTHER_FILES))


def listen(settings: Settings) -> socket.socket:
    """Bind the listening socket, before anything is loaded, so that a taken port is reported immediately.

    Raises:
        BindError: the server cannot listen on the address.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        # Python adds the address to the system's message; a failed lookup of a name has its own message.
        known = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        reason = known or str(error)
        raise BindError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from error
    # Connections inherit this. asyncio sets it only on sockets that it made itself; without it each answer
    # waits 40 ms for the client's delayed acknowledgement between its head and its body.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The system would buffer up to 4 MB more for each client that does not read.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return listener


def spec_of(settings: Settings, model: str = "") -> WorkerSpec:
    """Return what each worker loads, from the settings; of several models, what the workers of one load."""
    lora = settings.few_step_lora
    return WorkerSpec(
        model=settings.models.given[model or settings.models.default],
        device=settings.device,
        dtype=settings.dtype,
        memory=settings.memory,
        max_rows=settings.max_rows,
        precision=settings.precision,
        without=settings.without,
        few_step_lora=None if lora is None else str(lora),
        predicts=settings.predicts,
        loras=None if settings.loras is None else str(settings.loras),
        profiles=str(settings.data / "profiles") if settings.warm_up else None,
    )


def engine_client(settings: Settings) -> EngineClient:
    """Return the engines: in processes of their own, or in this one if ``workers`` is 0.

    Raises:
        ModelError: a model does not exist; this is checked before a process is started for it.
    """
    check_models(settings)
    if settings.workers == 0:
        return InProcessClient(spec_of(settings))

    def pool(model: str) -> Pool:
        return Pool(
            spec_of(settings, model),
            numbers=settings.workers_of[model],
            keeps_trying=settings.models.several,
            hang_s=settings.hang_s,
            max_attempts=settings.max_attempts,
            idle_unload_s=settings.idle_unload_s or inf,
        )

    return client_of(settings.models.names, pool)


def check_models(settings: Settings) -> None:
    """Raise ModelError if a model does not exist; it reads no weights."""
    for given in settings.models.given.values():
        if given != "demo":
            resolve(given, predicts=settings.predicts)
