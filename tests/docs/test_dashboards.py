"""The dashboard and the alerts name metrics that the server exports, and sections that exist.

A panel with a misspelt metric stays empty, and an alert with one never rings: both look like all is well.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.engines.client import Health
from tests.conftest import ROOT
from tests.docs.test_operations import anchors
from tests.support.served import FakeEngine, PictureHost, body, server_for

if os.environ.get("CI"):
    import promql_parser as promql
else:  # a development environment from before it was asked for
    promql = pytest.importorskip("promql_parser", reason="no parser of PromQL: make install")

pytest_plugins = ["tests.support.served_fixtures"]

DEPLOY = ROOT / "docs" / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
GROUPS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text("utf-8"))["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = DASHBOARD["templating"]["list"]
BY_PROMETHEUS = {"job", "instance"}  # labels that it puts on everything it scrapes, as it makes `up`
Labels = dict[str, set[str]]


class Busy(FakeEngine):
    """One whose UNet has done something."""

    def health(self) -> Health:
        return replace(super().health(), steps={"2": (3, 500_000)}, row_steps=6, unet_calls=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Labels:
    """Each series of a real scrape, after a paid request, with its labels."""
    with server_for(tmp_path_factory.mktemp("data"), picture_host, Busy(), metering=True) as served:
        key = served.key(balance=100, scopes=("sdxl-inpaint", "metrics"))
        with served.calling(key=key) as client:
            assert client.post("/v1/sdxl-inpaint", json=body()).status_code == 200
            text = client.get("/metrics").text
    found: Labels = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def panel_expressions() -> Iterator[tuple[str, str, str]]:
    """(where, expression, legend)."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


def queries() -> Iterator[tuple[str, str, str]]:
    """The variables' (which, selector, label)."""
    for variable in VARIABLES:
        if variable["type"] == "query":
            inside = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert inside, variable["definition"]
            assert variable["query"]["query"] == variable["definition"]
            yield variable["name"], inside[1], inside[2]


def expressions() -> list[tuple[str, str]]:
    """Everything that Prometheus is asked."""
    asked = [(title, expr) for title, expr, _ in panel_expressions()]
    asked += [(name, selector) for name, selector, _ in queries()]
    return asked + [(rule["alert"], rule["expr"]) for rule in ALERTS]


def parse(expression: str) -> Any:
    """Its tree; Grafana's own variables stand for what it would put there."""
    return promql.parse(expression.replace("$__rate_interval", "5m"))


def nodes(expression: str) -> list[Any]:
    found: list[Any] = []
    promql.walk(parse(expression), found.append)
    return found


def selectors(expression: str) -> list[Any]:
    return [node for node in nodes(expression) if isinstance(node, promql.VectorSelector)]


def groupings(expression: str) -> set[str]:
    """The labels of `by`, `without`, `on` and `ignoring`."""
    modifiers = [getattr(node, "modifier", None) for node in nodes(expression)]
    aggregated = {label for m in modifiers for label in getattr(m, "labels", None) or []}
    matched = [getattr(m, "matching", None) for m in modifiers]
    return aggregated | {label for m in matched for label in getattr(m, "labels", None) or []}


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_and_label_is_exported(where: str, expression: str, exported: Labels) -> None:
    """As a real scrape has them."""
    used = selectors(expression)
    assert used, "asks for nothing"
    for selector in used:
        assert selector.name in exported, f"{where}: no metric is called {selector.name}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in exported[selector.name] | BY_PROMETHEUS, f"{where}: {matcher.name}"
    common = set.intersection(*(exported[selector.name] for selector in used))
    assert groupings(expression) <= common | BY_PROMETHEUS, where


def test_every_legend_and_variable_names_a_label_that_is_there(exported: Labels) -> None:
    """Else all lines have the same empty name."""
    for title, expression, legend in panel_expressions():
        kept = groupings(expression) or set.union(*(exported[s.name] for s in selectors(expression)))
        named = set(re.findall(r"{{\s*(\w+)\s*}}", legend))
        assert named <= kept | (set() if groupings(expression) else BY_PROMETHEUS), title
    for name, selector, label in queries():
        (metric,) = (s.name for s in selectors(selector))
        assert label in exported[metric] | BY_PROMETHEUS, name


def test_every_metric_is_looked_at_somewhere(exported: Labels) -> None:
    """A metric on no panel and in no alert is not worth exporting."""
    seen = {selector.name for _, expression in expressions() for selector in selectors(expression)}
    families = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in exported}
    assert families == {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in seen}


def test_every_variable_that_is_used_is_there() -> None:
    """Grafana sends an unknown one as it stands, and nothing matches."""
    names = {variable["name"] for variable in VARIABLES} | {"__rate_interval"}
    assert {"job", "instance"} <= names
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) <= names


def test_every_panel_says_what_it_shows() -> None:
    """Title, unit and a sentence, on whichever Prometheus the reader has; ids differ, nothing overlaps."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24, panel["title"]
        cells |= own
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """An alert is read at three in the morning, by an operator who has never seen the project."""
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert promql.parse_duration(rule["for"]).total_seconds() > 0
    annotations = rule["annotations"]
    for text in (annotations["summary"], annotations["description"]):
        assert re.fullmatch(r"[A-Z][^\n]*\.", text), text
    page, _, anchor = annotations["runbook"].partition("#")
    assert anchor in anchors((ROOT / page).read_text("utf-8")), annotations["runbook"]


def test_alert_names_are_unlike() -> None:
    """Silencing one must not silence another."""
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names) >= 8
