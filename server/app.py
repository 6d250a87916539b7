"""``create_app(settings, client)``: the application with its routes, middleware, errors and lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

import inpaint
from server.dialects.discovery import Discovery
from server.dialects.erase import Erase
from server.dialects.errors import Shapes
from server.dialects.intake import Intake
from server.dialects.openapi import describe
from server.dialects.segmind import Segmind
from server.dialects.segmind_answers import Problem
from server.dialects.segmind_events import Events
from server.dialects.segmind_routes import routes
from server.dialects.segmind_streams import Streams
from server.dialects.select import Select
from server.dialects.table import DIALECTS
from server.engines.client import EngineClient
from server.fetch.fetcher import Fetcher, Policy
from server.http.auth import Gate
from server.http.head import HeadMiddleware
from server.http.middleware import RequestMiddleware
from server.http.origin import OriginCheck
from server.http.page import add_page
from server.http.sending import SendingMiddleware
from server.observe.metrics import Metrics
from server.observe.telemetry import telemetry
from server.service.durable_queue import DurableQueue
from server.service.limits import Limiter
from server.service.parts import Parts
from server.service.service import Service
from server.service.threads import Threads
from server.settings import Settings
from server.storage.blobs import Blobs
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import Ledger
from server.storage.peers import Peers
from server.storage.requests import Store

log = structlog.get_logger()


def create_app(settings: Settings, client: EngineClient, *, policy: Policy | None = None) -> FastAPI:
    """Build the HTTP application; its lifespan starts and stops everything in it.

    Args:
        settings: read once, here.
        client: the engines; the application starts and closes them.
        policy: which URLs may be fetched, if not the settings' policy; tests fetch from loopback.
    """
    database = Database(settings.database)
    peers = Peers(database, settings.lease_s)
    parts = Parts(
        settings=settings,
        client=client,
        database=database,
        peers=peers,
        keys=Keys(database),
        ledger=Ledger(database),
        store=Store(database, server_id=peers.server_id),
        blobs=Blobs(settings.blobs),
        fetcher=Fetcher(policy or Policy.from_settings(settings)),
        limiter=Limiter(settings),
        metrics=Metrics(),
        threads=Threads(),
    )
    service = Service(parts)
    running = Running(parts, service, DurableQueue(service))
    origin = OriginCheck(
        origins=settings.cors_origins, public_url=settings.public_url, hosts=settings.allowed_hosts
    )
    gate = Gate(parts.keys, origin, open_to_all=settings.no_auth)
    app = FastAPI(
        title="sdxl-inpaint",
        version=inpaint.__version__,
        description="SDXL inpainting on your own GPU. Keys go in `x-api-key` or `Authorization: Bearer`.",
        lifespan=running.lifespan,
        redirect_slashes=False,  # the vendor's SDK takes a redirect for success and does not follow it
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        openapi_url=None,  # served below, with a key
        telemetry=telemetry(wanted=settings.telemetry),
    )
    app.state.running = running
    intake = Intake(service, running.queue, gate)
    segmind = Segmind(intake)
    streams = Streams(parts.keys, max_in_flight_per_key=settings.max_in_flight_per_key)
    app.include_router(routes(segmind, Events(segmind, streams)))
    app.include_router(Discovery(intake).router())
    app.include_router(Select(intake).router())
    app.include_router(Erase(intake).router())
    _add_operations(app, running, gate)
    if settings.page:
        add_page(app)
    dialects = [dialect(intake) for dialect in DIALECTS]
    for dialect in dialects:
        app.include_router(dialect.router)
    shapes = Shapes({prefix: dialect.shape for dialect in dialects for prefix in dialect.prefixes})
    shapes.add_to(app)
    describe(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    app.add_middleware(HeadMiddleware)
    app.add_middleware(SendingMiddleware)
    app.add_middleware(RequestMiddleware, metrics=parts.metrics, internal_error=shapes.internal_error)
    return app


@dataclass(slots=True)
class Running:
    """The parts that start and stop with the application."""

    parts: Parts
    service: Service
    queue: DurableQueue
    failure: BaseException | None = None  # why the engine did not start

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Serve immediately, while the model loads; ``/readyz`` reports when it is loaded."""
        await asyncio.to_thread(self.parts.database.migrate)
        loading = asyncio.create_task(self.parts.client.start())
        loading.add_done_callback(self._loaded)
        try:
            await self.queue.start()
            yield
        finally:
            if not self.service.draining:
                await self.service.drain(self.parts.settings.drain_s)
            loading.cancel()
            await asyncio.wait([loading])
            await self.queue.stop()
            await self.service.selecting.close()
            await self.parts.client.close(0.0)
            await self.parts.fetcher.aclose()
            await asyncio.to_thread(self.parts.database.close)
            self.parts.threads.close()

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        if loading.cancelled():
            return
        self.failure = loading.exception()
        if self.failure is None:
            log.info("ready", model=self.parts.settings.model)
        else:
            log.error("the engine did not start", error=str(self.failure))


def _add_operations(app: FastAPI, running: Running, gate: Gate) -> None:
    """Add the routes for operators. Health needs no key, since probes have none and it reveals one word."""
    parts, service = running.parts, running.service

    @app.get("/livez", tags=["operations"], summary="Liveness", response_class=PlainTextResponse)
    async def livez() -> str:
        """Return ``ok`` while the process runs."""
        return "ok"

    @app.get(
        "/readyz",
        tags=["operations"],
        summary="Readiness",
        response_class=PlainTextResponse,
        responses={503: {}},
    )
    async def readyz() -> Response:
        """Return 200 if requests can be painted now, else 503."""
        ready = parts.client.health().ready and not service.draining
        ready = ready and await asyncio.to_thread(service.can_store)
        return PlainTextResponse("ready" if ready else "not ready", 200 if ready else 503)

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses={status: {"model": Problem} for status in (401, 403)},
    )
    async def metrics(request: Request) -> Response:
        """Return the metrics for Prometheus; needs a key with the scope ``metrics``."""
        (await gate.admit(request)).require("metrics")
        return Response(parts.metrics.scrape(parts.client.health()), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> JSONResponse:
        """Return the description of this API."""
        await gate.admit(request)
        return JSONResponse(app.openapi())


# The headers of our answers that a page of another site may read; a browser hides all others from it.
_EXPOSED = (
    "x-request-id",
    "x-seed-value",
    "x-output-metadata",
    "x-generation-time",
    "x-cost",
    "x-remaining-credits",
    "x-rate-limit-remaining",
    "x-rate-limit-reset-at-utc",
    "x-should-retry",
    "finish-reason",  # these two are Stability's
    "seed",
    "Retry-After",
    "X-Box",
)
