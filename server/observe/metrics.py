"""Prometheus metrics, in one object per application, so that tests can have many."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from server.engines.client import Health

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


@dataclass(slots=True)
class Metrics:
    """The counters and histograms of the HTTP process, by the names that operators see."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    latency: Histogram = field(init=False)
    stages: Histogram = field(init=False)
    queue_wait: Histogram = field(init=False)
    images: Counter = field(init=False)
    steps: Counter = field(init=False)
    credits: Counter = field(init=False)
    ledger_drift: Gauge = field(init=False)
    engine: "_Engine" = field(init=False)

    def __post_init__(self) -> None:
        r = self.registry
        self.requests = Counter(
            "inpaint_requests", "HTTP requests by route and status.", ("route", "status"), registry=r
        )
        self.latency = Histogram(
            "inpaint_request_seconds",
            "Duration of a request, from its arrival to the last byte of its answer.",
            ("route",),
            registry=r,
            buckets=_SECONDS,
        )
        self.stages = Histogram(
            "inpaint_stage_seconds",
            "Duration of one stage: fetch, read, encode, denoise, decode or write.",
            ("stage",),
            registry=r,
            buckets=_SECONDS,
        )
        self.queue_wait = Histogram(
            "inpaint_queue_wait_seconds",
            "Time from accepting a request until its painting begins.",
            registry=r,
            buckets=_SECONDS,
        )
        self.images = Counter("inpaint_images", "Pictures painted.", registry=r)
        self.steps = Counter("inpaint_steps", "Denoising steps × samples of finished requests.", registry=r)
        self.credits = Counter(
            "inpaint_credits", "Credits of ended requests: settled or refunded.", ("kind",), registry=r
        )
        self.ledger_drift = Gauge(
            "inpaint_ledger_drift_keys",
            "Keys whose ledger entries did not sum to their balance at the last check.",
            registry=r,
        )
        self.engine = _Engine()
        r.register(self.engine)

    def scrape(self, health: Health) -> bytes:
        """Return the text that Prometheus reads, with the engine's state at this moment."""
        self.engine.health = health
        return generate_latest(self.registry)


class _Engine(Collector):
    """The metrics of the engine, from the last health report of the workers."""

    def __init__(self) -> None:
        self.health = Health(ready=False)

    def collect(self) -> Iterator[Metric]:
        """Yield gauges, counters, and the time of UNet calls by the number of samples in them."""
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"inpaint_{name}", text, self._value(name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"inpaint_{name}", text, self._value(name))
        family = SummaryMetricFamily(
            "inpaint_step_seconds",
            "Duration of one denoising step, by the number of samples in it.",
            labels=["batch"],
        )
        for rows, (calls, micros) in sorted(self.health.steps.items(), key=lambda item: int(item[0])):
            family.add_metric([rows], calls, micros / 1e6)
        yield family
        yield from _of_models(self.health.models)

    def _value(self, name: str) -> float:
        return _value(self.health, name)


def _value(health: Health, name: str) -> float:
    return float(getattr(health, "backlog_s" if name == "backlog_seconds" else name))


def _of_models(models: Mapping[str, Health]) -> Iterator[Metric]:
    """Yield the metrics of each of several models; a server with one has none of these."""
    for name, text in (_GAUGES | _COUNTERS | {"images": "Pictures painted."}).items() if models else ():
        family = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
        metric: Metric = family(f"inpaint_model_{name}", f"By model: {text}", labels=["model"])
        for model, health in models.items():
            metric.add_metric([model], _value(health, name))  # type: ignore[attr-defined]
        yield metric


_GAUGES = {
    "ready": "1 if requests can be painted now, else 0.",
    "waiting": "Requests that wait in the engine for their first step.",
    "running": "Requests between their first and their last step.",
    "backlog_seconds": "Predicted time until everything accepted is painted.",
}
_COUNTERS = {
    "restarts": "Worker processes restarted since the server started.",
    "row_steps": "Samples in UNet calls, summed over the calls.",
    "unet_calls": "UNet calls.",
    "out_of_memory": "Times that the device ran out of memory.",
}
