"""Traces for OpenTelemetry, where an operator asks for them by ``INPAINT_TELEMETRY=1`` and ``OTEL_*``.

FastAPI makes the spans; here is decided what they may tell. Metrics are Prometheus's, logs are structlog's.
"""

from importlib.util import find_spec
from typing import Any

from fastapi.telemetry import TelemetryConfig

from inpaint.errors import RequestError

_PROBES = ("/livez", "/readyz", "/metrics")


def telemetry(*, wanted: bool) -> TelemetryConfig:
    """FastAPI's ``telemetry``.

    Raises:
        RequestError: wanted, but not installed.
    """
    if wanted and find_spec("opentelemetry.exporter") is None:
        raise RequestError("INPAINT_TELEMETRY", "needs: pip install 'sdxl-inpaint[telemetry]'")
    return {"auto_configure": wanted, "tracing": wanted, "metrics": False, "logs": False, "exclude": _private}


def _private(scope: Any) -> bool:
    """Probes, which say nothing; and pictures, whose URL is all that one needs to see them."""
    path = str(scope["path"])
    return path in _PROBES or "/images/" in path
