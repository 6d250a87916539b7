"""A server's ``/metrics`` as read, and what happened between two readings. Knows no HTTP and no terminal.

The text format is Prometheus's own and small: the library that writes it comes with the server's extra, and
whoever looks need not have that.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf

Labels = frozenset[tuple[str, str]]
_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_API = re.compile(r"/v\d+/")  # not the page, the probes, or whoever scrapes


@dataclass(frozen=True, slots=True)
class Scrape:
    """One reading."""

    at: float  # seconds on any clock that only goes forward
    ready: bool  # as ``/readyz`` says
    series: Mapping[str, Mapping[Labels, float]]  # name → labels → value

    def value(self, name: str) -> float:
        """Of a metric without labels; 0 where it is not exported."""
        return self.series.get(name, {}).get(frozenset(), 0.0)


def parse(text: str) -> Mapping[str, Mapping[Labels, float]]:
    """The series of a scrape; lines that are none are passed over."""
    series: dict[str, dict[Labels, float]] = {}
    for line in text.split("\n"):  # a label may hold what `splitlines` takes for an end
        found = _LINE.fullmatch(line)
        if found is not None:
            labels = [(name, _plain(value)) for name, value in _LABEL.findall(found[2] or "")]
            try:
                series.setdefault(found[1], {})[frozenset(labels)] = float(found[3])
            except ValueError:
                continue
    return series


def _plain(value: str) -> str:
    return re.sub(r"\\.", lambda escape: _ESCAPED.get(escape[0], escape[0]), value)


@dataclass(frozen=True, slots=True)
class Route:
    """What came in on one of the API's routes."""

    per_s: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """A server now, and since an earlier reading; None is for what nothing is known of."""

    state: str
    ready: bool
    waiting: int
    running: int
    backlog_s: float
    out_of_memory: int  # since the server started, as the next two
    restarts: int
    keys_adrift: int
    window_s: float | None = None
    statuses_per_s: Mapping[str, float] | None = None
    pictures_per_s: float | None = None
    steps_per_s: float | None = None  # denoising steps × samples; samplers of two calls a step count twice
    rows_a_call: float | None = None
    routes: Mapping[str, Route] | None = None


def figures(now: Scrape, before: Scrape | None = None) -> Figures:
    """What two readings of one server say, or one alone."""
    momentary = Figures(
        state=_state(now),
        ready=now.ready,
        waiting=round(now.value("inpaint_waiting")),
        running=round(now.value("inpaint_running")),
        backlog_s=now.value("inpaint_backlog_seconds"),
        out_of_memory=round(now.value("inpaint_out_of_memory_total")),
        restarts=round(now.value("inpaint_restarts_total")),
        keys_adrift=round(now.value("inpaint_ledger_drift_keys")),
    )
    if before is None or now.at <= before.at:
        return momentary
    return _with_rates(momentary, _Between(before, now))


def _state(now: Scrape) -> str:
    """As far as the API says it, which tells strangers no more than whether it is ready."""
    if now.ready:
        return "ready"
    if now.value("inpaint_ready"):
        return "going down: finishes what it has and takes nothing more"
    if not now.value("inpaint_unet_calls_total"):
        return "not ready: nothing was painted yet, the model is probably being loaded"
    return "not ready: its engine is away and is being started again; the server's log says why"


@dataclass(frozen=True, slots=True)
class _Between:
    """Two readings."""

    before: Scrape
    now: Scrape

    @property
    def seconds(self) -> float:
        return self.now.at - self.before.at

    def grown(self, name: str) -> Mapping[Labels, float]:
        """How much each series of a counter grew; of the API's routes alone, where it tells routes apart."""
        earlier, grown = self.before.series.get(name, {}), {}
        for labels, value in self.now.series.get(name, {}).items():
            was = earlier.get(labels, 0.0)
            if _API.match(dict(labels).get("route", "/v1/")):
                # One that fell began again at 0: the server was started anew.
                grown[labels] = value - was if value >= was else value
        return grown

    def rates(self, name: str, label: str) -> dict[str, float]:
        """Growth a second by one label, less what did not grow."""
        found: dict[str, float] = {}
        for labels, n in self.grown(name).items():
            value = dict(labels)[label]
            found[value] = found.get(value, 0.0) + n / self.seconds
        return {value: rate for value, rate in sorted(found.items()) if rate}

    def total(self, name: str) -> float:
        """Growth over all labels."""
        return sum(self.grown(name).values())

    def route(self, route: str, per_s: float) -> Route:
        """One route with its latencies."""
        buckets = [
            (float(told["le"]), n)
            for told, n in ((dict(k), n) for k, n in self.grown("inpaint_request_seconds_bucket").items())
            if told["route"] == route
        ]
        return Route(per_s, quantile(buckets, 0.5), quantile(buckets, 0.95))


def _with_rates(momentary: Figures, between: _Between) -> Figures:
    seconds, calls = between.seconds, between.total("inpaint_unet_calls_total")
    row_steps = between.total("inpaint_row_steps_total")
    rates = between.rates("inpaint_request_seconds_count", "route")
    return replace(
        momentary,
        window_s=seconds,
        statuses_per_s=between.rates("inpaint_requests_total", "status"),
        pictures_per_s=between.total("inpaint_images_total") / seconds,
        steps_per_s=row_steps / seconds,
        rows_a_call=row_steps / calls if calls else None,
        routes={route: between.route(route, per_s) for route, per_s in rates.items()},
    )


def quantile(buckets: Iterable[tuple[float, float]], share: float) -> float:
    """Within how many seconds a share of all ended, as PromQL's ``histogram_quantile`` draws the line.

    Args:
        buckets: (upper bound, how many took at most that), the last bound infinite.
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
