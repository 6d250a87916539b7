"""``inpaint serve --cluster``: the application on a Ray cluster, until Ctrl-C."""

import logging
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from inpaint.errors import DeviceError, ModelError, RequestError
from server.ray.ingress import NAME, application, settings_of
from server.settings import Settings
from server.start import greeting, prepare, refuse_open
from server.uvicorn_server import check_models

_log = logging.getLogger(__name__)
_LOCAL = "local"
_CONNECT_S = 5.0


def start(flags: Mapping[str, object], address: str) -> None:
    """Deploy on a cluster, wait for SIGINT or SIGTERM, and remove the application.

    Args:
        flags: settings; they take precedence over ``INPAINT_*`` variables.
        address: the cluster's address; ``auto`` for the one that this machine is part of, ``local`` for a new
            one on this machine alone.

    Raises:
        RequestError: a setting is wrong, or there is no cluster.
        InpaintError: the application could not be deployed.
    """
    settings = settings_of(flags)
    locked = prepare(settings)
    refuse_open(settings, locked=locked)
    check_models(settings)
    _connect(address)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        _deploy(settings)
        sys.stderr.write(greeting(settings, settings.port, locked=locked and not settings.no_auth))
        stopped.wait()
    finally:
        serve.delete(NAME)  # waits until the requests under way are answered
        if address == _LOCAL:
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _connect(address: str) -> None:
    try:
        if ":" in address:  # checked first: ray.init would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        start_ray(address=address, log_to_driver=False)
    except (OSError, ValueError) as error:
        hint = "start one with `ray start --head`, or pass --cluster local"
        raise RequestError("--cluster", f"there is no Ray cluster at {address}; {hint}") from error
    except Exception as error:  # Ray has no common class for errors at its start
        raise DeviceError(f"Ray did not start: {str(error).splitlines()[0]}") from error


def start_ray(**options: Any) -> None:
    """Start or join Ray; once more if its own processes were too slow.

    Ray gives them 30 seconds, which cannot be changed and is not enough on a host that starts everything else
    at the same time. Those of the first attempt end with this process.
    """
    for attempt in (1, 2):
        try:
            ray.init(**options, include_dashboard=False, logging_level=logging.ERROR)
        except Exception as error:
            if attempt == 2 or "timed out during startup" not in str(error):
                raise
            _log.warning("Ray did not start within its 30 seconds; it is tried once more")
        else:
            return


def _deploy(settings: Settings) -> None:
    options = HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=None)
    serve.start(proxy_location="EveryNode", http_options=options)
    try:
        serve.run(application(settings), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ModelError(f"the cluster could not start the engines: {error}") from error
