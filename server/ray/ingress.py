"""The application that Ray Serve deploys: HTTP replicas around ``create_app``, and one engine per GPU.

``serve deploy`` calls ``build``, by its import path ``server.ray.ingress:build``.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from inpaint.errors import RequestError
from server.app import create_app
from server.observe.logs import configure
from server.ray.client import RayClient
from server.ray.replica import EngineReplica, spec_fields
from server.ray.scaling import by_backlog
from server.settings import Settings, read_settings
from server.uvicorn_server import spec_of

NAME = "inpaint"
_ROUTER = "server.ray.router.LeastBacklogRouter"
_READY_QUEUE = 2  # requests that a replica holds in addition to its rows, so that it never waits for one
_STATS_S = 0.5  # between reports of a replica to the routers
_GRACE_S = 30.0  # beyond the longest request


@serve.ingress()
class Ingress:
    """An HTTP process, one of ``ingress_replicas``."""

    def __init__(self, settings: Mapping[str, Any], engine: DeploymentHandle[Any]) -> None:
        self._settings = Settings(**settings)
        self._engine = engine

    def __serve_build_asgi_app__(self) -> Any:
        """Return the ASGI application; Ray calls this in each new replica."""
        settings = self._settings
        configure(settings.log_level, settings.log_format)
        client = RayClient(self._engine, hang_s=settings.hang_s, max_attempts=settings.max_attempts)
        return create_app(settings, client)


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """Build the application for ``serve deploy``.

    Args:
        arguments: settings, named as in ``server.settings``; ``INPAINT_*`` variables fill the rest.

    Raises:
        RequestError: a setting is wrong, or keeps state where only one host reaches it.
    """
    return application(settings_of(arguments))


def settings_of(arguments: Mapping[str, Any]) -> Settings:
    """Read the settings of a cluster.

    Raises:
        RequestError: a setting is wrong, or keeps state where only one host reaches it.
    """
    settings = read_settings(arguments)
    for name, value, wanted in (
        ("database_url", settings.database_url, "Postgres"),
        ("blobs_url", settings.blobs_url, "an object store or a shared folder"),
    ):
        if value is None or value.startswith("sqlite"):
            problem = f"every host of a cluster must reach it: set it to {wanted}"
            raise RequestError(f"INPAINT_{name.upper()}", problem)
    if settings.models.several:
        raise RequestError(
            "--model", "a cluster has one model; for several, use `inpaint serve` without a cluster"
        )
    if settings.workers < 1:
        raise RequestError(
            "--workers", "must be at least 1 in a cluster: the number of engines, with a GPU each"
        )
    return settings


def application(
    settings: Settings, *, loads: str = "server.engines.worker:load_engine", router: str = _ROUTER
) -> serve.Application:
    """Connect the two deployments, HTTP and engines.

    Args:
        settings: of both; every replica gets the same.
        loads: import path of the function that loads an engine; tests bring their own.
        router: import path of the class that chooses the engine for a request.
    """
    engine = _engine(settings, router).bind(spec_fields(spec_of(settings)), settings.hang_s, loads)
    ingress: serve.Application = _ingress(settings).bind(settings.model_dump(mode="json"), engine)
    return ingress


def _engine(settings: Settings, router: str) -> Any:
    routing: dict[str, Any] = {"request_router_class": router, "request_routing_stats_period_s": _STATS_S}
    on_gpu = settings.device != "cpu"
    return serve.deployment(
        EngineReplica,
        name="Engine",
        ray_actor_options={"num_gpus": 1 if on_gpu else 0, "num_cpus": 0 if on_gpu else 0.01},
        max_ongoing_requests=settings.max_rows + _READY_QUEUE,
        max_queued_requests=settings.max_waiting,
        request_router_config=RequestRouterConfig(**routing),
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.deadline_s + _GRACE_S,
        max_surge_percent=0 if on_gpu else 100,
        **_replicas(settings),
    )


def _replicas(settings: Settings) -> dict[str, Any]:
    if settings.min_workers is None:
        return {"num_replicas": settings.workers}
    scaling = AutoscalingConfig(
        min_replicas=settings.min_workers,
        max_replicas=settings.workers,
        upscale_delay_s=10.0,
        downscale_delay_s=300.0,
        policy=AutoscalingPolicy(policy_function=by_backlog),  # type: ignore[no-untyped-call]
    )
    return {"autoscaling_config": scaling}


def _ingress(settings: Settings) -> Any:
    return serve.deployment(
        Ingress,
        name="Ingress",
        num_replicas=settings.ingress_replicas,
        ray_actor_options={"num_cpus": 0.01},
        max_ongoing_requests=1000,  # the application has its own limits, with better messages
        max_queued_requests=1000,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=5),
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.deadline_s + settings.drain_s + _GRACE_S,
        max_surge_percent=100,  # a new one is ready before an old one stops
    )
