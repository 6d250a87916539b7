"""Traces for OpenTelemetry, if an operator sets ``INPAINT_TELEMETRY=1`` and ``OTEL_*``.

FastAPI makes the spans; this module decides which requests get none. Metrics are for Prometheus and logs for
structlog.
"""

from importlib.util import find_spec
from typing import Any

from fastapi.telemetry import TelemetryConfig

from inpaint.errors import RequestError

_PROBES = ("/livez", "/readyz", "/metrics")


def telemetry(*, wanted: bool) -> TelemetryConfig:
    """Return the value of FastAPI's ``telemetry`` argument.

    Args:
        wanted: the setting ``telemetry``.

    Raises:
        RequestError: traces are wanted, but the extra is not installed.
    """
    if wanted and find_spec("opentelemetry.exporter") is None:
        raise RequestError(
            "INPAINT_TELEMETRY",
            "needs the telemetry extra; install it with: pip install 'sdxl-inpaint[telemetry]'",
        )
    return {"auto_configure": wanted, "tracing": wanted, "metrics": False, "logs": False, "exclude": _private}


def _private(scope: Any) -> bool:
    """Return whether a request gets no span: a probe's is useless, a picture's URL opens it without a key."""
    path = str(scope["path"])
    return path in _PROBES or "/images/" in path
