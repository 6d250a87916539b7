"""What Prometheus scrapes. One object an application, so that tests can have many."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import SummaryMetricFamily
from prometheus_client.registry import Collector

from server.client import Health

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


@dataclass(slots=True)
class Metrics:
    """Counters and histograms by the names that operators see."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    latency: Histogram = field(init=False)
    stages: Histogram = field(init=False)
    queue_wait: Histogram = field(init=False)
    images: Counter = field(init=False)
    steps: Counter = field(init=False)
    credits: Counter = field(init=False)
    ledger_drift: Gauge = field(init=False)
    engine: dict[str, Gauge] = field(init=False)
    step_seconds: "_StepSeconds" = field(init=False)

    def __post_init__(self) -> None:
        r = self.registry
        self.requests = Counter(
            "inpaint_requests", "HTTP requests by route and status.", ("route", "status"), registry=r
        )
        self.latency = Histogram(
            "inpaint_request_seconds",
            "From the first byte to the last.",
            ("route",),
            registry=r,
            buckets=_SECONDS,
        )
        self.stages = Histogram(
            "inpaint_stage_seconds",
            "fetch, read, encode, denoise, decode, write.",
            ("stage",),
            registry=r,
            buckets=_SECONDS,
        )
        self.queue_wait = Histogram(
            "inpaint_queue_wait_seconds", "Accepted, not yet painting.", registry=r, buckets=_SECONDS
        )
        self.images = Counter("inpaint_images", "Pictures painted.", registry=r)
        self.steps = Counter("inpaint_steps", "Denoising steps × samples of finished requests.", registry=r)
        self.credits = Counter("inpaint_credits", "Credits by what became of them.", ("kind",), registry=r)
        self.ledger_drift = Gauge(
            "inpaint_ledger_drift_keys",
            "Keys whose entries did not sum to their balance when that was last looked at.",
            registry=r,
        )
        self.step_seconds = _StepSeconds()
        r.register(self.step_seconds)
        self.engine = {
            name: Gauge(f"inpaint_{name}", text, registry=r) for name, text in _ENGINE_GAUGES.items()
        }

    def scrape(self, health: Health) -> bytes:
        """The text that Prometheus reads, with the engine's state of this moment."""
        for name, gauge in self.engine.items():
            gauge.set(
                float(getattr(health, name.removesuffix("_total").replace("backlog_seconds", "backlog_s")))
            )
        self.step_seconds.steps = health.steps
        return generate_latest(self.registry)


class _StepSeconds(Collector):
    """What the workers measured: seconds of the UNet calls by how many samples shared them."""

    def __init__(self) -> None:
        self.steps: Mapping[str, tuple[int, int]] = {}

    def collect(self) -> Iterator[SummaryMetricFamily]:
        """As ``inpaint_step_seconds_count`` and ``_sum``."""
        family = SummaryMetricFamily(
            "inpaint_step_seconds", "One denoising step, by the samples in it.", labels=["batch"]
        )
        for rows, (calls, micros) in sorted(self.steps.items(), key=lambda item: int(item[0])):
            family.add_metric([rows], calls, micros / 1e6)
        yield family


_ENGINE_GAUGES = {
    "ready": "1 when requests can be painted now.",
    "waiting": "Requests handed to the engine and not yet begun.",
    "running": "Requests between their first and their last step.",
    "backlog_seconds": "How long what is under way will still take.",
    "restarts": "Worker processes started again since the start.",
    "row_steps": "UNet calls × samples in them.",
    "unet_calls": "UNet calls.",
    "out_of_memory": "Times that the device's memory did not suffice.",
}
