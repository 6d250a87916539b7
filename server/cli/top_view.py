"""The view of ``inpaint top`` on a terminal, wide or narrow."""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from inpaint.cli.terminal import printable
from inpaint.errors import InpaintError
from server.cli.scrape import Figures

_MAX_ROUTES = 8  # the busiest ones


def view(url: str, seen: Figures | InpaintError) -> RenderableType:
    """Return the whole view, or the reason why there is nothing to show at the moment."""
    if isinstance(seen, InpaintError):
        return Group(_heading(url, "no answer", "bold red"), Text(printable(str(seen))))
    first, _, rest = seen.state.partition(":")
    parts: list[RenderableType] = [_heading(url, first, "bold green" if seen.ready else "bold red")]
    if rest:
        parts.append(Text(printable(rest.strip())))
    return Group(*parts, Text(), _now(seen), *_models(seen), Text(), *_requests(seen))


def _heading(url: str, state: str, style: str) -> Text:
    return Text.assemble((printable(url), "bold"), "  ", (f"● {printable(state)}", style), overflow="fold")


def _now(seen: Figures) -> RenderableType:
    cells = [
        _cell("waiting", str(seen.waiting)),
        _cell("running", str(seen.running)),
        _cell("backlog", _seconds(seen.backlog_s)),
        _cell("pictures/s", _rate(seen.pictures_per_s)),
        _cell("steps/s", _rate(seen.steps_per_s)),
        _cell("samples a call", "–" if seen.rows_a_call is None else f"{seen.rows_a_call:.1f}"),
        _cell("out of memory", str(seen.out_of_memory), alert=seen.out_of_memory > 0),
        _cell("restarts", str(seen.restarts), alert=seen.restarts > 0),
    ]
    if seen.keys_adrift:
        cells.append(_cell("wrong balances", str(seen.keys_adrift), alert=True))
    return Columns(cells, padding=(0, 3), equal=True)


def _models(seen: Figures) -> Sequence[RenderableType]:
    if not seen.models:
        return []
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model", overflow="fold")
    for title in ("", "waiting", "running", "backlog"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, model in seen.models.items():
        state = Text("● ready", "green") if model.ready else Text("● not ready", "red")
        load = str(model.waiting), str(model.running), _seconds(model.backlog_s)
        table.add_row(Text(printable(name)), state, *load)
    return [Text(), table]


def _cell(label: str, value: str, *, alert: bool = False) -> Text:
    return Text.assemble((f"{value:>7}", "bold red" if alert else "bold"), " ", (label, "dim"))


def _requests(seen: Figures) -> Sequence[RenderableType]:
    if not seen.routes or seen.statuses_per_s is None:
        return [Text(f"no requests in the last {seen.window_s or 0:.0f} s", "dim")]
    statuses = Text(f"over {seen.window_s:.0f} s, requests/s  ", "dim")
    for status, rate in seen.statuses_per_s.items():
        style = "green" if status < "400" else "red" if status >= "500" else "yellow"
        statuses.append(f" {printable(status)} ", style).append(f"{_rate(rate)} ", "bold")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("route", overflow="fold")
    for title in ("/s", "p50", "p95"):
        table.add_column(title, justify="right", no_wrap=True, min_width=6)
    busiest = sorted(seen.routes.items(), key=lambda item: -item[1].per_s)[:_MAX_ROUTES]
    for name, route in busiest:
        table.add_row(Text(printable(name)), _rate(route.per_s), _seconds(route.p50_s), _seconds(route.p95_s))
    return [statuses, Text(), table]


def _rate(per_s: float | None) -> str:
    if per_s is None:
        return "–"
    if not per_s:
        return "0"
    return f"{per_s:.0f}" if per_s >= 100 else f"{per_s:.1f}" if per_s >= 10 else f"{per_s:.2f}"


def _seconds(seconds: float) -> str:
    if not seconds:
        return "0 s"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
