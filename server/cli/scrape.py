"""Readings of a server's ``/metrics``, and the figures of ``inpaint top`` from them; no HTTP, no terminal."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Series = Mapping[str, Mapping[Labels, float]]  # metric name → labels → value
_API = re.compile(r"/v\d+/")  # not the page, the probes or Prometheus


@dataclass(frozen=True, slots=True)
class Scrape:
    """One reading of ``/metrics``."""

    at: float  # seconds of a monotonic clock
    ready: bool  # as ``/readyz`` says
    series: Series

    def value(self, name: str) -> float:
        """Return the value of a metric without labels; 0 if it is not exported."""
        return self.series.get(name, {}).get(frozenset(), 0.0)

    @property
    def models(self) -> list[str]:
        """The names of the models of a server that has several."""
        return [dict(labels)["model"] for labels in self.series.get("inpaint_model_ready", {})]

    def of_model(self, name: str, model: str) -> float:
        """Return the value of a metric of one model."""
        return self.series.get(f"inpaint_model_{name}", {}).get(frozenset({("model", model)}), 0.0)


def parse(text: str) -> Series:
    """Return the series of a scrape; none if ``text`` is not in Prometheus' format."""
    series: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series.setdefault(sample.name, {})[frozenset(sample.labels.items())] = float(sample.value)
    except (ValueError, IndexError):  # what the parser raises for the text of another kind of server
        return {}
    return series


@dataclass(frozen=True, slots=True)
class Route:
    """The requests of one of the API's routes."""

    per_s: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """The state of one of a server's models."""

    ready: bool
    waiting: int
    running: int
    backlog_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The state of a server, and its rates since an earlier reading; None where there was no such reading."""

    state: str
    ready: bool
    waiting: int
    running: int
    backlog_s: float
    out_of_memory: int  # since the server started, like the next two
    restarts: int
    keys_adrift: int  # keys whose balance is not the sum of their ledger entries
    window_s: float | None = None  # between the two readings
    statuses_per_s: Mapping[str, float] | None = None
    pictures_per_s: float | None = None
    steps_per_s: float | None = None  # denoising steps × samples; samplers of two calls a step count twice
    rows_a_call: float | None = None
    routes: Mapping[str, Route] | None = None
    models: Mapping[str, ModelFigures] = field(default_factory=dict)  # if it has several


def figures(now: Scrape, before: Scrape | None = None) -> Figures:
    """Return the figures of one reading, with rates if an earlier reading of the same server is given."""
    momentary = Figures(
        state=_state(now),
        ready=now.ready,
        waiting=round(now.value("inpaint_waiting")),
        running=round(now.value("inpaint_running")),
        backlog_s=now.value("inpaint_backlog_seconds"),
        out_of_memory=round(now.value("inpaint_out_of_memory_total")),
        restarts=round(now.value("inpaint_restarts_total")),
        keys_adrift=round(now.value("inpaint_ledger_drift_keys")),
        models={model: _model(now, model) for model in now.models},
    )
    if before is None or now.at <= before.at:
        return momentary
    return _with_rates(momentary, _Interval(before, now))


def _model(now: Scrape, model: str) -> ModelFigures:
    return ModelFigures(
        ready=bool(now.of_model("ready", model)),
        waiting=round(now.of_model("waiting", model)),
        running=round(now.of_model("running", model)),
        backlog_s=now.of_model("backlog_seconds", model),
    )


def _state(now: Scrape) -> str:
    """Guess the server's state in words; the API itself says only whether it is ready."""
    if now.ready:
        return "ready"
    if now.value("inpaint_ready"):
        return "shutting down: it finishes what it has and accepts nothing more"
    if not now.value("inpaint_unet_calls_total"):
        return "not ready: nothing has been painted yet; the model is probably being loaded"
    return "not ready: its engine is unreachable and is being restarted; see the server's log"


@dataclass(frozen=True, slots=True)
class _Interval:
    """The time between two readings, and how the counters grew in it."""

    before: Scrape
    now: Scrape

    @property
    def seconds(self) -> float:
        return self.now.at - self.before.at

    def growth(self, name: str) -> Mapping[Labels, float]:
        """Return how much each series of a counter grew; series with a route count for the API's alone."""
        earlier, growth = self.before.series.get(name, {}), {}
        for labels, value in self.now.series.get(name, {}).items():
            was = earlier.get(labels, 0.0)
            if _API.match(dict(labels).get("route", "/v1/")):
                # A counter that fell began again at 0: the server was restarted.
                growth[labels] = value - was if value >= was else value
        return growth

    def rates(self, name: str, label: str) -> dict[str, float]:
        """Return the growth per second for each value of ``label``, without values that did not grow."""
        rates: dict[str, float] = {}
        for labels, n in self.growth(name).items():
            value = dict(labels)[label]
            rates[value] = rates.get(value, 0.0) + n / self.seconds
        return {value: rate for value, rate in sorted(rates.items()) if rate}

    def total(self, name: str) -> float:
        """Return the growth summed over all labels."""
        return sum(self.growth(name).values())

    def route(self, route: str, per_s: float) -> Route:
        """Return the figures of one route, whose rate is ``per_s``."""
        series = [(dict(labels), n) for labels, n in self.growth("inpaint_request_seconds_bucket").items()]
        buckets = [(float(labels["le"]), n) for labels, n in series if labels["route"] == route]
        return Route(per_s, quantile(buckets, 0.5), quantile(buckets, 0.95))


def _with_rates(momentary: Figures, interval: _Interval) -> Figures:
    seconds, calls = interval.seconds, interval.total("inpaint_unet_calls_total")
    row_steps = interval.total("inpaint_row_steps_total")
    rates = interval.rates("inpaint_request_seconds_count", "route")
    return replace(
        momentary,
        window_s=seconds,
        statuses_per_s=interval.rates("inpaint_requests_total", "status"),
        pictures_per_s=interval.total("inpaint_images_total") / seconds,
        steps_per_s=row_steps / seconds,
        rows_a_call=row_steps / calls if calls else None,
        routes={route: interval.route(route, per_s) for route, per_s in rates.items()},
    )


def quantile(buckets: Iterable[tuple[float, float]], share: float) -> float:
    """Return the seconds within which ``share`` of the requests ended, as PromQL's ``histogram_quantile``.

    Args:
        buckets: (upper bound in seconds, requests that took at most that), the last bound infinite.
        share: from 0 to 1.
    """
    low, below = 0.0, 0.0
    points = sorted(buckets)
    rank = share * points[-1][1]
    for bound, count in points:
        if count >= rank and count > below:
            return low if bound == inf else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low
