"""``create_app(settings, client)``: the routes, what surrounds them, and what starts and stops with them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import inpaint
from inpaint.errors import InpaintError
from server.dialects.discovery import Discovery
from server.dialects.openapi import describe
from server.dialects.segmind import Segmind
from server.dialects.segmind_answers import Problem
from server.dialects.segmind_routes import routes
from server.engines.client import EngineClient
from server.errors import headers_of, status_of
from server.fetch.fetcher import Fetcher, Policy
from server.http.auth import Gate
from server.http.middleware import RequestMiddleware
from server.http.page import add_page
from server.observe.metrics import Metrics
from server.observe.telemetry import telemetry
from server.service.durable_queue import DurableQueue
from server.service.limits import Limiter
from server.service.service import Parts, Service
from server.settings import Settings
from server.storage.blobs import Blobs
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import Ledger
from server.storage.peers import Peers
from server.storage.requests import Store

log = structlog.get_logger()


def create_app(settings: Settings, client: EngineClient, *, policy: Policy | None = None) -> FastAPI:
    """The HTTP server's application; everything in it starts and stops with its lifespan.

    Args:
        settings: read once, here.
        client: the engines; started and closed by the application.
        policy: which URLs may be fetched, where it is not the settings' (tests fetch from loopback).
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
    )
    service = Service(parts)
    running = Running(parts, service, DurableQueue(service))
    gate = Gate(
        parts.keys,
        open_to_all=settings.no_auth,
        public_url=settings.public_url,
        origins=settings.cors_origins,
    )
    app = FastAPI(
        title="sdxl-inpaint",
        version=inpaint.__version__,
        description="SDXL inpainting on your own GPU. Keys go into `x-api-key` or `Authorization: Bearer`.",
        lifespan=running.lifespan,
        redirect_slashes=False,  # a redirect counts as success to the vendor's SDK, which does not follow it
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        openapi_url=None,  # served below, to those who have a key
        telemetry=telemetry(wanted=settings.telemetry),
    )
    app.state.running = running
    app.include_router(routes(Segmind(service, running.queue, gate)))
    app.include_router(Discovery(service, gate).router())
    _add_operations(app, running, gate)
    if settings.page:
        add_page(app)
    _add_problems(app)
    describe(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(RequestMiddleware, metrics=parts.metrics, internal_error=_internal_error)
    return app


@dataclass(slots=True)
class Running:
    """What starts and stops with the application."""

    parts: Parts
    service: Service
    queue: DurableQueue
    failure: BaseException | None = None  # why the engine did not start

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Listen at once; ``/readyz`` says when the model is loaded."""
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
            await self.parts.client.close(0.0)
            await self.parts.fetcher.aclose()
            await asyncio.to_thread(self.parts.database.close)

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        if loading.cancelled():
            return
        self.failure = loading.exception()
        if self.failure is None:
            log.info("ready", model=self.parts.settings.model)
        else:
            log.error("the engine did not start", error=str(self.failure))


def _add_operations(app: FastAPI, running: Running, gate: Gate) -> None:
    """Health without a key, because probes have none and it tells a stranger one word; the rest with."""
    parts, service = running.parts, running.service

    @app.get("/livez", tags=["operations"], response_class=PlainTextResponse)
    async def livez() -> str:
        """The process answers."""
        return "ok"

    @app.get("/readyz", tags=["operations"], response_class=PlainTextResponse, responses={503: {}})
    async def readyz() -> Response:
        """Requests can be painted now."""
        ready = parts.client.health().ready and not service.draining
        return PlainTextResponse("ready" if ready else "not ready", 200 if ready else 503)

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=PlainTextResponse,
        responses={status: {"model": Problem} for status in (401, 403)},
    )
    async def metrics(request: Request) -> Response:
        """For Prometheus; needs a key with the scope ``metrics``."""
        (await gate.admit(request)).require("metrics")
        return Response(parts.metrics.scrape(parts.client.health()), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> JSONResponse:
        """This API's description."""
        await gate.admit(request)
        return JSONResponse(app.openapi())


def _add_problems(app: FastAPI) -> None:
    """Every error in the dialect's one shape, the framework's own included."""

    def answer(
        request: Request, text: str, status: int, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(InpaintError)
    async def known(request: Request, error: InpaintError) -> JSONResponse:
        status, text = status_of(error), str(error)
        if status == 500:
            text = f"{text} (request {request.state.request_id})"
        return answer(request, text, status, headers_of(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(
            request, _WORDS.get(error.status_code, str(error.detail)), error.status_code, error.headers
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        where = error.errors()[0]["loc"]
        if where[0] == "path":
            return answer(request, "there is no such request or picture", 404)
        return answer(request, f"{where[-1]}: {error.errors()[0]['msg']}", 400)


def _internal_error(request: Request) -> JSONResponse:
    """The answer where a bug of ours kept us from a better one."""
    text = f"internal error, please report it with request id {request.state.request_id}"
    return JSONResponse({"error": text}, 500)


_WORDS = {404: "there is no such route or model", 405: "this route takes another method"}
