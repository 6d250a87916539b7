"""``inpaint serve --cluster``: deploys the application on a Ray cluster, and on Ctrl-C takes it away."""

import signal
import sys
import threading
from collections.abc import Mapping

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from inpaint.errors import ModelError, RequestError
from inpaint.weights import resolve
from server.ray.environment import prepare_environment
from server.ray.ingress import NAME, application, settings_of
from server.settings import Settings
from server.start import greeting, prepare, refuse_open

_LOCAL = "local"


def start(flags: Mapping[str, object], address: str) -> None:
    """Serve on a cluster until a signal ends it.

    Args:
        flags: win over ``INPAINT_*`` variables.
        address: of the cluster; ``auto`` for the one that this machine is part of, ``local`` for a new one on
            this machine alone.

    Raises:
        RequestError: a setting is wrong, or there is no cluster.
        InpaintError: the application could not be deployed.
    """
    settings = settings_of(flags)
    locked = prepare(settings)
    refuse_open(settings, locked=locked)
    if settings.model != "demo":
        resolve(settings.model)
    _connect(address)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        _deploy(settings)
        sys.stderr.write(greeting(settings, settings.port, locked=locked and not settings.no_auth))
        stopped.wait()
    finally:
        serve.delete(NAME)  # waits until what is under way has been answered
        if address == _LOCAL:
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _connect(address: str) -> None:
    prepare_environment()
    try:
        ray.init(address=None if address == _LOCAL else address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        hint = "start one with `ray start --head`, or pass --cluster local"
        raise RequestError("--cluster", f"there is no Ray cluster at {address}; {hint}") from error


def _deploy(settings: Settings) -> None:
    options = HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=None)
    serve.start(proxy_location="EveryNode", http_options=options)
    try:
        serve.run(application(settings), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ModelError(f"the cluster could not start the engines: {error}") from error
